"""`relic slurm RECIPE`: the same flags as `relic pretrain`, as a batch script."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import tyro

from relic import recipes
from relic.config import RunConfig, run_directory
from relic.flags import parse
from relic.slurm import Allocation


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Flags of `relic slurm RECIPE`: every field of the recipe, and what is asked of Slurm."""

    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    allocation: Annotated[Allocation, tyro.conf.arg(name="")] = field(default_factory=Allocation)
    out: Path | None = None
    """File for the script; None prints it."""
    submit: bool = False
    """Hand the script to sbatch and print the job's number."""


def slurm(arguments: list[str]) -> int:
    """Write a batch script that pretrains with a recipe, once the recipe has been checked against its data."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        print("relic slurm: error: the recipe comes first: relic slurm RECIPE --data FILE.beton", file=sys.stderr)
        return 2
    recipe = recipes.get(arguments[0])
    prog = f"relic slurm {arguments[0]}"
    status, chosen = parse(Submission, arguments[1:], prog=prog, default=Submission(run=recipe))
    if chosen is None:
        return status
    return _write(chosen, ["pretrain", arguments[0], *without_own_flags(arguments[1:])])


slurm.parses_arguments = True  # the recipe's values are the defaults of the flags


def without_own_flags(arguments: list[str]) -> list[str]:
    """Return the flags that `relic pretrain` takes: all but those of the allocation, --out and --submit."""
    with_value = {f"--{own.name.replace('_', '-')}" for own in fields(Allocation)} | {"--out"}
    rest, places = [], iter(arguments)
    for argument in places:
        flag, is_joined, _ = argument.partition("=")
        flag = flag.replace("_", "-")
        if flag in with_value:
            if not is_joined:
                next(places)
        elif flag not in ("--submit", "--no-submit"):
            rest.append(argument)
    return rest


def _write(chosen: Submission, command: list[str]) -> int:
    from relic.dry_run import dry_run
    from relic.slurm import render, submit

    plan = dry_run(chosen.run, rate=None, world_size=chosen.allocation.world_size, num_nodes=chosen.allocation.nodes)
    script = render(
        chosen.allocation,
        [sys.executable, "-m", "relic", *command],
        name=run_directory(chosen.run).name,
        folder=Path.cwd(),
        plan=plan,
    )
    if chosen.out is not None:
        chosen.out.write_text(script)
    if chosen.submit:
        print(submit(script))
    elif chosen.out is None:
        print(script, end="")
    return 0


def _overview() -> str:
    lines = [
        "usage: relic slurm RECIPE --data FILE.beton [--FIELD VALUE ...] [--nodes N] [--gpus-per-node N]",
        "                   [--cpus-per-gpu N] [--hours H] [--partition P] [--account A] [--out FILE] [--submit]",
        "",
        *(f"  {name:<24} {(make.__doc__ or '').strip().splitlines()[0]}" for name, make in recipes.RECIPES.items()),
        "",
        "`relic slurm RECIPE --help` lists every field with its value in that recipe.",
    ]
    return "\n".join(lines)
