"""Labels that nobody drew: what a network learns, made of the priors' maps and of the image's own colours and edges."""

from __future__ import annotations

import numpy as np

from saliency.crf import smoothed
from saliency.cut import cut
from saliency.priors import levelled


def fused(maps: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Fuse the maps of all priors into one label.

    Their mean is levelled, and three ways of bringing it to the image's edges vote: the CRF's mean field, the cut, and
    the cut of the mean field.

    Args:
        maps: of the priors, uint8 [side, side, priors].
        rgb: uint8 [side, side, 3].

    Returns:
        uint8 [side, side].
    """
    rough = levelled(maps.mean(axis=-1, dtype=np.float32) / 255)
    smooth = smoothed(rgb, rough)
    votes = smooth + cut(rgb, rough) + cut(rgb, smooth)
    return np.round(votes / 3 * 255).astype(np.uint8)
