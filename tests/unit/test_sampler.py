"""The order of images: a permutation per epoch that ranks share out, whatever their number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import sampler
from pipelines.sampler import images_at, order, positions_of

sizes = st.integers(0, 300)
seeds = st.integers(0, 2**64 - 1)


@given(num_images=sizes, seed=seeds, epoch=st.integers(0, 2**32 - 1), shuffle=st.booleans())
def test_an_epoch_reads_every_image_once(num_images: int, seed: int, epoch: int, shuffle: bool):
    indices = order(num_images, seed=seed, epoch=epoch, shuffle=shuffle)
    assert indices.dtype == np.int64
    assert sorted(indices.tolist()) == list(range(num_images))


@pytest.mark.parametrize("num_images", [1, 2, 3, 4, 5, 7, 64, 97, 127, 128, 129, 1000, 65535, 65536, 65537, 100_003])
def test_any_number_of_images_is_permuted_and_found_again(num_images: int):
    indices = order(num_images, seed=1, epoch=2)
    assert (np.sort(indices) == np.arange(num_images)).all()
    np.testing.assert_array_equal(positions_of(indices, num_images, seed=1, epoch=2), np.arange(num_images))


@pytest.mark.parametrize("num_images", [2**40, 2**40 + 1, 10**15])
def test_a_part_of_a_long_order_costs_only_that_part(num_images: int):
    """Were the order stored, the shortest would take eight terabytes."""
    first, last = (order(num_images, seed=1, epoch=2, start=start, count=1000) for start in (0, num_images - 1000))
    indices = np.concatenate([first, last])
    assert indices.min() >= 0
    assert 0.9 * num_images < indices.max() < num_images
    assert len(set(indices.tolist())) == 2000
    places = positions_of(indices, num_images, seed=1, epoch=2)
    np.testing.assert_array_equal(places, np.r_[:1000, num_images - 1000 : num_images])


def test_the_order_is_the_one_that_runs_were_begun_with():
    """Another one needs another `pipelines.position.STATE_VERSION`."""
    assert order(12, seed=3, epoch=4).tolist() == [1, 2, 11, 10, 0, 9, 8, 4, 6, 5, 7, 3]
    found = order(10**15, seed=2**64 - 1, epoch=7, start=123_456_789, count=3)
    assert found.tolist() == [487755531865748, 509482943845394, 946692800432013]


def test_epochs_and_seeds_give_other_orders():
    orders = {tuple(order(50, seed=seed, epoch=epoch)) for seed in range(8) for epoch in range(8)}
    assert len(orders) == 64


def test_the_largest_seeds_differ_too():
    assert not np.array_equal(order(50, seed=2**64 - 1, epoch=0), order(50, seed=2**64 - 2, epoch=0))


def test_every_place_of_the_order_is_equally_likely():
    first = np.bincount([order(5, seed=0, epoch=epoch)[0] for epoch in range(2000)], minlength=5)
    np.testing.assert_allclose(first, 400, atol=4 * np.sqrt(2000 * 0.2 * 0.8))


# ---- as good as drawn ---------------------------------------------------------------------------------------


def deviations(counts: np.ndarray) -> float:
    """Return how far the chi-square of counts that should be equal lies from its mean, in standard deviations."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


def crossed(a: np.ndarray, b: np.ndarray, num_images: int, bins: int = 16) -> np.ndarray:
    """Count pairs of indices by the sixteenth of the data set that each lies in."""
    return np.bincount((a * bins // num_images) * bins + b * bins // num_images, minlength=bins**2)


@pytest.mark.parametrize("num_images", [3, 4, 5])
def test_every_order_of_a_few_images_is_equally_likely(num_images: int):
    seen: dict[tuple[int, ...], int] = {}
    possible = math.factorial(num_images)
    for epoch in range(25 * possible):
        found = tuple(order(num_images, seed=5, epoch=epoch).tolist())
        seen[found] = seen.get(found, 0) + 1
    assert len(seen) == possible
    assert abs(deviations(np.array(list(seen.values())))) < 4


def test_odd_permutations_are_as_likely_as_even_ones():
    """A Feistel network of 3 x 3 reaches the even ones only."""
    odd = 0
    for epoch in range(1000):
        whole = order(7, seed=5, epoch=epoch)
        odd += int((whole[:, None] > whole[None])[np.triu_indices(7, 1)].sum()) % 2
    assert abs(odd - 500) < 4 * np.sqrt(250)


def test_every_image_is_equally_likely_at_every_position():
    places = np.array([0, 1, 499, 998])
    images = np.array([images_at(places, 999, seed=seed, epoch=seed % 3) for seed in range(3000)])
    for column in images.T:
        assert abs(deviations(np.bincount(column // 37, minlength=27))) < 4
    for a, b in ((0, 1), (0, 3), (1, 2)):
        assert abs(deviations(crossed(images[:, a], images[:, b], 999, bins=8))) < 4


def test_neighbours_epochs_and_seeds_know_nothing_of_each_other():
    size = 100_003
    whole = order(size, seed=8, epoch=0)
    for lag in (1, 2, 128):
        assert abs(deviations(crossed(whole[:-lag], whole[lag:], size))) < 4
    for other in (order(size, seed=8, epoch=1), order(size, seed=9, epoch=0), np.arange(size)):
        assert abs(deviations(crossed(whole, other, size))) < 4
        assert abs(np.corrcoef(whole, other)[0, 1]) < 4 / np.sqrt(size)


def test_fixed_points_and_pairs_that_stay_together_are_no_more_than_chance():
    """Ten fixed points and twenty neighbours are to be expected; with 13 rounds there would be 120 more of each."""
    size, fixed, together = 100_003, 0, 0
    for epoch in range(10):
        whole = order(size, seed=11, epoch=epoch)
        fixed += int((whole == np.arange(size)).sum())
        together += int((np.abs(np.diff(whole)) == 1).sum())
    assert 1 <= fixed <= 24
    assert 5 <= together <= 40


# ---- shares -------------------------------------------------------------------------------------------------


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


@given(num_images=sizes, start=st.integers(0, 300), count=st.integers(0, 40), world_size=st.integers(1, 9))
def test_a_count_is_the_beginning_of_a_share(num_images: int, start: int, count: int, world_size: int):
    place = {"seed": 6, "epoch": 1, "rank": world_size - 1, "world_size": world_size, "start": min(start, num_images)}
    np.testing.assert_array_equal(order(num_images, **place, count=count), order(num_images, **place)[:count])


def test_long_orders_are_made_in_blocks_that_join(monkeypatch: pytest.MonkeyPatch):
    whole = order(1000, seed=2, epoch=0)
    monkeypatch.setattr(sampler, "_BLOCK", 64)
    np.testing.assert_array_equal(order(1000, seed=2, epoch=0), whole)


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
