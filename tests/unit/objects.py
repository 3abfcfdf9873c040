"""Images of plain objects on plain grounds, whose salient pixels are known."""

from __future__ import annotations

import numpy as np

GROUND, OBJECT = (90, 120, 70), (180, 80, 130)  # RGB


def image_of(inside: np.ndarray, *, noise: float = 0.0, gray: bool = False) -> np.ndarray:
    """Paint an object on its ground, uint8 [H, W, 3], with normal noise of that many grey levels.

    Args:
        inside: bool [H, W], the object.
    """
    image = np.where(inside[..., None], OBJECT, GROUND).astype(np.float64)
    if gray:
        image[:] = np.where(inside, 170, 90)[..., None]
    grain = np.random.default_rng(0).normal(0, noise, (*inside.shape, 1 if gray else 3))
    return (image + grain).round().clip(0, 255).astype(np.uint8)


def disc(height: int, width: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Return a disc, bool [height, width]; centre (y, x) and radius in pixels."""
    y, x = np.ogrid[:height, :width]
    return np.hypot(y - centre[0], x - centre[1]) < radius


def contrast_of(saliency: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Return the mean of a map inside and outside of the object."""
    return float(saliency[inside].mean()), float(saliency[~inside].mean())
