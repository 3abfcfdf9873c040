"""Colour jitter and grayscale.

Two modes. `relicv2` is the official code's: brightness is added, contrast works about each channel's mean, saturation
and hue in HSV. `torchvision` is ColorJitter's: factors, contrast about the mean gray, saturation away from gray.
Every operation ends with a clamp to [0, 1].

Saturation and hue without a trip through HSV. Let V = max(r, g, b), m = min(r, g, b), C = V - m, S = C / V.
  Saturation f keeps V and hue and sets S' = min(f S, 1); each channel is V - (V - c), and V - c is proportional to S,
  so c' = V - (V - c) S' / S.
  Hue: with h in sixths of a turn, channel c = V - C clamp(min(k, 4 - k), 0, 1), k = (n + h) mod 6, n = 5, 3, 1 for
  r, g, b: the closed form of HSV to RGB.
"""

from __future__ import annotations

import math
from typing import Literal

import numba
import numpy as np
import torch

from pipelines.views import BRIGHTNESS, CONTRAST, JITTER_ORDERS, SATURATION

JitterMode = Literal["relicv2", "torchvision"]
LUMA = (0.2989, 0.5870, 0.1140)


def reference_jitter(view: torch.Tensor, row: np.void, mode: JitterMode) -> torch.Tensor:
    """Apply the four jitter operations in the row's order, clamping after each.

    Args:
        view: float32 [3, H, W] in [0, 1].
        row: one `pipelines.views.ROW`.
        mode: whose operations.
    """
    brightness, contrast = float(row["brightness"]), float(row["contrast"])
    saturation, hue = float(row["saturation"]), float(row["hue"])
    for operation in JITTER_ORDERS[row["order"]]:
        if operation == BRIGHTNESS:
            view = view + brightness if mode == "relicv2" else view * brightness
        elif operation == CONTRAST:
            mean = view.mean((1, 2), keepdim=True) if mode == "relicv2" else luma(view).mean()
            view = contrast * (view - mean) + mean
        elif operation == SATURATION:
            view = _saturate_hsv(view, saturation) if mode == "relicv2" else _saturate_gray(view, saturation)
        else:
            view = _shift_hue(view, hue)
        view = view.clamp(0, 1)
    return view


def reference_grayscale(view: torch.Tensor) -> torch.Tensor:
    """Replace every channel by luma; float32 [3, H, W]."""
    return luma(view).expand(3, -1, -1)


def luma(view: torch.Tensor) -> torch.Tensor:
    """Return float32 [1, H, W]: the weights the official code and torchvision share."""
    return LUMA[0] * view[0:1] + LUMA[1] * view[1:2] + LUMA[2] * view[2:3]


def _saturate_gray(view: torch.Tensor, factor: float) -> torch.Tensor:
    gray = luma(view)
    return factor * (view - gray) + gray


def _saturate_hsv(view: torch.Tensor, factor: float) -> torch.Tensor:
    hue, saturation, value = _rgb_to_hsv(view)
    return _hsv_to_rgb(hue, (factor * saturation).clamp(0, 1), value)


def _shift_hue(view: torch.Tensor, turns: float) -> torch.Tensor:
    hue, saturation, value = _rgb_to_hsv(view)
    return _hsv_to_rgb((hue + 6.0 * turns) % 6.0, saturation, value)


def _rgb_to_hsv(view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return hue in sixths of a turn [0, 6), saturation, value; each [H, W]."""
    red, green, blue = view
    value, smallest = view.amax(0), view.amin(0)
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
    return torch.stack(channels)


def fused(view: np.ndarray, row: np.void, mode: JitterMode) -> None:
    """Apply jitter and grayscale in place; float32 [H, W, 3] in [0, 255]. Releases the GIL."""
    _jitter(
        view,
        JITTER_ORDERS[row["order"]],
        row["brightness"],
        row["contrast"],
        row["saturation"],
        row["hue"],
        mode == "relicv2",
    )
    if row["gray"]:
        _grayscale(view)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"})
def _jitter(view, order, brightness, contrast, saturation, hue, official):  # pragma: no cover - compiled
    pixels = view.reshape(-1, 3)
    for operation in order:
        if operation == BRIGHTNESS:
            if official:
                if brightness != 0:
                    shift = np.float32(255) * brightness
                    _scale_shift(pixels, np.float32(1), shift, shift, shift)
            elif brightness != 1:
                _scale_shift(pixels, brightness, np.float32(0), np.float32(0), np.float32(0))
        elif operation == CONTRAST:
            if contrast != 1:
                _contrast(pixels, contrast, official)
        elif operation == SATURATION:
            if saturation != 1:
                if official:
                    _saturate(pixels, saturation)
                else:
                    _away_from_gray(pixels, saturation)
        elif hue != 0:
            _rotate_hue(pixels, hue)


@numba.njit(nogil=True, cache=True, inline="always")
def _clamp(value):  # pragma: no cover - compiled
    return min(max(value, np.float32(0)), np.float32(255))


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"})
def _scale_shift(pixels, scale, red, green, blue):  # pragma: no cover - compiled
    """pixels <- clamp(scale * pixels + shift), one shift per channel."""
    for i in range(len(pixels)):
        pixels[i, 0] = _clamp(scale * pixels[i, 0] + red)
        pixels[i, 1] = _clamp(scale * pixels[i, 1] + green)
        pixels[i, 2] = _clamp(scale * pixels[i, 2] + blue)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp", "reassoc"})
def _contrast(pixels, factor, official):  # pragma: no cover - compiled
    red, green, blue = np.float64(0), np.float64(0), np.float64(0)
    for i in range(len(pixels)):
        red += pixels[i, 0]
        green += pixels[i, 1]
        blue += pixels[i, 2]
    red, green, blue = red / len(pixels), green / len(pixels), blue / len(pixels)
    if not official:
        red = green = blue = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    rest = np.float32(1) - factor
    _scale_shift(pixels, factor, rest * np.float32(red), rest * np.float32(green), rest * np.float32(blue))


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"})
def _away_from_gray(pixels, factor):  # pragma: no cover - compiled
    rest = np.float32(1) - factor
    for i in range(len(pixels)):
        gray = rest * _luma(pixels[i, 0], pixels[i, 1], pixels[i, 2])
        for channel in range(3):
            pixels[i, channel] = _clamp(factor * pixels[i, channel] + gray)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"})
def _saturate(pixels, factor):  # pragma: no cover - compiled
    """c' = V - (V - c) S'/S with S' = min(f S, 1), so S'/S = min(f, V / C)."""
    for i in range(len(pixels)):
        value = max(pixels[i, 0], pixels[i, 1], pixels[i, 2])
        chroma = value - min(pixels[i, 0], pixels[i, 1], pixels[i, 2])
        ratio = min(factor, value / max(chroma, np.float32(1e-12)))
        for channel in range(3):
            pixels[i, channel] = _clamp(value - (value - pixels[i, channel]) * ratio)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"})
def _rotate_hue(pixels, turns):  # pragma: no cover - compiled
    shift = np.float32(6) * turns
    for i in range(len(pixels)):
        red, green, blue = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        value = max(red, green, blue)
        chroma = value - min(red, green, blue)
        divisor = max(chroma, np.float32(1e-12))
        if value == red:
            hue = (green - blue) / divisor
        elif value == green:
            hue = (blue - red) / divisor + np.float32(2)
        else:
            hue = (red - green) / divisor + np.float32(4)
        hue += shift
        pixels[i, 0] = value - chroma * _ramp(hue + np.float32(5))
        pixels[i, 1] = value - chroma * _ramp(hue + np.float32(3))
        pixels[i, 2] = value - chroma * _ramp(hue + np.float32(1))


@numba.njit(nogil=True, cache=True, inline="always")
def _ramp(k):  # pragma: no cover - compiled
    k -= np.float32(6) * np.float32(math.floor(k * np.float32(1 / 6)))
    return min(max(min(k, np.float32(4) - k), np.float32(0)), np.float32(1))


@numba.njit(nogil=True, cache=True, inline="always")
def _luma(red, green, blue):  # pragma: no cover - compiled
    return np.float32(LUMA[0]) * red + np.float32(LUMA[1]) * green + np.float32(LUMA[2]) * blue


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"})
def _grayscale(view):  # pragma: no cover - compiled
    pixels = view.reshape(-1, 3)
    for i in range(len(pixels)):
        pixels[i, :] = _luma(pixels[i, 0], pixels[i, 1], pixels[i, 2])
