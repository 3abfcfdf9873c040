"""Images and maps as squares."""

from __future__ import annotations

import cv2
import numpy as np


def to_square(picture: np.ndarray, side: int) -> np.ndarray:
    """Bring an image or a map to a square, averaging where it shrinks."""
    shrinks = picture.shape[0] >= side and picture.shape[1] >= side
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
