"""The ReLICv2 loss as one operation that computes values and gradient together: what training uses.

The loss is a scalar, so that its gradient can be had in the forward pass, while the logits are at hand; the backward
pass multiplies it by the gradient of the scalar. The operation is opaque to torch.compile.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import Any

import torch
from torch import Tensor

from relic.losses import all_negatives, sampled_negatives
from relic.losses import relic as reference
from relic.losses.relic import NORM_FLOOR, RelicLoss, check_inputs

try:  # once, as torch.compile could not follow it; not imported, as the CPU does without
    HAS_TRITON = importlib.util.find_spec("triton") is not None
except ImportError:  # from a finder that forbids it
    HAS_TRITON = False


def relic_loss(
    online: Tensor,
    target: Tensor,
    negatives: Tensor | None,
    *,
    temperature: float,
    contrastive_weight: float,
    invariance_weight: float,
    anchors: range | None = None,
) -> RelicLoss:
    """Compute what `relic.losses.relic.relic_loss` does, whose docstring holds, in time and memory linear in B.

    (With all other images as negatives, time is quadratic in B.) Memory is that of a few copies of the outputs in
    float32. With listed negatives, the CPU gives the same bits whatever its number of threads. The gradient is a
    constant to autograd: there are no second derivatives.

    Raises:
        ValueError: as the reference.
        IndexError: on the CPU, for a negative that is no image of the batch.
    """
    anchors = check_inputs(online, target, negatives, temperature=temperature, anchors=anchors)
    settings = {
        "temperature": temperature,
        "contrastive_weight": contrastive_weight,
        "invariance_weight": invariance_weight,
    }
    if negatives is not None and not has_kernel(online.device.type, online.dtype):
        return reference.relic_loss(online, target, negatives, anchors=anchors, **settings)
    wants_gradient = online.requires_grad and torch.is_grad_enabled()
    with torch.autocast(online.device.type, enabled=False):
        losses, _ = loss_and_gradient(
            online, target.detach(), negatives, anchors.start, len(anchors), **settings, with_gradient=wants_gradient
        )
    total, contrastive, invariance = losses.unbind()
    return RelicLoss(total, contrastive.detach(), invariance.detach())


def has_kernel(device: str, dtype: torch.dtype) -> bool:
    """Return whether the form with a few negatives runs on such outputs; says once that it does not."""
    if device == "cpu":
        return True
    if device == "cuda" and HAS_TRITON and dtype != torch.float64:
        return True
    say_missing(f"{dtype} on {device}", "" if HAS_TRITON else ": install triton")
    return False


@functools.cache
def say_missing(what: str, mend: str) -> None:
    """Print one line, once per process."""
    print(f"relic: no fused loss for {what}, the slower reference takes its place{mend}", file=sys.stderr)


# An explicit schema: before 2.6 torch could not read postponed annotations.
@torch.library.custom_op(
    "relic::loss_and_gradient",
    mutates_args=(),
    schema="(Tensor online, Tensor target, Tensor? negatives, int first_anchor, int num_anchors, float temperature,"
    " float contrastive_weight, float invariance_weight, bool with_gradient) -> (Tensor, Tensor)",
)
def loss_and_gradient(
    online,
    target,
    negatives,
    first_anchor,
    num_anchors,
    temperature,
    contrastive_weight,
    invariance_weight,
    with_gradient,
):
    """Return (total, contrastive, invariance) [3] and the gradient of the total, without elements where not wanted.

    Both are in the precision of the computation: a float16 gradient would vanish before it meets its loss scale.
    """
    settings = {
        "temperature": temperature,
        "contrastive_weight": contrastive_weight,
        "invariance_weight": invariance_weight,
        "with_gradient": with_gradient,
    }
    if negatives is None:
        anchors = range(first_anchor, first_anchor + num_anchors)
        terms, gradient = all_negatives.loss_and_gradient(online, target, anchors, **settings)
    elif online.is_cuda:
        from relic.kernels import relic_loss as kernels

        terms, gradient = kernels.loss_and_gradient(
            online, target, negatives, first_anchor, norm_floor=NORM_FLOOR, **settings
        )
    else:
        terms, gradient = sampled_negatives.loss_and_gradient(online, target, negatives, first_anchor, **settings)
    total = contrastive_weight * terms[:1] + invariance_weight * terms[1:]
    return torch.cat([total, terms]), terms.new_empty(0) if gradient is None else gradient


@loss_and_gradient.register_fake
def _(online, target, negatives, first_anchor, num_anchors, *settings):
    dtype = torch.promote_types(online.dtype, torch.float32)
    return online.new_empty(3, dtype=dtype), online.new_empty(online.shape if settings[-1] else 0, dtype=dtype)


def _keep_gradient(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    gradient = output[1]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(gradient)
    ctx.save_for_backward(gradient)
    ctx.dtype = inputs[0].dtype


def _scale_gradient(ctx: Any, of_losses: Tensor | None, of_gradient: None) -> tuple[Tensor | None, ...]:
    (gradient,) = ctx.saved_tensors
    of_online = None if of_losses is None else (gradient * of_losses[0]).to(ctx.dtype)
    return of_online, *[None] * 8


loss_and_gradient.register_autograd(_scale_gradient, setup_context=_keep_gradient)
