"""The order of images: a permutation per epoch that ranks share out, whatever their number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sampler import order

sizes = st.integers(0, 300)
seeds = st.integers(0, 2**64 - 1)


@given(num_images=sizes, seed=seeds, epoch=st.integers(0, 2**32 - 1), shuffle=st.booleans())
def test_an_epoch_reads_every_image_once(num_images: int, seed: int, epoch: int, shuffle: bool):
    indices = order(num_images, seed=seed, epoch=epoch, shuffle=shuffle)
    assert indices.dtype == np.int64
    assert sorted(indices.tolist()) == list(range(num_images))


def test_epochs_and_seeds_give_other_orders():
    orders = {tuple(order(50, seed=seed, epoch=epoch)) for seed in range(8) for epoch in range(8)}
    assert len(orders) == 64


def test_the_largest_seeds_differ_too():
    assert not np.array_equal(order(50, seed=2**64 - 1, epoch=0), order(50, seed=2**64 - 2, epoch=0))


def test_every_place_of_the_order_is_equally_likely():
    first = np.bincount([order(5, seed=0, epoch=epoch)[0] for epoch in range(2000)], minlength=5)
    np.testing.assert_allclose(first, 400, atol=4 * np.sqrt(2000 * 0.2 * 0.8))


def test_without_shuffling_the_stored_order_stays():
    np.testing.assert_array_equal(order(7, seed=3, epoch=1, shuffle=False), np.arange(7))
    np.testing.assert_array_equal(order(7, seed=3, epoch=1, rank=1, world_size=3, shuffle=False), [1, 4])


@given(num_images=sizes, start_share=st.floats(0, 1), world_size=st.integers(1, 9), seed=seeds)
def test_ranks_partition_what_is_left(num_images: int, start_share: float, world_size: int, seed: int):
    start = int(start_share * num_images)
    whole = order(num_images, seed=seed, epoch=4)
    shares = [
        order(num_images, seed=seed, epoch=4, rank=rank, world_size=world_size, start=start)
        for rank in range(world_size)
    ]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    dealt = np.empty(num_images - start, np.int64)
    for rank, share in enumerate(shares):
        dealt[rank::world_size] = share
    np.testing.assert_array_equal(dealt, whole[start:])


@pytest.mark.parametrize("world_size", [2, 8])
def test_a_constant_global_batch_trains_on_the_same_images(world_size: int):
    """Step k reads positions kB to (k+1)B - 1 for 1, 2 and 8 ranks; also after a resume with other ranks."""
    global_batch, num_images = 16, 101
    local_batch = global_batch // world_size
    alone = order(num_images, seed=9, epoch=2)
    for start in (0, 3 * global_batch):
        shares = [
            order(num_images, seed=9, epoch=2, rank=rank, world_size=world_size, start=start)
            for rank in range(world_size)
        ]
        for step in range((num_images - start) // global_batch):
            trained = np.concatenate([share[step * local_batch : (step + 1) * local_batch] for share in shares])
            first = start + step * global_batch
            assert set(trained) == set(alone[first : first + global_batch])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"rank": 2, "world_size": 2}, "rank 2"),
        ({"rank": -1}, "rank -1"),
        ({"start": 11}, "start 11"),
        ({"start": -1}, "start -1"),
    ],
)
def test_a_place_outside_is_refused(place: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        order(10, seed=0, epoch=0, **place)
