"""Image files for tests, made in memory."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return smooth colour noise, uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(
    height: int, width: int, seed: int = 0, *, mode: str = "RGB", file_format: str = "JPEG", **save: Any
) -> bytes:
    """Return an image file of such noise."""
    file = io.BytesIO()
    Image.fromarray(pixels(height, width, seed)).convert(mode).save(file, file_format, **save)
    return file.getvalue()


def with_orientation(orientation: int) -> Image.Exif:
    """Return an EXIF block that says how the photograph is turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def decoded(data: bytes) -> np.ndarray:
    """Return the pixels that torchvision's ImageFolder would show, uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
