"""A loss or gradient that is not finite: which images it came from, so that their views can be drawn again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from pipelines import sampler
from relic.config import RunConfig
from relic.distributed import World
from relic.plan import Plan


def stop_if_found(step: int | None, config: RunConfig, plan: Plan, folder: Path, world: World) -> None:
    """End the run after a step that went wrong, before anything of it is saved.

    Args:
        step: number of the update, from 0; None where all was finite.
        config, plan, folder, world: of the run.

    Raises:
        ValueError: names the file that lists the batch.
    """
    if step is None:
        return
    path = folder / f"nonfinite-step-{step + 1:06d}.json"
    if world.is_main:
        path.write_text(json.dumps(batch_of(step, config, plan, folder), indent=1) + "\n")
    raise ValueError(
        f"loss or gradient is not finite in step {step + 1:,}: {path} lists its images and how to see their views;"
        " lower optim.base_learning_rate, lengthen optim.warmup or set optim.clip_norm, under another --name"
    )


def batch_of(step: int, config: RunConfig, plan: Plan, folder: Path) -> dict:
    """Return what a step saw: epoch, seed, and the images in the order in which the ranks are dealt them."""
    epoch, place = divmod(step, plan.steps_per_epoch)
    start = place * plan.batch_size
    order = sampler.order(plan.num_images, seed=config.seed, epoch=epoch, start=start, count=plan.batch_size)
    indices = order.tolist()
    see = ["relic", "views", config.data, "--recipe", str(folder), "--seed", config.seed, "--epoch", epoch]
    see += ["--masks", config.masks] if config.masks else []
    see += ["--plates", config.plates] if config.plates and config.views.background.mode == "swap" else []
    see += ["--indices", *indices[:4]]
    return {
        "step": step + 1,
        "epoch": epoch,
        "seed": config.seed,
        "data": config.data,
        "indices": indices,
        "see": shlex.join(map(str, see)),
    }
