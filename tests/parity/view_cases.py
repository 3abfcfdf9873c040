"""What is rendered in the parity tests: pictures, boxes and rows of the table."""

from __future__ import annotations

import numpy as np
import torch

from pipelines import engine
from pipelines.config import PhotometricConfig, ViewsConfig
from pipelines.engine.settings import settings_of
from pipelines.ops import geometry
from pipelines.views import ROW


def photograph(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw something with the spectrum of a photograph: coloured noise of 1/f amplitude, with edges."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / max(height, width)
    shape = (3, *frequency.shape)
    spectrum = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / frequency
    plane = np.fft.irfft2(spectrum, (height, width)).transpose(1, 2, 0)
    plane = (plane - plane.mean()) / max(float(plane.std()), 1e-9)
    plane[height // 3 : height // 2, width // 4 : width // 2] += rng.normal(size=3)
    return np.clip(128 + 60 * plane, 0, 255).astype(np.uint8)


def noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw white noise: the hardest picture for filters."""
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def grayscale(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw a photograph whose channels agree: chroma 0 everywhere."""
    return np.repeat(photograph(rng, height, width)[..., :1], 3, axis=2)


def saturated(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw blocks of the corners of the colour cube: channels at 0 and 255, ties of the largest channel."""
    corners = rng.integers(0, 2, (-(-height // 5), -(-width // 7), 3), np.uint8) * 255
    return corners.repeat(5, axis=0).repeat(7, axis=1)[:height, :width]


def ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw slow gradients through all grey levels."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [
        255 * x / max(width - 1, 1),
        255 * y / max(height - 1, 1),
        255 * (x + y) / max(width + height - 2, 1),
    ]
    return np.stack(planes, axis=-1).astype(np.uint8)


def flat(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw one colour."""
    return np.broadcast_to(rng.integers(0, 256, 3, np.uint8), (height, width, 3)).copy()


PICTURES = {picture.__name__: picture for picture in (photograph, noise, grayscale, saturated, ramp, flat)}


def draw_picture(name: str, height: int, width: int) -> np.ndarray:
    """Return uint8 [height, width, 3], always the same for the same arguments."""
    return np.ascontiguousarray(PICTURES[name](np.random.default_rng([height, width]), height, width))


SHAPES = [(1, 1), (1, 7), (9, 1), (1, 800), (20, 30), (3, 1500), (1200, 2), (33, 33), (150, 211)]
BOXES = {
    "whole": lambda h, w: (0, 0, h, w),
    "top left": lambda h, w: (0, 0, (h + 1) // 2, (w + 1) // 2),
    "bottom right": lambda h, w: (h // 2, w // 2, h - h // 2, w - w // 2),
    "one pixel": lambda h, w: (h - 1, w - 1, 1, 1),
    "one row": lambda h, w: (h // 2, 0, 1, w),
    "one column": lambda h, w: (0, w // 2, h, 1),
    "inner": lambda h, w: (h // 4, w // 4, max(h // 2, 1), max(w // 2, 1)),
}


def box(top: int, left: int, height: int, width: int, **fields) -> np.void:
    return table_row(top=top, left=left, height=height, width=width, **fields)


def table_row(**fields) -> np.void:
    """Return a row that changes nothing, with some fields set."""
    row = np.zeros(1, ROW)
    row["contrast"] = row["saturation"] = 1
    for name, value in fields.items():
        row[name] = value
    return row[0]


def to_reference(picture: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] -> float32 [3, H, W] in [0, 1]."""
    return torch.from_numpy(picture).permute(2, 0, 1).to(torch.float32) / 255


def to_levels(view: torch.Tensor) -> np.ndarray:
    """float32 [3, H, W] in [0, 1] -> float32 [H, W, 3] in grey levels."""
    return (view * 255).permute(1, 2, 0).numpy()


def square(photograph: np.ndarray, size: int) -> np.ndarray:
    """Return the view of a whole photograph."""
    row = table_row(height=photograph.shape[0], width=photograph.shape[1])
    return np.ascontiguousarray(geometry.reference(torch.from_numpy(photograph), row, size, "bilinear").numpy())


def by_engine(
    image: np.ndarray,
    row: np.void,
    size: int,
    *,
    interpolation: str = "bicubic",
    jitter: str = "relicv2",
    mask: np.ndarray | None = None,
    plate: np.ndarray | None = None,
    name: str | None = None,
) -> np.ndarray:
    """Return the view uint8 [size, size, 3] that an engine makes of uint8 [H, W, 3]; the fastest unless named."""
    recipe = ViewsConfig(interpolation=interpolation, photometric=PhotometricConfig(jitter=jitter))
    view = np.zeros((size, size, 3), np.uint8)
    plates = None if plate is None else plate[None]
    engine.render(name or engine.chosen(), image, np.array([row]), [view], settings_of(recipe), mask, plates)
    return view


def unresized(picture: np.ndarray, row: np.void, **choices) -> np.ndarray:
    """Return what an engine makes of a square picture, whose row's box is set to all of it: nothing is resized."""
    row = row.copy()
    for name, value in zip(("top", "left", "height", "width"), (0, 0, *picture.shape[:2]), strict=True):
        row[name] = value
    return by_engine(picture, row, len(picture), **choices)


def to_bytes(view: torch.Tensor) -> np.ndarray:
    """float32 [3, H, W] in [0, 1] -> uint8 [H, W, 3], rounded as at the end of a view."""
    return (view * 255).clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
