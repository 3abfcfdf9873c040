"""The reference backend: Pillow decodes, torch renders in float32. The truth, slow on purpose."""

from __future__ import annotations

import io
import time

import numpy as np
import torch
from PIL import Image

from benchmarks.image_by_image import ImageByImage, array_buffers
from benchmarks.work import Work
from pipelines.backends.reference import render_view


def prepare(work: Work) -> ImageByImage:
    """Render row by row."""
    torch.set_num_threads(1)

    def fill(index: int, outputs: list[np.ndarray]) -> dict[str, float]:
        start = time.perf_counter()
        image = decoded_by_pillow(work.jpegs[index])
        decoded = time.perf_counter()
        for row, output in zip(work.rows[index], outputs, strict=True):
            output[...] = render_view(image, row, output.shape[0], work.recipe).numpy()
        return {"decode": decoded - start, "views": time.perf_counter() - decoded}

    return ImageByImage(work, fill, array_buffers(work))


def decoded_by_pillow(jpeg: bytes) -> torch.Tensor:
    """Return uint8 [H, W, 3]."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(jpeg)).convert("RGB")))
