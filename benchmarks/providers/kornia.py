"""kornia's functions on float32 tensors, driven by the rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
    normalize,
)
from kornia.filters import gaussian_blur2d
from kornia.geometry import hflip, resize

from benchmarks.image_by_image import ImageByImage, tensor_buffers, view_by_view
from benchmarks.providers.torchvision_v2 import tensor_decoder
from benchmarks.rows import box, jitter_steps
from benchmarks.work import Work
from pipelines.config import IMAGENET_MEAN, IMAGENET_STD
from pipelines.ops.blur import radius
from pipelines.views import BRIGHTNESS, CONTRAST, HUE, SATURATION

ADJUST: dict[int, Any] = {
    BRIGHTNESS: adjust_brightness_accumulative,
    CONTRAST: adjust_contrast_with_mean_subtraction,
    SATURATION: adjust_saturation_with_gray_subtraction,
    HUE: lambda view, turns: adjust_hue(view, 2 * math.pi * turns),
}
MEAN, STD = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
NOTE = "torchvision decodes; kornia antialiases by a blur before its bicubic"


def prepare(work: Work) -> ImageByImage:
    """Make normalised float32 views."""
    torch.set_num_threads(1)  # threads work on images

    def make(image: torch.Tensor, row: np.void, size: int) -> torch.Tensor:
        return normalize(_view(image, row, size, work.recipe.interpolation), MEAN, STD)[0]

    return view_by_view(work, tensor_decoder(work), make, tensor_buffers(work), note=NOTE)


def _view(image: torch.Tensor, row: np.void, size: int, interpolation: str) -> torch.Tensor:
    top, left, height, width = box(row)
    crop = image[None, :, top : top + height, left : left + width].to(torch.float32) / 255
    view = resize(crop, (size, size), interpolation, align_corners=False, antialias=True).clamp(0, 1)
    if row["flip"]:
        view = hflip(view)
    for operation, strength in jitter_steps(row):
        view = ADJUST[operation](view, strength)
    if row["gray"]:
        view = rgb_to_grayscale(view).expand(-1, 3, -1, -1)
    if row["blur_sigma"] > 0:
        view = gaussian_blur2d(view, 2 * radius(size) + 1, (float(row["blur_sigma"]),) * 2)
    return torch.where(view < 0.5, view, 1 - view) if row["solarize"] else view
