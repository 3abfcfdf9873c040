"""Several processes compute what one process computes on the concatenated batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import problem

from pipelines.contract import Batch
from relic.distributed import World
from relic.state import build_state
from relic.step import split

ROOT = Path(__file__).parents[2]
ONE = World(device=torch.device("cpu"))
TOLERANCE = 1e-9  # float64; the largest difference seen was 3e-12 of a tensor's largest value


def torchrun(processes: int, *arguments: str) -> None:
    """Run a script in several processes on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


def joined(parts: list[Batch]) -> Batch:
    return Batch(
        index=torch.cat([part.index for part in parts]),
        label=torch.cat([part.label for part in parts]),
        large=[torch.cat(views) for views in zip(*(part.large for part in parts), strict=True)],
        small=[torch.cat(views) for views in zip(*(part.small for part in parts), strict=True)],
    )


@problem.in_float64()
def by_one_process(case: str, world_size: int) -> dict:
    """Do the same steps on the shares of all ranks, one after the other within each part of the batch."""
    config = problem.configuration(case)
    parts = config.optim.accumulate
    size = problem.IMAGES // world_size // parts
    state = build_state(config, ONE, num_classes=3)
    losses, gradients = [], {}
    for step in range(problem.STEPS):
        shares = [list(split(problem.batch(step, rank, world_size), parts)) for rank in range(world_size)]
        tables = [problem.negatives(config, step, rank, world_size) for rank in range(world_size)]
        whole = joined([shares[rank][part] for part in range(parts) for rank in range(world_size)])
        offset = 0 if config.loss.negatives_from == "global" else size
        joined_tables: list[torch.Tensor | None] = [
            None if tables[0][part] is None else torch.cat([tables[r][part] + r * offset for r in range(world_size)])
            for part in range(parts)
        ]
        losses.append(problem.one_step(state, whole, joined_tables))
        if step == 0:
            gradients = {n: p.grad.clone() for n, p in state.model.named_parameters() if p.grad is not None}
    return {"losses": losses, "gradients": gradients, "model": state.model.state_dict()}


def largest_difference(left: dict, right: dict) -> float:
    assert left.keys() == right.keys()
    return max(
        float(
            (left[name].double() - right[name].double()).abs().max() / left[name].double().abs().max().clamp_min(1e-3)
        )
        for name in left
    )


@pytest.fixture(scope="module", params=[2, 4])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    cases = [case for case in problem.CASES if case != "compiled" or request.param == 2]
    torchrun(request.param, str(Path(__file__).with_name("ten_steps.py")), str(folder), *cases)
    return request.param, folder


@pytest.mark.parametrize("case", [case for case in problem.CASES if case != "compiled"])
def test_processes_compute_what_one_does_on_the_whole_batch(case, outcomes):
    world_size, folder = outcomes
    expected = by_one_process(case, world_size)
    found = [torch.load(folder / f"{case}-{rank}.pt", weights_only=True) for rank in range(world_size)]
    # cross entropy is computed in float32 whatever the networks use
    assert found[0]["losses"] == pytest.approx(expected["losses"], rel=1e-6 if case == "supervised" else TOLERANCE)
    assert largest_difference(expected["gradients"], found[0]["gradients"]) < TOLERANCE
    assert largest_difference(expected["model"], found[0]["model"]) < TOLERANCE  # running statistics among it
    for other in found[1:]:
        assert all(torch.equal(found[0]["model"][name], other["model"][name]) for name in found[0]["model"])


def test_compiled_networks_of_two_processes_agree_with_plain_ones(outcomes):
    world_size, folder = outcomes
    if world_size != 2:
        pytest.skip("compiled for two processes only: it takes a minute")
    plain, compiled = (torch.load(folder / f"{case}-0.pt", weights_only=True) for case in ("local", "compiled"))
    assert compiled["losses"] == pytest.approx(plain["losses"], rel=TOLERANCE)


def test_the_comparison_sees_statistics_that_are_not_shared(outcomes):
    world_size, folder = outcomes
    if world_size != 2:
        pytest.skip("once is enough")
    expected = by_one_process("local", 1)  # other negatives
    found = torch.load(folder / "local-0.pt", weights_only=True)
    assert largest_difference(expected["model"], found["model"]) > 1e-3
