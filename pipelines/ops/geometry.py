"""Crop, antialiased resize, flip: stored image and box to an upright square view."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

Interpolation = Literal["bicubic", "bilinear"]


def reference(image: torch.Tensor, row: np.void, size: int, interpolation: Interpolation) -> torch.Tensor:
    """Crop, resize with antialiasing in float32, round to uint8, flip.

    The crop comes first, so the filter's support ends at the crop, as in torchvision. Bicubic has a = -0.5.

    Args:
        image: uint8 [H, W, 3].
        row: one `pipelines.views.ROW`.
        size: side of the view in pixels.
        interpolation: the filter.

    Returns:
        uint8 [size, size, 3].
    """
    crop = _crop(image, row).permute(2, 0, 1)[None].to(torch.float32)
    resized = F.interpolate(crop, (size, size), mode=interpolation, antialias=True, align_corners=False)
    view = resized[0].clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0)
    return view.flip(1) if row["flip"] else view


def _crop(image: torch.Tensor, row: np.void) -> torch.Tensor:
    top, left = int(row["top"]), int(row["left"])
    return image[top : top + int(row["height"]), left : left + int(row["width"])]
