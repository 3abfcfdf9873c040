"""How good is a saliency map against a known mask: the measures of the saliency literature."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BETA_SQUARED = 0.3  # precision counts more than recall (Achanta et al., CVPR 2009)


class Scores(NamedTuple):
    """Measures of one map, each in [0, 1]."""

    mae: float
    """Mean absolute error (lower is better)."""
    max_f: float
    """Largest F measure over 256 thresholds, beta² = 0.3."""
    iou: float
    """Intersection over union of the map cut at 0.5; 1 where both are empty."""


def scores(saliency: np.ndarray, truth: np.ndarray) -> Scores:
    """Compare a map with the true mask.

    Args:
        saliency: float [H, W] in [0, 1], or bool.
        truth: bool [H, W].

    Raises:
        ValueError: the shapes differ, or `truth` is not bool.
    """
    if saliency.shape != truth.shape or truth.dtype != np.bool_:
        raise ValueError(f"a map {saliency.shape} needs a bool mask of its shape, not {truth.dtype} {truth.shape}")
    precision, recall = precision_recall(saliency, truth)
    weighted = BETA_SQUARED * precision + recall
    f = np.divide((1 + BETA_SQUARED) * precision * recall, weighted, out=np.zeros(256), where=weighted > 0)
    chosen = saliency >= 0.5
    union = np.count_nonzero(chosen | truth)
    return Scores(
        mae=float(np.abs(saliency.astype(np.float64) - truth).mean()),
        max_f=float(f.max()),
        iou=np.count_nonzero(chosen & truth) / union if union else 1.0,
    )


def precision_recall(saliency: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a map at each of 256 levels (round(255 · saliency) ≥ level) and compare with the mask.

    Returns:
        precision and recall, float64 [256], level 0 first; 0 where nothing is chosen or nothing is true.
    """
    levels = np.clip(np.round(saliency.astype(np.float64) * 255), 0, 255).astype(np.uint8)
    hits = np.bincount(levels[truth], minlength=256)[::-1].cumsum()[::-1]
    chosen = np.bincount(levels.ravel(), minlength=256)[::-1].cumsum()[::-1]
    return hits / np.maximum(chosen, 1), hits / max(int(truth.sum()), 1)
