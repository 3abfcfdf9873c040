"""Signals, numbers that are not finite, two jobs for one run: what is said, what is saved, what the rerun does."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_exact_resume import assert_same_bits, small_run

import relic.train
from relic import checkpoint, preempt
from relic.cli import main
from relic.config import CheckpointConfig, OptimConfig
from relic.lock import only_writer
from relic.preempt import Preempted
from relic.train import train


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action) -> list[list[int]]:
    """Do something in the middle of an update; returns the images of every step, as it goes."""
    real, seen = relic.train.train_step, []

    def disturbed(state, batch, *arguments, **options):
        seen.append(batch.index.tolist())
        if len(seen) == step:
            action(state)
        return real(state, batch, *arguments, **options)

    monkeypatch.setattr(relic.train, "train_step", disturbed)
    return seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_at_the_end_of_the_step_and_the_rerun_gives_the_same_bits(
    number, tmp_path, tiny_beton, tiny_masks, monkeypatch
):
    rarely = CheckpointConfig(every="50st")
    train(small_run(tmp_path / "straight", tiny_beton, tiny_masks, duration="9st", checkpoint=rarely))
    stopped = small_run(tmp_path / "stopped", tiny_beton, tiny_masks, duration="9st", checkpoint=rarely)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda state: os.kill(os.getpid(), number))
        with pytest.raises(Preempted, match="step 4 is saved: run the same command again"):
            train(stopped)
    assert signal.getsignal(number) is before
    assert checkpoint.all_steps(tmp_path / "stopped" / "test") == [4]
    train(stopped)
    left, right = (checkpoint.read(checkpoint.path_of(tmp_path / n / "test", 9)) for n in ("straight", "stopped"))
    for saved in (left, right):
        saved["config"].pop("runs")
    assert_same_bits(left, right)


def test_a_command_that_was_stopped_exits_with_85_and_asks_slurm_to_requeue(tmp_path, monkeypatch, capsys):
    asked = tmp_path / "asked"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("RELIC_REQUEUE", "1")
    assert preempt.announce(Preempted(12)) == 85
    assert asked.read_text() == "requeue 77\n"
    assert capsys.readouterr().err.splitlines() == [
        "relic pretrain: stopped by a signal; step 12 is saved: run the same command again to go on",
        "relic pretrain: Slurm requeued job 77",
    ]
    assert preempt.announce(Preempted(12, is_main=False)) == 85
    assert asked.read_text() == "requeue 77\n"


def test_a_refused_requeue_is_said(tmp_path, monkeypatch):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'Job is not requeuable' >&2; exit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("RELIC_REQUEUE", "1")
    assert preempt.requeue() == "Slurm did not requeue job 77: Job is not requeuable; submit it again to go on"
    monkeypatch.delenv("RELIC_REQUEUE")
    assert preempt.requeue() is None  # a job that holds more than this run


def test_nobody_is_asked_outside_of_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("RELIC_REQUEUE", "1")
    assert preempt.requeue() is None


def test_a_step_that_is_not_finite_ends_the_run_before_it_is_saved_and_lists_its_images(
    tmp_path, tiny_beton, tiny_masks, monkeypatch
):
    def spoil(state):
        with torch.no_grad():
            next(state.model.online.parameters()).fill_(float("nan"))

    seen = at_step(monkeypatch, 9, spoil)
    with pytest.raises(ValueError, match=r"not finite in step 9: .*nonfinite-step-000009.json lists its images"):
        train(small_run(tmp_path, tiny_beton, tiny_masks))
    run = tmp_path / "test"
    assert checkpoint.all_steps(run) == [7]
    listed = json.loads((run / "nonfinite-step-000009.json").read_text())
    assert listed["indices"] == seen[8]
    assert (listed["step"], listed["epoch"], listed["seed"]) == (9, 2, 0)
    see = shlex.split(listed["see"])
    assert see[:2] == ["relic", "views"]
    assert see[see.index("--masks") + 1] == str(tiny_masks)
    assert main([*see[1:], "--out", str(tmp_path / "seen.png")]) == 0


def test_a_timed_checkpoint_needs_no_step_to_divide(tmp_path, tiny_beton, tiny_masks):
    often = CheckpointConfig(every="50st", every_minutes=1e-9, keep_last=9)
    run = train(small_run(tmp_path, tiny_beton, tiny_masks, duration="3st", checkpoint=often))
    assert checkpoint.all_steps(run) == [1, 2, 3]


def test_steps_that_are_kept_are_saved_too(tmp_path, tiny_beton, tiny_masks):
    kept = CheckpointConfig(every="50st", keep_every="2st", keep_last=1)
    run = train(small_run(tmp_path, tiny_beton, tiny_masks, duration="5st", checkpoint=kept))
    assert checkpoint.all_steps(run) == [2, 4, 5]


def test_a_full_disk_stops_the_run_with_one_line_and_the_rerun_goes_on(tmp_path, tiny_beton, tiny_masks, monkeypatch):
    def full(payload, file):
        raise OSError(28, "No space left on device")

    config = small_run(tmp_path, tiny_beton, tiny_masks, checkpoint=CheckpointConfig(every="7st"))
    with monkeypatch.context() as patch:
        at_step(patch, 9, lambda state: patch.setattr(checkpoint, "_serialise", full))
        with pytest.raises(
            OSError, match=r"step-000014.pt was not written \(No space left on device\); step-000007.pt is"
        ):
            train(config)
    run = train(config)
    assert checkpoint.all_steps(run) == [14, 20]


def test_two_jobs_do_not_write_one_run(tmp_path, tiny_beton, tiny_masks):
    run = tmp_path / "test"
    run.mkdir()
    code = (
        "import sys, time; from pathlib import Path; from relic.lock import only_writer\n"
        f"with only_writer(Path({str(run)!r})): print('held', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="is being written by another process"):
            train(small_run(tmp_path, tiny_beton, tiny_masks, duration="2st"))
        holder.kill()
    with only_writer(run):
        pass


def test_noise_inside_networks_is_drawn_again_by_the_resumed_step(tmp_path, tiny_beton, tiny_masks, monkeypatch):
    """Dropout depends on the step, not on what the process did before."""
    real = relic.train.build_state

    def with_dropout(*arguments, **options):
        state = real(*arguments, **options)
        state.model.online.projector.append(torch.nn.Dropout(0.5))
        return state

    monkeypatch.setattr(relic.train, "build_state", with_dropout)
    options = {"duration": "8st", "optim": OptimConfig(name="adamw", warmup="2st")}
    straight = train(small_run(tmp_path / "straight", tiny_beton, tiny_masks, **options))
    with monkeypatch.context() as patch:
        at_step(patch, 8, lambda state: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            train(small_run(tmp_path / "broken", tiny_beton, tiny_masks, **options))
    resumed = train(small_run(tmp_path / "broken", tiny_beton, tiny_masks, **options))
    left, right = (checkpoint.read(checkpoint.path_of(run, 8))["model"] for run in (straight, resumed))
    assert_same_bits(left, right)
