"""What a step draws beside views: negatives, and noise inside networks; pure functions of seed, step and rank."""

from __future__ import annotations

import numpy as np
import torch

from relic.config import RunConfig
from relic.distributed import World
from relic.losses import draw_negatives
from relic.plan import Plan


def negatives(config: RunConfig, plan: Plan, world: World, step: int) -> list[torch.Tensor | None]:
    """Return for each part of the local batch the negatives of its images, int64 [B, n] on the device.

    Indices are into that part; with global negatives into that part of all processes, in the order of the ranks, and
    they name the same images whatever the number of processes. None stands for all other images.
    """
    parts, size, number = config.optim.accumulate, plan.micro_batch_size, config.loss.num_negatives
    if config.loss.kind == "supervised" or number is None:
        return [None] * parts
    drawn = []
    for part in range(parts):
        if config.loss.negatives_from == "global":
            # The order deals images to the ranks in turn: the image at position p of a batch is image p // world_size
            # of rank p % world_size.
            chosen = draw_negatives(size * world.world_size, number, seed=config.seed, step=step * parts + part)
            chosen = chosen[world.rank :: world.world_size]
            chosen = chosen % world.world_size * size + chosen // world.world_size
        else:
            stream = (step * parts + part) * world.world_size + world.rank
            chosen = draw_negatives(size, number, seed=config.seed, step=stream)
        drawn.append(torch.from_numpy(chosen).to(world.device, non_blocking=True))
    return drawn


def seed_networks(seed: int, step: int, rank: int) -> None:
    """Seed torch for what networks draw (dropout, stochastic depth), so that a resumed step draws it again."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) >> 1)
