"""Solarize: invert what is at or above one half."""

from __future__ import annotations

import cv2
import numpy as np
import torch


def reference(view: torch.Tensor) -> torch.Tensor:
    """Return where(view < 1/2, view, 1 - view); float32 [3, H, W] in [0, 1]."""
    return torch.where(view < 0.5, view, 1.0 - view)


def fused(view: np.ndarray) -> np.ndarray:
    """As `reference` on [0, 255]: min(x, 255 - x) is the same function, since the two branches meet at one half."""
    return cv2.min(view, cv2.subtract(255.0, view))
