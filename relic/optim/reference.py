"""LARS for one parameter, as its equations stand: what the optimizer must equal bit for bit on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def lars_(
    parameter: Tensor,
    gradient: Tensor,
    buffer: Tensor,
    *,
    lr: float | Tensor,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    adapt: bool,
) -> None:
    """Change a parameter and its momentum buffer by one step; the settings are those of `relic.optim.Lars`."""
    update = gradient.add(parameter, alpha=weight_decay)
    buffer.mul_(momentum)
    if adapt:
        buffer.addcmul_(update, trust_ratio(parameter, update, trust_coefficient))
    else:
        buffer.add_(update)
    if isinstance(lr, Tensor):
        parameter.addcmul_(buffer, lr, value=-1)
    else:
        parameter.add_(buffer, alpha=-lr)


def trust_ratio(parameter: Tensor, update: Tensor, trust_coefficient: float) -> Tensor:
    """Return trust_coefficient * ||w|| / ||g|| as a 0-d tensor of at least float32, 1 where a norm is 0."""
    dtype = norm_dtype(parameter)
    parameter_norm = torch.linalg.vector_norm(parameter, dtype=dtype)
    update_norm = torch.linalg.vector_norm(update, dtype=dtype)
    defined = (parameter_norm > 0) & (update_norm > 0)
    return torch.where(defined, trust_coefficient * parameter_norm / update_norm, 1.0)


def norm_dtype(parameter: Tensor) -> torch.dtype:
    """Return the dtype of norms and factors: that of the parameter, float32 at least."""
    return torch.promote_types(parameter.dtype, torch.float32)
