"""Images to masks: prior → threshold → 128 × 128 bits, with the masks that are no use rejected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import cv2
import numpy as np

from saliency.priors import Prior
from saliency.store import SIDE

SMALLEST, LARGEST = 0.01, 0.9  # shares of the image; a mask outside is rejected (specification, section 5)
Reason = Literal["empty", "under 1 %", "over 90 %"]


class Inferred(NamedTuple):
    """What came of one image."""

    index: int
    mask: np.ndarray | None
    """bool [128, 128], True = salient; None where it was rejected."""
    coverage: float
    """Salient share of the image, also of a rejected mask."""
    reason: Reason | None
    """Why it was rejected."""


def infer(images: Iterable[tuple[int, np.ndarray]], prior: Prior) -> Iterator[Inferred]:
    """Make a mask of every image, in the order they come.

    Args:
        images: (index, uint8 RGB [H, W, 3]); an array is read before the next one is asked for.
        prior: one of `saliency.priors.PRIORS`.
    """
    for index, image in images:
        mask = binary_mask(prior(image))
        coverage = float(mask.mean())
        reason = rejection(coverage)
        yield Inferred(index, mask if reason is None else None, coverage, reason)


def binary_mask(saliency: np.ndarray) -> np.ndarray:
    """Shrink a map to the store's size and cut it in two by Otsu's threshold.

    Otsu's threshold follows the map and has no constant to tune; the other usual choice, twice the mean, lies
    above every value of the map where the object covers more than half of the image.

    Args:
        saliency: float32 [H, W] in [0, 1].

    Returns:
        bool [128, 128]; all False for a map without any contrast.
    """
    shrinks = saliency.shape[0] >= SIDE and saliency.shape[1] >= SIDE
    small = cv2.resize(saliency, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    levels = np.round(small * 255).astype(np.uint8)
    if np.ptp(levels) <= 1:  # one level is rounding
        return np.zeros((SIDE, SIDE), np.bool_)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    return levels > threshold


def rejection(coverage: float) -> Reason | None:
    """Say why a mask that covers this share of its image is no use, or None."""
    if coverage == 0:
        return "empty"
    if coverage < SMALLEST:
        return "under 1 %"
    return "over 90 %" if coverage > LARGEST else None
