"""LARS for a list of parameters in torch's multi-tensor operations: the path without Triton."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from relic.optim.reference import norm_dtype

BLOCK_BYTES = 2**20
"""Size of a block on a CPU: all passes over it run in the caches (one Zen core, 35 M parameters: 55 ms per step in such
blocks, 75 ms with all parameters together)."""


class Room:
    """Keep memory for the updates of a block from step to step.

    Fresh pages from the system would take longer than all arithmetic (60 of 110 ms). As large as the largest
    parameter at least; no part of the optimizer's state.
    """

    def __init__(self) -> None:
        self._flat: dict[torch.dtype, Tensor] = {}

    def like(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return a tensor per parameter, of its shape, dtype, device and layout, with arbitrary values."""
        if parameters[0].device.type != "cpu":  # CUDA's allocator keeps its memory itself
            return [torch.empty_like(parameter) for parameter in parameters]
        sizes = [parameter.numel() for parameter in parameters]
        dtype = parameters[0].dtype
        if dtype not in self._flat or len(self._flat[dtype]) < sum(sizes):
            self._flat[dtype] = parameters[0].new_empty(sum(sizes))
        rooms = self._flat[dtype][: sum(sizes)].split(sizes)
        strides = (torch.empty_like(parameter, device="meta").stride() for parameter in parameters)
        return [room.as_strided(w.size(), layout) for room, w, layout in zip(rooms, parameters, strides, strict=True)]


def blocks(parameters: Sequence[Tensor]) -> Iterator[slice]:
    """Yield which neighbours are updated together: of one dtype and device, on a CPU of BLOCK_BYTES at most."""
    start, size = 0, 0
    for place, parameter in enumerate(parameters):
        first = parameters[start]
        is_other = parameter.dtype != first.dtype or parameter.device != first.device
        is_full = parameter.device.type == "cpu" and size + parameter.nbytes > BLOCK_BYTES
        if place > start and (is_other or is_full):
            yield slice(start, place)
            start, size = place, 0
        size += parameter.nbytes
    if parameters:
        yield slice(start, len(parameters))


def lars_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    buffers: Sequence[Tensor],
    *,
    room: Room,
    lr: float | Tensor,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    adapt: bool,
) -> None:
    """Change parameters and momentum buffers by one step; on a CPU the bits are those of `reference.lars_`."""
    for block in blocks(parameters):
        w, m = parameters[block], buffers[block]
        updates = room.like(w)
        torch._foreach_copy_(updates, gradients[block])
        torch._foreach_add_(updates, w, alpha=weight_decay)
        factor = torch.tensor(momentum, dtype=norm_dtype(w[0]))
        # Times a number, a bf16 list on a CPU would round the number to bf16 first (torch 2.14).
        torch._foreach_mul_(m, [factor] * len(m))
        if adapt:
            torch._foreach_addcmul_(m, updates, trust_ratios(w, updates, trust_coefficient))
        else:
            torch._foreach_add_(m, updates)
        if isinstance(lr, Tensor):
            torch._foreach_addcmul_(w, m, [lr] * len(w), value=-1)
        else:
            torch._foreach_add_(w, m, alpha=-lr)


def trust_ratios(parameters: Sequence[Tensor], updates: Sequence[Tensor], trust_coefficient: float) -> list[Tensor]:
    """Return trust_coefficient * ||w|| / ||g|| of each as 0-d tensors of at least float32, 1 where a norm is 0."""
    dtype = norm_dtype(parameters[0])
    parameter_norms = torch.stack(torch._foreach_norm(parameters, dtype=dtype))
    update_norms = torch.stack(torch._foreach_norm(updates, dtype=dtype))
    defined = (parameter_norms > 0) & (update_norms > 0)
    return list(torch.where(defined, trust_coefficient * parameter_norms / update_norms, 1.0).unbind())
