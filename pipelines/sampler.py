"""The order in which images are read: a pure function, so that any position can be resumed at any world size."""

from __future__ import annotations

import numpy as np


def order(
    num_images: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
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
        shuffle: False keeps the stored order (evaluation).

    Returns:
        int64 [ceil((num_images - start - rank) / world_size)]; the ranks' lengths differ by one at most.

    Raises:
        ValueError: for a rank or start out of range.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not in [0, world_size={world_size})")
    if not 0 <= start <= num_images:
        raise ValueError(f"start {start} is not in [0, num_images={num_images}]")
    if shuffle:
        # uint64, since numpy takes a list of large integers by way of float64: seeds above 2**53 would collide
        key = np.array([seed, epoch], np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        indices = generator.permutation(num_images)
    else:
        indices = np.arange(num_images)
    return indices[start:][rank::world_size]
