"""The reference backend: Pillow decodes, torch renders in float32. The truth, slow on purpose."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from benchmarks.image_by_image import ImageByImage, array_buffers, view_by_view
from benchmarks.work import Work
from pipelines.backends.reference import render_view


def prepare(work: Work) -> ImageByImage:
    """Render row by row."""
    torch.set_num_threads(1)

    def make(image: torch.Tensor, row: np.void, size: int) -> np.ndarray:
        return render_view(image, row, size, work.recipe).numpy()

    return view_by_view(work, lambda index: decoded_by_pillow(work.jpegs[index]), make, array_buffers(work))


def decoded_by_pillow(jpeg: bytes) -> torch.Tensor:
    """Return uint8 [H, W, 3]."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(jpeg)).convert("RGB")))
