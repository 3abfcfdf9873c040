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


def bits(*, seed: int, epoch: int, index: np.ndarray, view: np.ndarray, field: int, blocks: int = 1) -> np.ndarray:
    """Return random 32-bit words for every (index, view) pair.

    Args:
        seed: any integer in [0, 2**64).
        epoch: in [0, 2**32).
        index: image indices, broadcast against `view`; in [0, 2**63).
        view: view numbers in [0, 2**16).
        field: which quantity is drawn, in [0, 2**8).
        blocks: blocks of four words, at most 2**8.

    Returns:
        uint32 [*broadcast, 4 * blocks].
    """
    index, view = np.broadcast_arrays(np.asarray(index, np.uint64), np.asarray(view, np.uint64))
    counter = np.empty((*index.shape, blocks, 4), np.uint32)
    counter[..., 0] = (index & _LOW_32)[..., None]
    counter[..., 1] = (index >> _SHIFT_32)[..., None]
    counter[..., 2] = ((view << np.uint64(16)) | np.uint64(field << 8))[..., None] + np.arange(blocks, dtype=np.uint64)
    counter[..., 3] = seed >> 32
    words = philox4x32(counter, (seed & 0xFFFFFFFF, epoch))
    return words.reshape(*index.shape, 4 * blocks)


def uniform(*, seed: int, epoch: int, index: np.ndarray, view: np.ndarray, field: int, blocks: int = 1) -> np.ndarray:
    """Return float64 numbers in [0, 1) on a grid of 2**-32; arguments and shape as `bits`."""
    return bits(seed=seed, epoch=epoch, index=index, view=view, field=field, blocks=blocks) * 2.0**-32
