"""Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), vectorised in numpy.

Every number is a pure function of (seed, epoch, image index, view, field), so that thread counts, world sizes and
restarts change nothing and any view can be drawn again.
"""

from __future__ import annotations

import numpy as np

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85
_ROUNDS = 10
_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)


def philox4x32(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Encrypt counters with Philox4x32-10.

    Args:
        counter: uint32 [..., 4].
        key: two 32-bit words.

    Returns:
        uint32 [..., 4] of independent uniform bits, one block per counter.
    """
    c0, c1, c2, c3 = (counter[..., word].astype(np.uint64) for word in range(4))
    key0, key1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            (product1 >> _SHIFT_32) ^ c1 ^ np.uint64(key0),
            product1 & _LOW_32,
            (product0 >> _SHIFT_32) ^ c3 ^ np.uint64(key1),
            product0 & _LOW_32,
        )
        key0, key1 = (key0 + _WEYL_0) & 0xFFFFFFFF, (key1 + _WEYL_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def bits(
    *, seed: int, epoch: int, index: np.ndarray, view: np.ndarray, blocks: dict[int, int]
) -> dict[int, np.ndarray]:
    """Return random 32-bit words for every (index, view) pair, all fields in one go.

    Args:
        seed: any integer in [0, 2**64).
        epoch: in [0, 2**32).
        index: image indices, broadcast against `view`; in [0, 2**63).
        view: view numbers in [0, 2**16).
        blocks: field, which says what quantity is drawn, in [0, 2**8) -> blocks of four words, at most 2**8.

    Returns:
        Per field uint32 [*broadcast, 4 * blocks].
    """
    index, view = np.broadcast_arrays(np.asarray(index, np.uint64), np.asarray(view, np.uint64))
    words = np.concatenate([(field << 8) + np.arange(count, dtype=np.uint64) for field, count in blocks.items()])
    counter = np.empty((*index.shape, len(words), 4), np.uint32)
    counter[..., 0] = (index & _LOW_32)[..., None]
    counter[..., 1] = (index >> _SHIFT_32)[..., None]
    counter[..., 2] = (view << np.uint64(16))[..., None] | words
    counter[..., 3] = seed >> 32
    encrypted = philox4x32(counter, (seed & 0xFFFFFFFF, epoch))
    parts = np.split(encrypted, np.cumsum(list(blocks.values()))[:-1], axis=-2)
    return {field: part.reshape(*index.shape, part.shape[-2] * 4) for field, part in zip(blocks, parts, strict=True)}


def uniform(
    *, seed: int, epoch: int, index: np.ndarray, view: np.ndarray, blocks: dict[int, int]
) -> dict[int, np.ndarray]:
    """Return float64 numbers in [0, 1) on a grid of 2**-32; arguments and shapes as `bits`."""
    drawn = bits(seed=seed, epoch=epoch, index=index, view=view, blocks=blocks)
    return {field: words * 2.0**-32 for field, words in drawn.items()}
