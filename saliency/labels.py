"""Labels that nobody drew: what a network is trained on, made of the priors' maps and of networks' predictions."""

from __future__ import annotations

import numpy as np

from saliency.crf import CrfConfig, smoothed
from saliency.cut import cut
from saliency.priors import levelled

COMMON = CrfConfig(model_weight=0)


def thresholded(maps: np.ndarray) -> np.ndarray:
    """Cut each map at its own threshold: the first labels of the first phase.

    Args:
        maps: uint8 [side, side, priors].

    Returns:
        uint8 of that shape, 0 or 255.
    """
    cuts = [levelled(maps[..., prior] / np.float32(255)) > 0.5 for prior in range(maps.shape[-1])]
    return np.stack(cuts, axis=-1).astype(np.uint8) * 255


def averaged(labels: np.ndarray, predictions: np.ndarray, rgb: np.ndarray, keep: float) -> np.ndarray:
    """Move labels towards the CRF-smoothed predictions: label ← keep · label + (1 − keep) · CRF(prediction).

    Args:
        labels: uint8 [side, side, priors].
        predictions: of the network's head for each prior, uint8 [side, side, priors].
        rgb: uint8 [side, side, 3].
        keep: share of the old label.

    Returns:
        uint8 [side, side, priors].
    """
    smooth = [smoothed(rgb, predictions[..., prior] / np.float32(255), COMMON) for prior in range(labels.shape[-1])]
    return np.round(keep * labels + (1 - keep) * 255 * np.stack(smooth, axis=-1)).astype(np.uint8)


def fused(maps: np.ndarray, refined: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Fuse what is known of an image into one label: the labels of the second phase.

    The mean of all maps, raw and refined, is levelled, and three ways of bringing it to the image's edges vote: the
    CRF's mean field, the cut, and the cut of the mean field.

    Args:
        maps, refined: of the priors, uint8 [side, side, priors].
        rgb: uint8 [side, side, 3].

    Returns:
        uint8 [side, side].
    """
    mean = (maps.mean(axis=-1) + refined.mean(axis=-1)).astype(np.float32) / np.float32(2 * 255)
    rough = levelled(mean)
    smooth = smoothed(rgb, rough)
    votes = smooth + cut(rgb, rough) + cut(rgb, smooth)
    return np.round(votes / 3 * 255).astype(np.uint8)
