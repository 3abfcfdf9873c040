"""Negatives are other images, uniform, and a pure function of seed and step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relic.losses import draw_negatives


@given(
    batch_size=st.integers(2, 40),
    data=st.data(),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**64 - 1),
)
def test_negatives_are_other_images_of_the_batch(batch_size: int, data: st.DataObject, seed: int, step: int) -> None:
    num_negatives = data.draw(st.integers(1, batch_size - 1))
    negatives = draw_negatives(batch_size, num_negatives, seed=seed, step=step)
    assert negatives.shape == (batch_size, num_negatives)
    assert negatives.dtype == np.int64
    assert negatives.min() >= 0
    assert negatives.max() < batch_size
    assert not (negatives == np.arange(batch_size)[:, None]).any()


def test_every_other_image_is_equally_likely() -> None:
    counts = np.zeros((5, 5))
    for step in range(2500):
        np.add.at(counts, (np.arange(5)[:, None], draw_negatives(5, 4, seed=0, step=step)), 1)
    others = counts[~np.eye(5, dtype=bool)]
    # 10,000 draws over 4 images: standard deviation 43.
    assert np.abs(others - 2500).max() < 200


def test_draws_depend_on_seed_and_step_alone() -> None:
    first = draw_negatives(64, 10, seed=1, step=5)
    draw_negatives(64, 10, seed=9, step=9)
    np.testing.assert_array_equal(draw_negatives(64, 10, seed=1, step=5), first)
    assert (draw_negatives(64, 10, seed=1, step=6) != first).any()
    assert (draw_negatives(64, 10, seed=2, step=5) != first).any()


def test_draws_are_the_same_on_every_version_of_numpy() -> None:
    # Written down once: a change would break the exact resumption of runs already begun.
    assert draw_negatives(4, 2, seed=0, step=0).tolist() == [[1, 1], [0, 2], [1, 0], [2, 2]]
    assert draw_negatives(4, 2, seed=2**64 - 1, step=7).tolist() == [[1, 3], [3, 0], [1, 3], [1, 0]]


def test_draws_of_one_image_may_repeat() -> None:
    negatives = draw_negatives(100, 50, seed=0, step=0)
    assert any(len(set(row)) < 50 for row in negatives.tolist())


@pytest.mark.parametrize(
    ("batch_size", "num_negatives", "message"),
    [
        (8, 8, "num_negatives=8 does not fit a batch of 8 images: use 1 to 7, or None for all others"),
        (8, 0, "num_negatives=0 does not fit a batch of 8 images"),
        (1, 1, "a batch of 1 images has no negatives: use 2 or more images"),
    ],
)
def test_numbers_that_do_not_fit_are_named(batch_size: int, num_negatives: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_negatives(batch_size, num_negatives, seed=0, step=0)
