"""LARS (You et al., 2017) in the form of the official ReLICv2 and BYOL code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from relic.kernels.availability import has_triton
from relic.kernels.layout import in_layout_of
from relic.optim import foreach

SETTINGS = ("lr", "momentum", "weight_decay", "trust_coefficient", "adapt")
"""What every parameter group has; torch adds keys of its own."""


class Lars(torch.optim.Optimizer):
    """Scale each parameter's step to the norm of the parameter, then apply momentum.

        g <- g + weight_decay * w
        g <- g * trust_coefficient * ||w|| / ||g||      (1 in place of the factor where a norm is 0)
        m <- momentum * m + g
        w <- w - lr * m

    The learning rate stays outside the buffer, so that a schedule acts at once, and the decayed gradient is
    the one whose norm divides (google-deepmind/relicv2). Other libraries put lr into the buffer, or divide by
    ||g|| + weight_decay * ||w||: settings do not carry over. `relic.optim.reference` says the same for one parameter.

    Args:
        params: parameters or groups; a group may set `weight_decay` and `adapt` (False skips the norm ratio).
        lr: learning rate; the loop sets it each step. A 0-d float32 tensor on the parameters' device is read there,
            so that a captured or compiled step follows its value.
        momentum: factor on the buffer.
        weight_decay: added to the gradient, times the parameter.
        trust_coefficient: factor on the norm ratio.
        adapt: whether the norm ratio applies.

    Raises:
        ValueError: for a negative setting that is a float.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float | Tensor = 0.0,
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
            if not isinstance(value, Tensor) and value < 0:
                raise ValueError(f"LARS {name}={value} is negative: use 0 or more")
        self._room = foreach.Room()
        super().__init__(params, {**settings, "adapt": adapt})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._room = foreach.Room()  # a copy, or an unpickled optimizer, has its own

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have a gradient, without waiting for the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                settings = {name: group[name] for name in SETTINGS}
                self._update(parameters, [self._buffer(parameter) for parameter in parameters], settings)
        return loss

    def _update(self, parameters: list[Tensor], buffers: list[Tensor], settings: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if parameters[0].is_cuda and has_triton():
            from relic.kernels import multi_tensor

            if multi_tensor.fits(parameters, gradients, buffers):
                multi_tensor.lars_(parameters, gradients, buffers, **settings)
                return
        foreach.lars_(parameters, gradients, buffers, room=self._room, **settings)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        # A run in another memory format may have saved it.
        state["momentum_buffer"] = in_layout_of(state["momentum_buffer"], parameter)
        return state["momentum_buffer"]
