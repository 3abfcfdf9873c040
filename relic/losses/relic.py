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
    """Scalars, means over all view pairs and images: `total` is the weighted sum of the other two."""

    total: Tensor
    contrastive: Tensor
    invariance: Tensor


def relic_loss(
    online: Tensor,
    target: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    contrastive_weight: float,
    invariance_weight: float,
) -> RelicLoss:
    """Compute the mean loss over every pair of an online view a and a target view b, a = b included.

    With o_i, t_i the L2-normalised outputs of image i in views a, b, and candidates C_i = {i} + negatives[i]:

        p_i(k) = softmax over k in C_i of <o_i, t_k> / temperature          (1)
        q_i(k) = softmax over k in C_i of <t_i, o_k> / temperature          (2)
        contrastive_i = -log p_i(i)                                          (3)
        invariance_i = KL(p_i || q_i) = sg[sum p log p] - sum p log q        (4)
        total = contrastive_weight * mean contrastive + invariance_weight * mean invariance

    Everything is computed in float32 whatever autocast says (float64 for float64 outputs): logits reach
    1 / temperature = 5, where bfloat16 numbers stand 1/32 apart. `target` takes no gradient.

    Args:
        online: raw outputs of the online network [O, B, D].
        target: raw outputs of the target network [T, B, D].
        negatives: int64 [B, n], indices into the batch on the same device; their range is not checked, which
            would wait for the device.
        temperature: softmax temperature, > 0.
        contrastive_weight: weight of (3).
        invariance_weight: weight of (4).

    Raises:
        ValueError: for shapes or types that do not fit together, or a temperature that is not positive.
    """
    check_inputs(online, target, negatives, temperature=temperature)
    with torch.autocast(online.device.type, enabled=False):
        o = F.normalize(_at_least_float32(online), dim=-1, eps=NORM_FLOOR)
        t = F.normalize(_at_least_float32(target.detach()), dim=-1, eps=NORM_FLOOR)
        logits = torch.einsum("aid,bkd->abik", o, t) / temperature

        image = torch.arange(len(negatives), device=negatives.device)[:, None]
        candidates = torch.cat([image, negatives], dim=1).expand(*logits.shape[:2], -1, -1)

        log_p = logits.gather(-1, candidates).log_softmax(-1)  # (1)
        log_q = logits.mT.gather(-1, candidates).log_softmax(-1)  # (2): <t_i, o_k> is <o_k, t_i>
        contrastive = -log_p[..., 0].mean()  # (3)
        p = log_p.exp()
        invariance = ((p * log_p).detach() - p * log_q).sum(-1).mean()  # (4)
        total = contrastive_weight * contrastive + invariance_weight * invariance
    return RelicLoss(total, contrastive, invariance)


def check_inputs(online: Tensor, target: Tensor, negatives: Tensor, *, temperature: float) -> None:
    """Raise ValueError for inputs that no implementation of the loss accepts; reads shapes only."""
    if online.ndim != 3 or target.ndim != 3 or online.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"online {list(online.shape)} and target {list(target.shape)} must be [views, images, features] "
            "with the same images and features"
        )
    if negatives.ndim != 2 or len(negatives) != online.shape[1]:
        raise ValueError(f"negatives {list(negatives.shape)} must be [images={online.shape[1]}, n]")
    if negatives.dtype != torch.int64:
        raise ValueError(f"negatives are {negatives.dtype}: pass torch.int64 indices into the batch")
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be positive")


def _at_least_float32(outputs: Tensor) -> Tensor:
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
