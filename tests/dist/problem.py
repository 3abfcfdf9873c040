"""Ten steps on made-up views, by one process or by several: what the processes of `ten_steps.py` and the test share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from pipelines.contract import Batch
from relic import recipes
from relic.config import LossConfig, ModelConfig, OptimConfig, RunConfig
from relic.distributed import World
from relic.losses import draw_negatives
from relic.precision import DTYPES
from relic.state import TrainState, build_state
from relic.step import train_step

IMAGES, STEPS, RATE, DECAY = 16, 10, 0.05, 0.9
MODEL = ModelConfig(backbone="resnet18x0.125", stem="cifar", projector_hidden=16, predictor_hidden=16, projection_dim=8)

CASES: dict[str, dict] = {
    "local": {},
    "global": {"loss": LossConfig(num_negatives=5, negatives_from="global")},
    "all global": {"loss": LossConfig(num_negatives=None, negatives_from="global")},
    "concatenated": {"model": replace(MODEL, concatenate_views=True)},
    "accumulated": {"optim": OptimConfig(name="lars", accumulate=2), "loss": LossConfig(num_negatives=1)},
    "supervised": {"loss": LossConfig(kind="supervised")},
    "compiled": {"compile": True},
}


@contextmanager
def in_float64() -> Iterator[None]:
    """Let float32 mean float64: ten updates amplify a rounding a millionfold, and here what is left of it is small."""
    DTYPES["float32"] = torch.float64
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        DTYPES["float32"] = torch.float32
        torch.set_default_dtype(torch.float32)


def configuration(case: str) -> RunConfig:
    base = replace(
        recipes.get("cifar10_r18"),
        model=MODEL,
        optim=OptimConfig(name="lars"),
        precision="float32",
        loss=LossConfig(num_negatives=3),
    )
    return replace(base, **CASES[case])


def batch(step: int, rank: int = 0, world_size: int = 1) -> Batch:
    """Return this rank's share of the step's views; the ranks' shares one after the other are the whole batch."""
    generator = torch.Generator().manual_seed(step)
    own = slice(rank * IMAGES // world_size, (rank + 1) * IMAGES // world_size)

    def views(count: int, side: int) -> list[torch.Tensor]:
        made = (torch.randint(0, 256, (IMAGES, side, side, 3), generator=generator).byte() for _ in range(count))
        return [view[own] for view in made]

    return Batch(
        index=torch.arange(IMAGES)[own], label=(torch.arange(IMAGES) % 3)[own], large=views(2, 16), small=views(2, 8)
    )


def negatives(config: RunConfig, step: int, rank: int, world_size: int) -> list[torch.Tensor | None]:
    """Return the negatives of this rank's images, a table per part: local ones, or of the whole batch."""
    number, parts = config.loss.num_negatives, config.optim.accumulate
    if number is None or config.loss.kind == "supervised":
        return [None] * parts
    if config.loss.negatives_from == "global":
        table = torch.from_numpy(draw_negatives(IMAGES, number, seed=0, step=step))
        return [table.chunk(world_size)[rank]]
    size = IMAGES // world_size // parts
    return [
        torch.from_numpy(draw_negatives(size, number, seed=part, step=step * world_size + rank))
        for part in range(parts)
    ]


def run(case: str, world: World) -> dict:
    """Do the steps; return losses, the first step's gradients, and all parameters and buffers."""
    config = configuration(case)
    state = build_state(config, world, num_classes=3)
    losses, gradients = [], {}
    for step in range(STEPS):
        table = negatives(config, step, world.rank, world.world_size)
        losses.append(one_step(state, batch(step, world.rank, world.world_size), table))
        if step == 0:
            gradients = {
                name: parameter.grad.clone()
                for name, parameter in state.model.named_parameters()
                if parameter.grad is not None
            }
    return {"losses": losses, "gradients": gradients, "model": state.model.state_dict()}


def one_step(state: TrainState, views: Batch, table: list[torch.Tensor | None]) -> float:
    return float(train_step(state, views, table, learning_rate=RATE, target_decay=DECAY)["loss"])
