"""`relic pretrain RECIPE` and `relic resume RUN`."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from relic import recipes
from relic.config import RunConfig, load
from relic.flags import parse


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Flags of `relic pretrain RECIPE`: every field of the recipe, and two that start nothing."""

    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    dry_run: bool = False
    """Print the plan (steps, images, peak learning rate, memory, images/s wanted, hours) and stop."""
    rate: float | None = None
    """With --dry-run: source images/s per GPU to reckon hours with."""
    gpus: int | None = None
    """With --dry-run: number of processes to plan for; by default those of this launch."""
    nodes: int | None = None
    """With --dry-run: number of machines that these are spread over."""


def pretrain(arguments: list[str]) -> int:
    """Pretrain with a recipe, from the newest checkpoint of the run on if there is one."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        print("relic pretrain: error: the recipe comes first: relic pretrain RECIPE --data FILE.beton", file=sys.stderr)
        return 2
    recipe = recipes.get(arguments[0])
    status, chosen = parse(Pretrain, arguments[1:], prog=f"relic pretrain {arguments[0]}", default=Pretrain(run=recipe))
    if chosen is None:
        return status
    if chosen.dry_run:
        from relic.dry_run import dry_run

        print(dry_run(chosen.run, rate=chosen.rate, world_size=chosen.gpus, num_nodes=chosen.nodes))
        return 0
    planned = {"--gpus": chosen.gpus, "--nodes": chosen.nodes, "--rate": chosen.rate}
    if any(value is not None for value in planned.values()):
        flags = ", ".join(flag for flag, value in planned.items() if value is not None)
        raise ValueError(f"{flags} plan a run (--dry-run) and start none: processes are started by torchrun or srun")
    return _train(chosen.run)


pretrain.parses_arguments = True  # the recipe's values are the defaults of the flags


def resume(run: tyro.conf.Positional[Path]) -> int:
    """Continue a run exactly where it stopped.

    Args:
        run: Run directory.
    """
    config = load(run / "config.yaml")
    return _train(dataclasses.replace(config, runs=str(run.parent), name=run.name))


def _train(config: RunConfig) -> int:
    from relic.preempt import Preempted, announce
    from relic.train import train

    try:
        train(config)
    except Preempted as preempted:
        return announce(preempted)
    return 0


def _overview() -> str:
    lines = ["usage: relic pretrain RECIPE --data FILE.beton [--masks FILE.masks] [--FIELD VALUE ...] [--dry-run]", ""]
    for name, function in recipes.RECIPES.items():
        lines.append(f"  {name:<24} {(function.__doc__ or '').strip().splitlines()[0]}")
    lines += ["", "`relic pretrain RECIPE --help` lists every field with its value in that recipe."]
    return "\n".join(lines)
