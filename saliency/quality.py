"""How good are saliency maps against known masks, and how far do they agree: the measures of the saliency literature.

"Max F" has three meanings in print. With P and R the precision and recall at a threshold, over 256 of them:

- `max_f`: the largest F of P and R averaged over the images. Achanta et al. (CVPR 2009), Borji et al. (Salient Object
  Detection: A Benchmark, TIP 2015) and most papers up to about 2019; the figure we mean by max F.
- `max_f_of_mean_curve`: every image's curve of F averaged over the images, then its largest value. PySODMetrics, and
  what most papers since report; lower, since no threshold suits all images.
- `mean_of_max_f`: the largest F of every image, averaged. Highest, since every image picks its own threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BETA_SQUARED = 0.3  # precision counts more than recall (Achanta et al., CVPR 2009)
LEVELS = 256
BINS = 10


class Scores(NamedTuple):
    """Measures of one map, each in [0, 1]."""

    mae: float
    """Mean absolute error (lower is better)."""
    max_f: float
    """Largest F measure over 256 thresholds, beta² = 0.3."""
    iou: float
    """Intersection over union of the map cut at 0.5; 1 where both are empty."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Measures of the maps of many images, each in [0, 1] but `images`."""

    images: int
    """How many were compared."""
    mae: float
    """Mean absolute error (lower is better)."""
    max_f: float
    """Largest F, beta² = 0.3, of precision and recall averaged over the images."""
    max_f_of_mean_curve: float
    """Largest value of the curves of F averaged over the images."""
    mean_of_max_f: float
    """Mean of every image's own largest F."""
    iou: float
    """Intersection over union of the map cut at 0.5, mean over the images."""


def scores(saliency: np.ndarray, truth: np.ndarray) -> Scores:
    """Compare a map with the true mask.

    Args:
        saliency: float [H, W] in [0, 1], or bool.
        truth: bool [H, W].

    Raises:
        ValueError: the shapes differ, or `truth` is not bool.
    """
    return _compare(saliency, truth)[0]


class Tally:
    """Gather the measures of many maps one by one, in constant memory. Attribute: `images`, how many so far."""

    def __init__(self) -> None:
        self._sums = np.zeros(len(Scores._fields))
        self._precision, self._recall, self._f = np.zeros((3, LEVELS))
        self.images = 0

    def add(self, saliency: np.ndarray, truth: np.ndarray) -> Scores:
        """Take in one map; arguments, errors and what is returned as `scores`."""
        found, precision, recall = _compare(saliency, truth)
        self._sums += found
        self._precision += precision
        self._recall += recall
        self._f += f_measure(precision, recall)
        self.images += 1
        return found

    def quality(self) -> Quality:
        """Return the measures of all maps so far.

        Raises:
            ValueError: there was none.
        """
        if self.images == 0:
            raise ValueError("no map was compared with a mask")
        mae, mean_of_max_f, iou = self._sums / self.images
        of_means = f_measure(self._precision / self.images, self._recall / self.images)
        return Quality(
            images=self.images,
            mae=float(mae),
            max_f=float(of_means.max()),
            max_f_of_mean_curve=float(self._f.max() / self.images),
            mean_of_max_f=float(mean_of_max_f),
            iou=float(iou),
        )


def precision_recall(saliency: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a map at each of 256 levels (round(255 · saliency) ≥ level) and compare with the mask.

    Returns:
        precision and recall, float64 [256], level 0 first; 0 where nothing is chosen or nothing is true.
    """
    levels = np.clip(np.round(saliency.astype(np.float64) * 255), 0, 255).astype(np.uint8)
    hits = np.bincount(levels[truth], minlength=LEVELS)[::-1].cumsum()[::-1]
    chosen = np.bincount(levels.ravel(), minlength=LEVELS)[::-1].cumsum()[::-1]
    return hits / np.maximum(chosen, 1), hits / max(int(truth.sum()), 1)


def f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Return F, beta² = 0.3, of every threshold; 0 where precision and recall are 0."""
    weighted = BETA_SQUARED * precision + recall
    above = (1 + BETA_SQUARED) * precision * recall
    return np.divide(above, weighted, out=np.zeros_like(weighted), where=weighted > 0)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two bool [H, W]; 1 where both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Pearson's correlation of two maps [H, W] in [-1, 1]; NaN where one of them is flat."""
    one, other = (each.astype(np.float64) - each.mean() for each in (one, other))
    norms = math.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / norms) if norms else math.nan


def histogram(shares: np.ndarray) -> list[int]:
    """Count shares in [0, 1] in ten bins of a tenth; 1 is in the last."""
    return np.histogram(shares, bins=BINS, range=(0, 1))[0].tolist()


def _compare(saliency: np.ndarray, truth: np.ndarray) -> tuple[Scores, np.ndarray, np.ndarray]:
    if saliency.shape != truth.shape or truth.dtype != np.bool_:
        raise ValueError(f"a map {saliency.shape} needs a bool mask of its shape, not {truth.dtype} {truth.shape}")
    precision, recall = precision_recall(saliency, truth)
    found = Scores(
        mae=float(np.abs(saliency.astype(np.float64) - truth).mean()),
        max_f=float(f_measure(precision, recall).max()),
        iou=overlap(saliency >= 0.5, truth),
    )
    return found, precision, recall
