"""torchvision's second transforms on uint8 tensors, driven by the rows."""

from __future__ import annotations

import time

import torch
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from benchmarks.image_by_image import ImageByImage, tensor_buffers
from benchmarks.providers.torchvision import INTERPOLATIONS, NOTE, make_view
from benchmarks.work import Work
from pipelines.config import IMAGENET_MEAN, IMAGENET_STD


def prepare(work: Work) -> ImageByImage:
    """Make normalised float32 views."""
    torch.set_num_threads(1)  # threads work on images
    jpegs = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in work.jpegs]

    def fill(index: int, outputs: list[torch.Tensor]) -> dict[str, float]:
        start = time.perf_counter()
        image = decode_jpeg(jpegs[index], mode=ImageReadMode.RGB)
        decoded = time.perf_counter()
        for row, output in zip(work.rows[index], outputs, strict=True):
            view = make_view(functional, image, row, output.shape[-1], INTERPOLATIONS[work.recipe.interpolation])
            view = functional.to_dtype(view, torch.float32, scale=True)
            output[...] = functional.normalize(view, list(IMAGENET_MEAN), list(IMAGENET_STD), inplace=True)
        return {"decode": decoded - start, "views": time.perf_counter() - decoded}

    return ImageByImage(work, fill, tensor_buffers(work), note=NOTE)
