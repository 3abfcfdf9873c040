"""torchvision on Pillow images, as most self-supervised code has it, driven by the rows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from benchmarks.image_by_image import ImageByImage, tensor_buffers, view_by_view
from benchmarks.rows import box, jitter_steps
from benchmarks.work import Work
from pipelines.config import IMAGENET_MEAN, IMAGENET_STD
from pipelines.ops.blur import radius
from pipelines.views import BRIGHTNESS, CONTRAST, HUE, SATURATION

INTERPOLATIONS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
ADJUST = {
    BRIGHTNESS: "adjust_brightness",
    CONTRAST: "adjust_contrast",
    SATURATION: "adjust_saturation",
    HUE: "adjust_hue",
}

NOTE = "blur is one two-dimensional convolution of 23×23 or 9×9 taps"


def prepare(work: Work) -> ImageByImage:
    """Make normalised float32 views with Pillow's operations behind torchvision's functions."""
    torch.set_num_threads(1)  # threads work on images

    interpolation = INTERPOLATIONS[work.recipe.interpolation]

    def make(image: Image.Image, row: np.void, size: int) -> torch.Tensor:
        view = functional.to_tensor(make_view(functional, image, row, size, interpolation))
        return functional.normalize(view, list(IMAGENET_MEAN), list(IMAGENET_STD), inplace=True)

    def decode(index: int) -> Image.Image:
        return Image.open(io.BytesIO(work.jpegs[index])).convert("RGB")

    return view_by_view(work, decode, make, tensor_buffers(work), note=NOTE)


def make_view(functions: Any, image: Any, row: np.void, size: int, interpolation: InterpolationMode) -> Any:
    """Make one view of 8 bits.

    Args:
        functions: `torchvision.transforms.functional` or `torchvision.transforms.v2.functional`.
        image: what these functions take: a Pillow image, or uint8 [3, H, W].
        row: one `pipelines.views.ROW`, drawn for torchvision's jitter.
        size: side of the view.
        interpolation: antialiased filter.
    """
    view = functions.resized_crop(image, *box(row), [size, size], interpolation=interpolation, antialias=True)
    if row["flip"]:
        view = functions.hflip(view)
    for operation, strength in jitter_steps(row):
        view = getattr(functions, ADJUST[operation])(view, strength)
    if row["gray"]:
        view = functions.rgb_to_grayscale(view, num_output_channels=3)
    if row["blur_sigma"] > 0:
        view = functions.gaussian_blur(view, [2 * radius(size) + 1] * 2, [float(row["blur_sigma"])] * 2)
    return functions.solarize(view, 128) if row["solarize"] else view
