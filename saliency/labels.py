"""Labels that nobody drew: what a network learns, made of all priors and of the image's own colours and edges."""

from __future__ import annotations

import numpy as np

from saliency.crf import smoothed
from saliency.cut import cut
from saliency.priors import DEFAULT, find_priors, levelled, mean
from saliency.priors.scene import SUPERPIXELS, WORKING_SIDE, Scene
from saliency.squares import to_square

SIDE = 160  # of the square in which maps are brought to the image's edges
SCALES = ((WORKING_SIDE, SUPERPIXELS), (160, 120), (128, 120))
"""Working side and superpixels of each look at the image."""


def label(image: np.ndarray, side: int) -> np.ndarray:
    """Make the label of an image: what share of several ways of bringing its priors to its edges says salient.

    Args:
        image: uint8 RGB [H, W, 3].
        side: pixels.

    Returns:
        uint8 [side, side].
    """
    votes = [vote for working_side, superpixels in SCALES for vote in _votes(image, working_side, superpixels)]
    return np.round(to_square(np.mean(votes, axis=0), side) * 255).astype(np.uint8)


def _votes(image: np.ndarray, working_side: int, superpixels: int) -> tuple[np.ndarray, ...]:
    """Return the levelled mean of all priors after the CRF, after the cut, and after both: float32 [SIDE, SIDE]."""
    scene = Scene(image, working_side, superpixels)
    rgb = to_square(scene.whole, SIDE)
    rough = to_square(scene.framed(levelled(mean(scene, find_priors(DEFAULT)))), SIDE)
    smooth = smoothed(rgb, rough)
    return smooth, cut(rgb, rough), cut(rgb, smooth)
