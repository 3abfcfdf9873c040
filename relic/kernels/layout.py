"""Memory layouts, for code that walks over tensors as if they were flat."""

from __future__ import annotations

import torch
from torch import Tensor


def is_dense(tensor: Tensor) -> bool:
    """Say whether the elements fill their memory without gaps or overlap, in whatever order of dimensions."""
    if tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)):
        return True  # the usual ones, at once
    expected = 1
    for size, stride in sorted(zip(tensor.shape, tensor.stride(), strict=True), key=lambda pair: pair[1]):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True


def same_layout(first: Tensor, second: Tensor) -> bool:
    """Say whether equal places in memory mean equal indices; dimensions of one element have no say."""
    if first.stride() == second.stride():
        return first.shape == second.shape
    strides = zip(first.shape, first.stride(), second.stride(), strict=True)
    return first.shape == second.shape and all(size == 1 or mine == other for size, mine, other in strides)


def in_layout_of(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor of the parameter's layout: itself, or a copy where it has another one."""
    if same_layout(tensor, parameter):
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
