"""The order in which images are read: a pure function, so that any position can be resumed at any world size.

No order is stored. Which image stands at a position is computed from (seed, epoch, number of images) by swap-or-not
(Hoang, Morris & Rogaway, "An Enciphering Scheme Based on a Card Shuffle", CRYPTO 2012), a permutation of [0, N) for
every N: round i pairs x with its partner K_i - x (mod N), and a bit that both share, B_i(max of the two), says whether
they change places. A round is its own inverse, so any round keys make a permutation, and the same rounds backwards find
an image's position.

How many rounds: a position that was swapped once is uniform, and it is never swapped in r rounds with chance 2**-r; two
positions keep their distance as rarely. So r = log2 N + 16 rounds leave 2**-16 fixed points and neighbours too many in
an epoch of any length. A Feistel network with cycle walking wants fewer rounds where N is large, but reaches only the
even permutations of N = 7 images: over 400,000 keys the chi-square of all 5,040 orders lay 1,350 standard deviations
off after 40 rounds, where this one's is within 1.2 (six times).

On one core of an AMD EPYC an image takes 0.29 µs at N = 1e6 and 0.37 µs at 1e9 (1.8 and 2.3 µs in batches of 128), and
no memory; numpy's permutation 0.03 µs at 1e6 and 0.09 µs at 1e8, and 8 bytes. In numba it took 0.25 and 0.32 µs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_ROUNDS_MORE = 16
_BLOCK = 1 << 14  # its few temporary arrays fit a core's second cache
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # of splitmix64, Steele et al. 2014
_HALF, _TOP_BIT = np.uint64(32), np.uint64(1 << 63)


def order(
    num_images: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    count: int | None = None,
    shuffle: bool = True,
) -> np.ndarray:
    """Return the image indices that a rank reads in an epoch, from a position on.

    The global order is one permutation per (seed, epoch). From position `start` on, images are dealt to the ranks in
    turn: for a constant global batch B, step k trains on positions kB to (k+1)B - 1 whatever the world size.

    Args:
        num_images: images in the data set.
        seed: seed of the run, in [0, 2**64).
        epoch: number of the pass.
        rank: this process.
        world_size: number of processes.
        start: images of this epoch already read by all ranks together.
        count: how many indices at most; None for all that are left.
        shuffle: False keeps the stored order (evaluation).

    Returns:
        int64 [ceil((num_images - start - rank) / world_size)], or the first `count` of them; the ranks' lengths differ
        by one at most.

    Raises:
        ValueError: for a rank or start out of range.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not in [0, world_size={world_size})")
    if not 0 <= start <= num_images:
        raise ValueError(f"start {start} is not in [0, num_images={num_images}]")
    first = start + rank
    last = num_images if count is None else min(num_images, first + count * world_size)
    positions = np.arange(first, last, world_size)
    return images_at(positions, num_images, seed=seed, epoch=epoch) if shuffle else positions


def images_at(positions: np.ndarray, num_images: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the images, int64 [n], that stand at these positions of the epoch's order."""
    return _swapped(positions, num_images, _rounds(num_images, seed, epoch))


def positions_of(indices: np.ndarray, num_images: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the positions, int64 [n], at which these images stand: the inverse of `images_at`."""
    return _swapped(indices, num_images, _rounds(num_images, seed, epoch)[::-1])


@lru_cache(maxsize=8)
def _rounds(num_images: int, seed: int, epoch: int) -> list[tuple[np.uint64, np.uint64]]:
    """Draw for each round K, uniform in [0, num_images), and the key of its bits."""
    # uint64, since numpy takes a list of large integers by way of float64: seeds above 2**53 would collide
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(
        2 * (num_images.bit_length() + _ROUNDS_MORE)
    )
    sums = [np.uint64(int(word) * num_images >> 64) for word in words[::2]]
    return list(zip(sums, words[1::2], strict=True))


def _swapped(places: np.ndarray, num_images: int, rounds: list[tuple[np.uint64, np.uint64]]) -> np.ndarray:
    size, out = np.uint64(num_images), np.array(places, np.uint64)
    for first in range(0, len(out), _BLOCK):
        x = out[first : first + _BLOCK]
        for sum_, key in rounds:
            # K - x mod N without a branch: the left one wraps to a huge number where K < x, else the right is larger
            partner = np.minimum(sum_ - x, sum_ + size - x)
            bits = (np.maximum(x, partner) + key) * _MULTIPLIERS[0]
            bits = (bits ^ (bits >> _HALF)) * _MULTIPLIERS[1]
            np.copyto(x, partner, where=bits >= _TOP_BIT)
    return out.astype(np.int64)
