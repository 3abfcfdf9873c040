"""Memory for batches, used again once nobody holds the batch: new pages cost a fifth of the time of large batches."""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np
import torch


class Buffers:
    """Hand out uninitialised tensors whose memory returns by itself when the last tensor or view on it is gone.

    Args:
        keep: idle pieces of a size that are kept; more go back to the system.
        pin: for CUDA: pinned memory, from torch's own cache, which knows when a copy to the device has ended.
    """

    def __init__(self, *, keep: int, pin: bool = False):
        self._keep, self._pin = keep, pin
        self._owners: dict[int, list[np.ndarray]] = defaultdict(list)
        self._idle = _holders([np.empty(1, np.uint8)], 0)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor of any content, which shares memory with no tensor that is still held."""
        if self._pin:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = torch.Size(shape).numel() * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        # Pieces that are held need no watching beyond `keep`: their memory goes when their tensors go.
        owners = self._owners[size]
        idle = [number for number in range(len(owners)) if _holders(owners, number) <= self._idle]
        piece = owners.pop(idle[0]) if idle else np.empty(size, np.uint8)
        owners.append(piece)
        del owners[: -self._keep]
        # The tensor's storage, which all its views share, holds a reference to the array until it is freed.
        return torch.from_numpy(piece).view(dtype).view(shape)


def _holders(owners: list[np.ndarray], index: int) -> int:
    return sys.getrefcount(owners[index])
