"""The ReLICv2 loss in plain PyTorch: the specification that faster versions are held to.

Equations are numbered as in the docstring of `relic_loss`; sources: arXiv 2201.05119 and arXiv 2010.07922.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# BYOL's l2_normalize floors the squared norm at 1e-12; below it the gradient at a zero vector would explode.
NORM_FLOOR = 1e-6


class RelicLoss(NamedTuple):
    """Scalars, means over all view pairs and anchors: `total` is the weighted sum of the other two, which are for
    reports and carry no gradient."""

    total: Tensor
    contrastive: Tensor
    invariance: Tensor


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
    """Compute the mean loss over every pair of an online view a and a target view b, a = b included.

    With o_i, t_i the L2-normalised outputs of image i in views a, b, and candidates C_i = {i} + negatives of i:

        p_i(k) = softmax over k in C_i of <o_i, t_k> / temperature          (1)
        q_i(k) = softmax over k in C_i of <t_i, o_k> / temperature          (2)
        contrastive_i = -log p_i(i)                                          (3)
        invariance_i = KL(p_i || q_i) = sg[sum p log p] - sum p log q        (4)
        total = contrastive_weight * mean contrastive + invariance_weight * mean invariance

    Everything is computed in float32 whatever autocast says (float64 for float64 outputs): logits reach
    1 / temperature = 5, where bfloat16 numbers stand 1/32 apart. `target` takes no gradient; `online` takes that of
    `total`, in the rows of all candidates.

    Args:
        online: raw outputs of the online network [O, B, D].
        target: raw outputs of the target network [T, B, D].
        negatives: int64 [A, n], indices into the batch for each anchor, on the same device; their range is not checked
            on a GPU, which would wait for it. None takes all other images, as ReLIC (v1) does.
        temperature: softmax temperature, > 0.
        contrastive_weight: weight of (3).
        invariance_weight: weight of (4).
        anchors: the A images i whose loss is computed, all by default; a rank that holds the outputs of all ranks names
            its own images here.

    Raises:
        ValueError: for shapes, types or devices that do not fit together, anchors that are no part of the batch, or a
            temperature that is not positive.
    """
    anchors = check_inputs(online, target, negatives, temperature=temperature, anchors=anchors)
    with torch.autocast(online.device.type, enabled=False):
        o = F.normalize(_at_least_float32(online), dim=-1, eps=NORM_FLOOR)
        t = F.normalize(_at_least_float32(target.detach()), dim=-1, eps=NORM_FLOOR)
        logits = torch.einsum("aid,bkd->abik", o, t) / temperature

        image = torch.arange(anchors.start, anchors.stop, device=online.device)[:, None]
        if negatives is None:
            other = torch.arange(online.shape[1] - 1, device=online.device)
            negatives = other + (other >= image)
        candidates = torch.cat([image, negatives], dim=1).expand(*logits.shape[:2], -1, -1)
        rows = slice(anchors.start, anchors.stop)

        log_p = logits[:, :, rows].gather(-1, candidates).log_softmax(-1)  # (1)
        log_q = logits.mT[:, :, rows].gather(-1, candidates).log_softmax(-1)  # (2): <t_i, o_k> is <o_k, t_i>
        contrastive = -log_p[..., 0].mean()  # (3)
        p = log_p.exp()
        invariance = ((p * log_p).detach() - p * log_q).sum(-1).mean()  # (4)
        total = contrastive_weight * contrastive + invariance_weight * invariance
    return RelicLoss(total, contrastive.detach(), invariance.detach())


def check_inputs(
    online: Tensor, target: Tensor, negatives: Tensor | None, *, temperature: float, anchors: range | None
) -> range:
    """Return the anchors; raise ValueError for what no implementation of the loss accepts. Reads no values."""
    if (
        online.ndim != 3
        or target.ndim != 3
        or online.shape[1:] != target.shape[1:]
        or not min(online.numel(), target.numel())
    ):
        raise ValueError(
            f"online {list(online.shape)} and target {list(target.shape)} must be [views, images, features], "
            "not empty, with the same images and features"
        )
    for name, outputs in (("online", online), ("target", target)):
        if not outputs.is_floating_point():
            raise ValueError(f"{name} is {outputs.dtype}: pass the raw outputs, floating point numbers")
    num_images = online.shape[1]
    anchors = range(num_images) if anchors is None else anchors
    if anchors.step != 1 or not 0 <= anchors.start < anchors.stop <= num_images:
        raise ValueError(f"anchors {anchors} must be a range of step 1 within the {num_images} images, not empty")
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be positive")
    if negatives is not None:
        if negatives.ndim != 2 or len(negatives) != len(anchors):
            raise ValueError(f"negatives {list(negatives.shape)} must be [images={len(anchors)}, n], a row per anchor")
        if negatives.dtype != torch.int64:
            raise ValueError(f"negatives are {negatives.dtype}: pass torch.int64 indices into the batch")
    devices = {str(tensor.device) for tensor in (online, target, negatives) if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"online, target and negatives lie on {' and '.join(sorted(devices))}: put them on one device")
    return anchors


def _at_least_float32(outputs: Tensor) -> Tensor:
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
