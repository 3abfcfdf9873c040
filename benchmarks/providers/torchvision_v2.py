"""torchvision's second transforms on uint8 tensors, driven by the rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from benchmarks.image_by_image import ImageByImage, tensor_buffers, view_by_view
from benchmarks.providers.torchvision import INTERPOLATIONS, NOTE, make_view
from benchmarks.work import Work
from pipelines.config import IMAGENET_MEAN, IMAGENET_STD


def prepare(work: Work) -> ImageByImage:
    """Make normalised float32 views."""
    torch.set_num_threads(1)  # threads work on images
    interpolation = INTERPOLATIONS[work.recipe.interpolation]

    def make(image: torch.Tensor, row: np.void, size: int) -> torch.Tensor:
        view = make_view(functional, image, row, size, interpolation)
        view = functional.to_dtype(view, torch.float32, scale=True)
        return functional.normalize(view, list(IMAGENET_MEAN), list(IMAGENET_STD), inplace=True)

    return view_by_view(work, tensor_decoder(work), make, tensor_buffers(work), note=NOTE)


def tensor_decoder(work: Work) -> Callable[[int], torch.Tensor]:
    """Return decode(index) -> uint8 [3, H, W], by torchvision."""
    jpegs = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in work.jpegs]
    return lambda index: decode_jpeg(jpegs[index], mode=ImageReadMode.RGB)
