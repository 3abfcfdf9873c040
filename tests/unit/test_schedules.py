"""Schedules against their formulas at the ends, the middle and beyond; durations and their errors."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relic.schedules import duration_steps, learning_rate, scaled_learning_rate, target_decay

IMAGENET = {"num_images": 1_281_167, "batch_size": 4096}


def test_learning_rate_warms_up_then_follows_half_a_cosine() -> None:
    rates = [learning_rate(step, base=4.8, total_steps=110, warmup_steps=10) for step in range(112)]
    assert rates[:11] == pytest.approx([0.48 * step for step in range(11)])
    assert rates[35] == pytest.approx(4.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[60] == pytest.approx(2.4)
    assert rates[109] == pytest.approx(4.8 * (1 + math.cos(math.pi * 0.99)) / 2)
    assert rates[110:] == [0, 0]


def test_learning_rate_without_warmup_starts_at_the_peak() -> None:
    assert learning_rate(0, base=0.3, total_steps=10, warmup_steps=0) == 0.3


@pytest.mark.parametrize("step", [4, 5])
def test_a_run_of_warmup_alone_ends_at_zero(step: int) -> None:
    assert learning_rate(step, base=1.0, total_steps=5, warmup_steps=5) == (0.8 if step == 4 else 0)


@pytest.mark.parametrize("warmup_steps", [-1, 11])
def test_a_warmup_that_does_not_fit_is_named(warmup_steps: int) -> None:
    with pytest.raises(ValueError, match=re.escape(f"warmup_steps={warmup_steps} is not in [0, total_steps=10]")):
        learning_rate(0, base=1.0, total_steps=10, warmup_steps=warmup_steps)


def test_target_decay_grows_from_base_to_one() -> None:
    decays = [target_decay(step, base=0.99, total_steps=100) for step in range(102)]
    assert decays[0] == pytest.approx(0.99)
    assert decays[25] == pytest.approx(1 - 0.01 * (1 + math.cos(math.pi / 4)) / 2)
    assert decays[50] == pytest.approx(0.995)
    assert decays[100:] == [1, 1]
    assert decays == sorted(decays)


def test_steps_and_bases_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="step -1 is negative"):
        learning_rate(-1, base=1.0, total_steps=10, warmup_steps=0)
    with pytest.raises(ValueError, match="step -1 is negative"):
        target_decay(-1, base=0.9, total_steps=10)
    with pytest.raises(ValueError, match=r"target decay 1.5 is not in \[0, 1\]"):
        target_decay(0, base=1.5, total_steps=10)


def test_learning_rate_scales_with_the_batch() -> None:
    assert scaled_learning_rate(0.3, 4096) == pytest.approx(4.8)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("300ep", 300 * 312),
        ("0.5ep", 156),
        ("0ep", 0),
        ("500st", 500),
        ("12800im", 4),
        ("1im", 1),
        ("4096im", 1),
        ("50%", 500),
        ("0.1%", 1),
        ("0.05%", 1),
        ("33.3%", 333),
    ],
)
def test_durations_become_steps(duration: str, steps: int) -> None:
    assert duration_steps(duration, **IMAGENET, total_steps=1000) == steps


@given(epochs=st.integers(1, 1000), num_images=st.integers(1, 10**7), batch_size=st.integers(1, 10**4))
def test_epochs_are_whole_batches(epochs: int, num_images: int, batch_size: int) -> None:
    if num_images >= batch_size:
        steps = duration_steps(f"{epochs}ep", num_images=num_images, batch_size=batch_size)
        assert steps == epochs * (num_images // batch_size)


@pytest.mark.parametrize(
    ("duration", "message"),
    [
        ("300epochs", "duration '300epochs' is no number with a unit: did you mean '300ep'?"),
        ("300 ep", "did you mean '300ep'?"),
        ("300EP", "did you mean '300ep'?"),
        ("10 epoch", "did you mean '10ep'?"),
        ("500steps", "did you mean '500st'?"),
        ("500iters", "did you mean '500st'?"),
        ("12800imgs", "did you mean '12800im'?"),
        ("50percent", "did you mean '50%'?"),
        ("300", "did you mean '300ep' (epochs), '300st' (steps), '300im' (images), '300%' (of the run)?"),
        ("-3ep", "did you mean '3ep'?"),
        ("", "write it as '300ep', '500st', '12800im' or '50%'"),
        ("ep", "write it as '300ep', '500st', '12800im' or '50%'"),
        ("1.5st", "duration '1.5st' is no whole number: did you mean '2st'?"),
        ("50%", "duration '50%' is a share of the run it sets: use ep, st or im"),
    ],
)
def test_wrong_durations_name_the_right_one(duration: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        duration_steps(duration, **IMAGENET)
    assert "\n" not in str(raised.value)


def test_an_epoch_without_a_batch_is_named() -> None:
    with pytest.raises(ValueError, match="an epoch of 100 images has no batch of 256: lower batch_size"):
        duration_steps("3ep", num_images=100, batch_size=256)


def test_schedules_import_without_torch() -> None:
    code = "import sys, relic.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
