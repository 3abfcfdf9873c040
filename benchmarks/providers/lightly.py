"""lightly's multi-view transform out of its DINO view transform, with the chances and sizes of the recipe."""

from __future__ import annotations

import io
import time

import numpy as np
import torch
from lightly.transforms.dino_transform import DINOViewTransform
from lightly.transforms.multi_view_transform import MultiViewTransform
from PIL import Image

from benchmarks.image_by_image import ImageByImage, tensor_buffers
from benchmarks.work import Work

NOTE = "draws its own numbers; blur is Pillow's approximation by boxes"


def prepare(work: Work) -> ImageByImage:
    """Make normalised float32 views as a data set of lightly's does, from its own random numbers."""
    torch.set_num_threads(1)  # threads work on images
    torch.manual_seed(work.seed)
    np.random.seed(work.seed % 2**32)  # noqa: NPY002 - lightly draws from the global generator
    transform = MultiViewTransform([_view_transform(work, view) for view in range(len(work.sizes))])  # type: ignore[arg-type]

    def fill(index: int, outputs: list[torch.Tensor]) -> dict[str, float]:
        start = time.perf_counter()
        image = Image.open(io.BytesIO(work.jpegs[index])).convert("RGB")
        decoded = time.perf_counter()
        for view, output in zip(transform(image), outputs, strict=True):
            output[...] = view  # type: ignore[assignment]
        return {"decode": decoded - start, "views": time.perf_counter() - decoded}

    return ImageByImage(work, fill, tensor_buffers(work), note=NOTE, follows_rows=False)


def _view_transform(work: Work, view: int) -> DINOViewTransform:
    recipe, photometric = work.recipe, work.recipe.photometric
    crop = recipe.large if view < recipe.large.count else recipe.small
    is_even = view % 2  # views count from one: the first is odd
    return DINOViewTransform(
        crop_size=crop.size,
        crop_scale=crop.area,
        hf_prob=photometric.flip,
        cj_prob=photometric.jitter_chance,
        cj_strength=1.0,
        cj_bright=photometric.brightness,
        cj_contrast=photometric.contrast,
        cj_sat=photometric.saturation,
        cj_hue=photometric.hue,
        random_gray_scale=photometric.grayscale,
        gaussian_blur=photometric.blur[is_even],
        sigmas=photometric.blur_sigma,
        solarization_prob=photometric.solarize[is_even],
    )
