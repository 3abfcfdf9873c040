"""Optimizers by name, and which parameters are excluded from weight decay and adaptation."""

from __future__ import annotations

import difflib
from typing import Any, Literal, get_args

import torch
from torch import nn

from relic.optim.lars import Lars

OptimizerName = Literal["lars", "sgd", "adamw"]


def parameter_groups(module: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters in two groups: weights, and biases with batch norms.

    A parameter of at most one dimension is a bias or belongs to a norm: it gets no weight decay and no LARS
    adaptation. Each group keeps the order of `module.parameters()`, by which a saved optimizer is restored.

    Returns:
        dicts with `params`, `weight_decay` and `adapt`; a group without parameters is left out.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in parameters if parameter.ndim > 1],
            "weight_decay": weight_decay,
            "adapt": True,
        },
        {
            "params": [parameter for parameter in parameters if parameter.ndim <= 1],
            "weight_decay": 0.0,
            "adapt": False,
        },
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    name: OptimizerName,
    module: nn.Module,
    *,
    weight_decay: float,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Build an optimizer over a module's `parameter_groups`, with learning rate 0 until the loop sets it.

    Args:
        name: "lars" (the method's), "sgd" or "adamw".
        module: what to train: `twin.online` in pretraining.
        weight_decay: for the weights; biases and batch norms get none.
        momentum: momentum of lars and sgd, the first beta of adamw.
        trust_coefficient: lars only.
        nesterov: sgd only.

    Raises:
        ValueError: for an unknown name, or an option that the optimizer has not.
    """
    if nesterov and name != "sgd":
        raise ValueError(f"optimizer {name!r} has no nesterov momentum: use 'sgd', or nesterov=False")
    groups = parameter_groups(module, weight_decay=weight_decay)
    if name == "lars":
        return Lars(groups, momentum=momentum, trust_coefficient=trust_coefficient)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=nesterov)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999))
    names = get_args(OptimizerName)
    nearest = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.0)[0]
    raise ValueError(f"unknown optimizer {name!r}: did you mean {nearest!r}? (one of {', '.join(names)})")


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
