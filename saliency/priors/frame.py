"""Frames around photographs: a prior that trusts the border of an image would take the frame for all background.

6 % of ImageNet's photographs have one (31 of 500): a white or black line around a scan, bars of a letterbox.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WIDEST = 0.25  # of the side; a wider one is part of the picture
SAME, OTHER = 16, 24  # grey levels: noise of JPEG within a frame, and the step at its end
PLAIN, STEP = 0.97, 0.75  # shares of a row: an object on a plain ground meets it with its tip only
SMALLEST = 32  # pixels; shorter rows are plain, and differ, by chance
BLUR = 2  # rows behind the frame that shrinking and JPEG mix with it


class Frame(NamedTuple):
    """Rows and columns that belong to the frame, pixels."""

    top: int
    bottom: int
    left: int
    right: int


def find_frame(image: np.ndarray) -> Frame:
    """Find the frame of an image, uint8 [H, W, 3]: sides of one colour that end in a step along all their length."""
    if min(image.shape[:2]) < SMALLEST:
        return Frame(0, 0, 0, 0)
    columns = image.transpose(1, 0, 2)
    return Frame(_rows(image), _rows(image[::-1]), _rows(columns), _rows(columns[::-1]))


def _rows(image: np.ndarray) -> int:
    height = len(image)
    colour = np.median(image[0], axis=0)
    plain = 0
    while plain < height * WIDEST and _share(image[plain], colour, SAME) <= 1 - PLAIN:
        plain += 1
    beyond = plain + BLUR + 1
    if not 0 < plain < height * WIDEST or beyond >= height or _share(image[beyond], colour, OTHER) <= STEP:
        return 0
    return plain + BLUR


def _share(row: np.ndarray, colour: np.ndarray, levels: int) -> float:
    """Return which share of a row's pixels differs from a colour by more than some levels in any channel."""
    return float((np.abs(row - colour).max(axis=1) > levels).mean())
