"""Cores of a process: what the scheduler grants, shared or already dealt out."""

from __future__ import annotations

import os

import pytest

from relic import cores


@pytest.mark.parametrize(
    ("launcher", "per_task", "expected"),
    [("torchrun", "4", 2), ("python", None, 2), ("srun", "4", 4), ("srun", "32", 16), ("srun", None, 2)],
)
def test_srun_has_dealt_its_cores_already(monkeypatch, launcher, per_task, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if per_task is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", per_task)
    assert cores.of_process(8, launcher) == expected
