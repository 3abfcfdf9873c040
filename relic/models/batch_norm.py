"""Batch norm over the images of one view on all processes.

torch's SyncBatchNorm runs on GPUs only, waits for the device in every forward pass (pytorch#78549: it asks which
processes had no image; here all have equally many), and knows no views.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class ViewBatchNorm(_BatchNorm):
    """Normalise every view by its own statistics over the batch of all processes.

    The input holds `views` views one after the other along its first dimension, each with the same images per
    process. Running statistics take in one view after the other, so that concatenated views leave what separate
    forward passes leave. Parameters, buffers and state-dict keys are those of nn.BatchNorm.
    """

    views: int = 1
    world_size: int = 1

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch norm needs [N, C, ...], not {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Map [views · B, C, ...] to the same shape."""
        self._check_input_dim(input)
        if not self.training and self.running_mean is not None:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps)
        tracked = self.track_running_stats and self.running_mean is not None
        if tracked:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(self.views)
        if self.world_size > 1:
            output, mean, variance = _GlobalBatchNorm.apply(
                input, self.weight, self.bias, self.views, self.world_size, self.eps
            )  # pyright: ignore[reportGeneralTypeIssues]
            if tracked:
                self._take_in(mean, variance, images=input.numel() // input.shape[1] // self.views * self.world_size)
            return output
        buffers = (self.running_mean, self.running_var) if tracked else (None, None)
        normalised = [
            F.batch_norm(view, *buffers, self.weight, self.bias, True, self.momentum or 0.0, self.eps)
            for view in input.chunk(self.views)
        ]
        return normalised[0] if self.views == 1 else torch.cat(normalised)

    @torch.no_grad()
    def _take_in(self, mean: Tensor, variance: Tensor, images: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        momentum = self.momentum or 0.0
        for view in range(self.views):
            self.running_mean.lerp_(mean[view], momentum)
            self.running_var.lerp_(variance[view] * (images / max(images - 1, 1)), momentum)


class _GlobalBatchNorm(torch.autograd.Function):
    """One exchange of 3·C numbers per view forward, one of 2·C backward.

    With m, v the mean and (biased) variance over the n values of a channel on all processes, y = w·(x − m)/√(v + ε) + b
    and g = dL/dy:  dL/dx = w/√(v + ε) · (g − mean g − x̂ · mean(g·x̂)), means over all processes. dL/dw and dL/db
    stay this process's own: DistributedDataParallel averages them with all other gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, views: int, world_size: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        input = input.contiguous(memory_format=_layout(input))
        parts = input.chunk(views)
        # One sum over the processes: NCCL's tree takes 0.08 ms over 512 GPUs where gathering takes 0.55 (on paper). The
        # mean is that of the means, the variance mean of variances + mean of squared means − squared mean: in float64,
        # since it cancels.
        sums = torch.stack([_moments(part, eps) for part in parts]).double()  # [views, (mean, variance), C]
        sums = torch.cat([sums, sums[:, :1].square()], dim=1)
        distributed.all_reduce(sums)
        means = sums / world_size
        mean = means[:, 0].to(weight.dtype)
        variance = (means[:, 1] + means[:, 2] - means[:, 0].square()).clamp_min_(0).to(weight.dtype)
        normalised = [
            F.batch_norm(part, mean[view], variance[view], weight, bias, False, 0, eps)
            for view, part in enumerate(parts)
        ]
        output = normalised[0] if views == 1 else torch.cat(normalised)
        ctx.save_for_backward(input, weight, mean, variance)
        ctx.views, ctx.world_size, ctx.eps = views, world_size, eps
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, variance = ctx.saved_tensors
        scale = (variance + ctx.eps).rsqrt()
        inputs = input.chunk(ctx.views)
        gradients = gradient.contiguous(memory_format=_layout(input)).chunk(ctx.views)
        own = torch.stack(
            [
                torch.stack(_gradient_sums(g, x, mean[view], scale[view], weight))
                for view, (g, x) in enumerate(zip(gradients, inputs, strict=True))
            ]
        )  # [views, 2, C]: sums of g and of g·x̂
        every = own.clone()
        distributed.all_reduce(every)
        count = inputs[0].numel() // inputs[0].shape[1] * ctx.world_size
        found = [
            _input_gradient(g, x, mean[view], scale[view], weight, every[view], count)
            for view, (g, x) in enumerate(zip(gradients, inputs, strict=True))
        ]
        input_gradient = found[0] if ctx.views == 1 else torch.cat(found)
        return input_gradient, own[:, 1].sum(0), own[:, 0].sum(0), None, None, None


# On a GPU the kernels of torch's SyncBatchNorm read half-precision inputs as they are; plain operations would write
# float32 copies of every activation first.


def _moments(part: Tensor, eps: float) -> Tensor:
    """Return mean and biased variance [2, C] in float32 over all but the channels."""
    if part.is_cuda:
        mean, scale = torch.batch_norm_stats(part, eps)
        return torch.stack([mean, scale.pow(-2) - eps])
    variance, mean = torch.var_mean(_wide(part), _all_but_channels(part), correction=0)
    return torch.stack([mean, variance])


def _gradient_sums(g: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of g and of g·x̂, [C] in float32."""
    if g.is_cuda:
        sum_g, sum_g_centred, _, _ = torch.batch_norm_backward_reduce(g, x, mean, scale, weight, True, True, True)
        return sum_g, sum_g_centred * scale
    g, centred, dims = _wide(g), _wide(x) - _channels(mean, x), _all_but_channels(x)
    return g.sum(dims), (g * centred).sum(dims) * scale


def _input_gradient(
    g: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, sums: Tensor, count: int
) -> Tensor:
    """Return dL/dx from the sums [2, C] over `count` values of all processes."""
    if g.is_cuda:
        counts = torch.full((1,), count, dtype=torch.int32, device=g.device)
        return torch.batch_norm_backward_elemt(g, x, mean, scale, weight, sums[0], sums[1] / scale, counts)
    # alpha·g + beta·x + gamma per channel: x̂ is never made.
    alpha = weight * scale
    beta = -alpha * sums[1] / count * scale
    gamma = -alpha * sums[0] / count - beta * mean
    gradient = torch.addcmul(_channels(gamma, x), _wide(g), _channels(alpha, x))
    return gradient.addcmul_(_wide(x), _channels(beta, x)).to(x.dtype)


def _layout(x: Tensor) -> torch.memory_format:
    """Return the layout to compute in: the CUDA kernels take dense memory of one of two kinds."""
    is_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _channels(vector: Tensor, like: Tensor) -> Tensor:
    return vector.view(1, -1, *[1] * (like.ndim - 2))


def use_view_batch_norm(module: nn.Module, *, world_size: int) -> nn.Module:
    """Put `ViewBatchNorm` in the place of every batch norm of a module; returns the module.

    Args:
        module: changed in place; parameters and buffers stay the same tensors.
        world_size: processes that share the statistics.

    Raises:
        ValueError: a batch norm does more than nn.BatchNorm (timm's BatchNormAct2d also activates), or averages its
            running statistics without a momentum.
    """
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, ViewBatchNorm):
            if type(child) not in PLAIN_NORMS or child.momentum is None:
                what = type(child).__name__ if child.momentum is not None else "a batch norm without momentum"
                raise ValueError(
                    f"{what} ({name}) cannot share statistics or take concatenated views: run it on one process"
                    " without model.concatenate_views, or take another backbone"
                )
            norm = ViewBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats, device="meta"
            )
            norm._parameters, norm._buffers, norm.training = child._parameters, child._buffers, child.training
            norm.world_size = world_size
            setattr(module, name, norm)
        else:
            use_view_batch_norm(child, world_size=world_size)
    return module


def set_views(module: nn.Module, views: int) -> None:
    """Tell every `ViewBatchNorm` how many views lie one after the other in the batch."""
    for part in module.modules():
        if isinstance(part, ViewBatchNorm):
            part.views = views
