"""Colour jitter and grayscale.

Two modes. `relicv2` is the official code's: brightness is added, contrast works about each channel's mean, saturation
and hue in HSV. `torchvision` is ColorJitter's: factors, contrast about the mean gray, saturation away from gray.
Every operation ends with a clamp to [0, 1].
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from pipelines.views import BRIGHTNESS, CONTRAST, HUE, JITTER_ORDERS, SATURATION

JitterMode = Literal["relicv2", "torchvision"]
FIELDS = {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation", HUE: "hue"}
"""Which field of a row is the strength of a jitter operation."""
LUMA = (0.2989, 0.5870, 0.1140)


def reference_jitter(view: torch.Tensor, row: np.void, mode: JitterMode) -> torch.Tensor:
    """Apply the four jitter operations in the row's order, clamping after each.

    Args:
        view: float32 [3, H, W] in [0, 1].
        row: one `pipelines.views.ROW`.
        mode: whose operations.
    """
    for operation in JITTER_ORDERS[row["order"]]:
        view = jitter(view, operation, torch.tensor(float(row[FIELDS[operation]])), mode)
    return view


def jitter(view: torch.Tensor, operation: int, strength: torch.Tensor, mode: JitterMode) -> torch.Tensor:
    """Apply one jitter operation and clamp.

    Args:
        view: float32 [..., 3, H, W] in [0, 1].
        operation: BRIGHTNESS, CONTRAST, SATURATION or HUE.
        strength: its field of the row, to be broadcast against `view`.
        mode: whose operation.
    """
    if operation == BRIGHTNESS:
        view = view + strength if mode == "relicv2" else view * strength
    elif operation == CONTRAST:
        mean = (view if mode == "relicv2" else luma(view)).mean((-2, -1), keepdim=True)
        view = strength * (view - mean) + mean
    elif operation == SATURATION:
        view = _saturate_hsv(view, strength) if mode == "relicv2" else _saturate_gray(view, strength)
    else:
        view = _shift_hue(view, strength)
    return view.clamp(0, 1)


def reference_grayscale(view: torch.Tensor) -> torch.Tensor:
    """Replace every channel by luma; float32 [..., 3, H, W]."""
    return luma(view).expand_as(view)


def luma(view: torch.Tensor) -> torch.Tensor:
    """Return float32 [..., 1, H, W]: the weights the official code and torchvision share."""
    red, green, blue = view.split(1, dim=-3)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _saturate_gray(view: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    gray = luma(view)
    return factor * (view - gray) + gray


def _saturate_hsv(view: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    hue, saturation, value = _rgb_to_hsv(view)
    return _hsv_to_rgb(hue, (factor * saturation).clamp(0, 1), value)


def _shift_hue(view: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    hue, saturation, value = _rgb_to_hsv(view)
    return _hsv_to_rgb((hue + 6.0 * turns) % 6.0, saturation, value)


def _rgb_to_hsv(view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return hue in sixths of a turn [0, 6), saturation, value; each [..., 1, H, W]."""
    red, green, blue = view.split(1, dim=-3)
    value, smallest = view.amax(-3, keepdim=True), view.amin(-3, keepdim=True)
    chroma = value - smallest
    divisor = torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(
        value == red,
        ((green - blue) / divisor) % 6.0,
        torch.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    saturation = chroma / torch.where(value > 0, value, 1.0)
    return hue, saturation, value


def _hsv_to_rgb(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    chroma = value * saturation
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = (offset + hue) % 6.0
        channels.append(value - chroma * torch.minimum(k, 4.0 - k).clamp(0, 1))
    return torch.cat(channels, dim=-3)
