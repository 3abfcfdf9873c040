"""Labels that nobody drew: what a network learns, made of all priors and of the image's own colours and edges."""

from __future__ import annotations

import numpy as np

from saliency.crf import smoothed
from saliency.cut import cut
from saliency.priors import DEFAULT, find_priors, levelled, mean
from saliency.priors.scene import SUPERPIXELS, WORKING_SIDE, Scene
from saliency.squares import resized

SIDE = 160  # of the square in which maps are brought to the image's edges
SCALES = ((WORKING_SIDE, SUPERPIXELS), (160, 120))
"""Working side and superpixels of each look at the image."""


def label(image: np.ndarray, side: int) -> np.ndarray:
    """Make the label of an image.

    It is looked at twice, finely and coarsely. Each time the mean of all priors is levelled, and three ways of bringing
    it to the image's edges vote: the CRF's mean field, the cut, and the cut of the mean field.

    Args:
        image: uint8 RGB [H, W, 3].
        side: pixels.

    Returns:
        uint8 [side, side].
    """
    priors, votes = find_priors(DEFAULT), np.zeros((SIDE, SIDE), np.float32)
    for working_side, superpixels in SCALES:
        scene = Scene(image, working_side, superpixels)
        rgb, rough = resized(scene.whole, SIDE), resized(scene.framed(levelled(mean(scene, priors))), SIDE)
        smooth = smoothed(rgb, rough)
        votes += smooth + cut(rgb, rough) + cut(rgb, smooth)
    return np.round(resized(votes, side) * (255 / (3 * len(SCALES)))).astype(np.uint8)
