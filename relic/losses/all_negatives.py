"""The loss with all other images as negatives, in blocks of plain torch: memory grows with B, not with its square.

A block holds the logits of some anchors with all images in one pair of views, or of several pairs where the batch is
small, and is computed, used for the gradient and forgotten. The gradient is derived in `relic.kernels.relic_loss`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relic.losses.relic import NORM_FLOOR

CPU_BLOCK, GPU_BLOCK = 2**21, 2**25
"""Logits of a block; three arrays of that size live at a time."""


def loss_and_gradient(
    online: Tensor,
    target: Tensor,
    anchors: range,
    *,
    temperature: float,
    contrastive_weight: float,
    invariance_weight: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Compute the means of both terms, and the gradient of their weighted sum.

    Args:
        online: raw outputs [O, B, D].
        target: raw outputs [T, B, D].
        anchors: images whose loss is computed.
        temperature: softmax temperature.
        contrastive_weight: weight of eq. 3.
        invariance_weight: weight of eq. 4.
        with_gradient: whether the gradient is wanted.

    Returns:
        (contrastive, invariance) [2], and the gradient [O, B, D] or None; float32, or float64 for float64 outputs.
    """
    o, norms = _units(online)
    t = _units(target)[0].div_(temperature)  # the scale of the logits, and of their gradients
    terms = o.new_zeros(2)
    gradient = torch.zeros_like(o) if with_gradient else None
    weights = contrastive_weight, invariance_weight
    views_of_a_block, rows_of_a_block = _block_shape(online, anchors)
    for view in t:
        for views in _parts(range(len(o)), views_of_a_block):
            for rows in _parts(anchors, rows_of_a_block):
                terms += _block(o[views], view, rows, weights, None if gradient is None else gradient[views])
    count = len(o) * len(t) * len(anchors)
    if gradient is not None:  # through the normalisation, where the floor does not divide
        radial = (gradient * o).sum(-1, keepdim=True).masked_fill_(norms <= NORM_FLOOR, 0)
        gradient.addcmul_(radial, o, value=-1).div_(norms * count)
    return terms / count, gradient


def _units(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors [V, B, D] and the lengths [V, B, 1]."""
    dtype = torch.promote_types(outputs.dtype, torch.float32)
    norms = torch.linalg.vector_norm(outputs, dim=-1, keepdim=True, dtype=dtype).clamp_min_(NORM_FLOOR)
    return outputs / norms, norms


def _block_shape(online: Tensor, anchors: range) -> tuple[int, int]:
    """Return how many online views and how many anchors a block has."""
    size = CPU_BLOCK if online.device.type == "cpu" else GPU_BLOCK
    num_images = online.shape[1]
    return max(1, size // (len(anchors) * num_images)), max(1, size // num_images)


def _parts(whole: range, size: int) -> list[slice]:
    return [slice(start, min(start + size, whole.stop)) for start in range(whole.start, whole.stop, size)]


def _block(o: Tensor, t: Tensor, rows: slice, weights: tuple[float, float], gradient: Tensor | None) -> Tensor:
    """Return the sums of both terms [2] over anchors `rows`, online views o [V, B, D] and one target view t [B, D]."""
    contrastive_weight, invariance_weight = weights
    is_whole = rows.stop - rows.start == len(t)
    log_p = o[:, rows] @ t.mT  # logits of (1)
    log_q = log_p.mT.contiguous() if is_whole else t[rows] @ o.mT  # of (2): <t_i, o_k> is <o_k, t_i>
    for logits in (log_p, log_q):
        logits -= logits.logsumexp(-1, keepdim=True)
    positive = log_p.diagonal(rows.start, -2, -1)
    contrastive = -positive.sum()
    p = log_p.exp()
    negative_entropy = log_p.mul_(p).sum(-1, keepdim=True)
    negative_cross_entropy = torch.mul(p, log_q, out=log_p).sum(-1, keepdim=True)
    terms = torch.stack([contrastive, (negative_entropy - negative_cross_entropy).sum()])
    if gradient is None:
        return terms
    to_p = log_p.mul_(-invariance_weight).addcmul_(p, contrastive_weight + invariance_weight * negative_cross_entropy)
    positive -= contrastive_weight  # a view of to_p
    to_q = log_q.exp_().sub_(p).mul_(invariance_weight)
    if is_whole:
        gradient += to_p.add_(to_q.mT) @ t
    else:
        gradient[:, rows] += to_p @ t
        gradient += to_q.mT @ t[rows]
    return terms
