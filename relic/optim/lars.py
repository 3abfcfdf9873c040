"""LARS (You et al., 2017) in the form of the official ReLICv2 and BYOL code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lars(torch.optim.Optimizer):
    """Scale each parameter's step to the norm of the parameter, then apply momentum.

        g <- g + weight_decay * w
        g <- g * trust_coefficient * ||w|| / ||g||      (1 in place of the factor where a norm is 0)
        m <- momentum * m + g
        w <- w - lr * m

    The learning rate stays outside the buffer, so that a schedule acts at once, and the decayed gradient is
    the one whose norm divides (google-deepmind/relicv2). Other libraries put lr into the buffer, or divide by
    ||g|| + weight_decay * ||w||: settings do not carry over.

    Args:
        params: parameters or groups; a group may set `weight_decay` and `adapt` (False skips the norm ratio).
        lr: learning rate; the loop sets it each step.
        momentum: factor on the buffer.
        weight_decay: added to the gradient, times the parameter.
        trust_coefficient: factor on the norm ratio.
        adapt: whether the norm ratio applies.

    Raises:
        ValueError: for a negative setting.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        adapt: bool = True,
    ) -> None:
        settings: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
        }
        for name, value in settings.items():
            if value < 0:
                raise ValueError(f"LARS {name}={value} is negative: use 0 or more")
        super().__init__(params, {**settings, "adapt": adapt})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have a gradient, without waiting for the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = parameter.grad.add(parameter, alpha=group["weight_decay"])
                if group["adapt"]:
                    update.mul_(trust_ratio(parameter, update, group["trust_coefficient"]))
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(update)
                parameter.add_(buffer, alpha=-group["lr"])
        return loss


def trust_ratio(parameter: Tensor, update: Tensor, trust_coefficient: float) -> Tensor:
    """Return trust_coefficient * ||w|| / ||g|| as a 0-d tensor of at least float32, 1 where a norm is 0."""
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    parameter_norm = torch.linalg.vector_norm(parameter, dtype=dtype)
    update_norm = torch.linalg.vector_norm(update, dtype=dtype)
    defined = (parameter_norm > 0) & (update_norm > 0)
    return torch.where(defined, trust_coefficient * parameter_norm / update_norm, 1.0)
