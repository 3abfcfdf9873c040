"""What a cluster does to several processes: one dies, one is told to stop, the number of processes changes."""

from __future__ import annotations

import itertools
import json
import signal
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from launch import PYTHON, Running, outcome, pretrain, same_bits, torchrun, write_data

from relic import checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Return the outcome of twenty undisturbed steps of two processes."""
    runs = tmp_path_factory.mktemp("straight")
    with Running(PYTHON, *torchrun(2), *pretrain(data, runs, "two")) as running:
        assert running.wait() == 0, "\n".join(running.lines)
        assert len(running.said("step ")) == 20  # rank 1 says nothing
    return outcome(runs, "two")


def test_a_killed_rank_is_named_and_torchrun_restarts_to_the_same_bits(data, straight, tmp_path):
    command = [*torchrun(2, "--max-restarts", "1"), *pretrain(data, tmp_path, "killed")]
    with Running(PYTHON, *command) as running:
        running.wait_for("step     10/20")
        running.signal(signal.SIGKILL, child=1)
        assert running.wait() == 0, "\n".join(running.lines)
    said = running.said("relic pretrain: error: rank 1 on ")
    assert len(said) == 1
    assert "is gone; run the same command again" in said[0]
    assert running.said("resumes at step 7")
    assert same_bits(outcome(tmp_path, "killed"), straight)


def test_a_signal_to_one_rank_saves_and_stops_all_and_the_rerun_gives_the_same_bits(data, straight, tmp_path):
    command = [*torchrun(2), *pretrain(data, tmp_path, "stopped", "--checkpoint.every", "100st")]
    with Running(PYTHON, *command) as running:
        running.wait_for("step      9/20")
        running.signal(signal.SIGUSR1, child=1)
        assert running.wait() != 0
    assert len(running.said("relic pretrain: stopped by a signal; step")) == 1
    assert running.said("exitcode  : 85")
    stopped_at = checkpoint.all_steps(tmp_path / "stopped")
    assert len(stopped_at) == 1
    with Running(PYTHON, *command) as again:
        assert again.wait() == 0, "\n".join(again.lines)
    assert again.said(f"resumes at step {stopped_at[0]}:")
    assert same_bits(outcome(tmp_path, "stopped"), straight)


def test_a_timed_checkpoint_is_written_once_though_wishes_are_a_step_old(data, tmp_path):
    always = ("--checkpoint.every", "100st", "--checkpoint.every-minutes", "1e-9", "--checkpoint.keep-last", "99")
    with Running(PYTHON, *torchrun(2), *pretrain(data, tmp_path, "timed", *always)) as running:
        assert running.wait() == 0, "\n".join(running.lines)
    steps = checkpoint.all_steps(tmp_path / "timed")
    assert len(steps) > 5
    assert all(later - earlier > 1 for earlier, later in itertools.pairwise(steps[:-1]))  # the last is the run's end


def test_another_number_of_processes_goes_on_with_the_same_images_and_negatives(data, tmp_path):
    """With negatives of the whole batch, what a step computes does not depend on who computes it."""
    # AdamW would turn the noise of a zero gradient (a bias before batch norm) into whole steps, and at ten times this
    # rate every step multiplies a rounding by ten.
    plain = ("--optim.name", "sgd", "--optim.base-learning-rate", "0.03")
    everywhere = ("--loss.negatives-from", "global", "--loss.num-negatives", "5", *plain)
    with Running(PYTHON, *pretrain(data, tmp_path, "one", *everywhere)) as running:
        assert running.wait() == 0, "\n".join(running.lines)
    with Running(PYTHON, *torchrun(2), *pretrain(data, tmp_path, "changed", *everywhere)) as running:
        running.wait_for("step      8/20")
        running.signal(signal.SIGTERM, child=0)
        assert running.wait() != 0
    stopped_at = checkpoint.newest(tmp_path / "changed")
    assert stopped_at is not None
    assert stopped_at.stem < "step-000019"
    with Running(PYTHON, *pretrain(data, tmp_path, "changed", *everywhere)) as running:
        assert running.wait() == 0, "\n".join(running.lines)
    assert running.said(f"resumes at step {int(stopped_at.stem.removeprefix('step-'))}:")
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            if '"loss"' in line
        ]
        for name in ("one", "changed")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)  # seen: 6e-7
    left, right = (outcome(tmp_path, name)["model"] for name in ("one", "changed"))
    for name in left:
        torch.testing.assert_close(right[name], left[name], rtol=1e-2, atol=1e-2)


def test_an_error_of_one_rank_is_told_once_by_one_line(data, tmp_path):
    wrong = pretrain(data, tmp_path, "wrong", "--loss.num-negatives", "12")  # of 8 images per process
    with Running(PYTHON, *torchrun(2), *wrong) as running:
        assert running.wait() != 0
    assert len(running.said("relic pretrain: error: loss.num_negatives=12 does not fit")) == 1
