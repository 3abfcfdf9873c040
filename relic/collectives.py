"""Collectives with a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from relic.distributed import World


def gather_images(outputs: Tensor, world: World) -> Tensor:
    """Return the outputs [V, B, D] of all processes as [V, world_size · B, D] of at least float32, in rank order.

    The gradient of an image is the sum of what all processes' losses say of it; DistributedDataParallel then takes
    the mean over the processes, so that the whole is the gradient of the mean loss.
    """
    wide = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    return _GatherImages.apply(wide, world)  # pyright: ignore[reportReturnType]


class _GatherImages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor, world: World) -> Tensor:
        ctx.world, ctx.images = world, outputs.shape[1]
        every = outputs.new_empty(world.world_size, *outputs.shape)
        distributed.all_gather(list(every), outputs.contiguous())
        return every.transpose(0, 1).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # gloo has no reduce_scatter; the gradient is small (25 MB at batch 4096, six views, D 256).
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        own = ctx.world.rank * ctx.images
        return total[:, own : own + ctx.images], None
