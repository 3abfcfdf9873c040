"""S- and E-measure, by PySODMetrics: how much of an object's structure a map keeps. Needs the package pysodmetrics."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np

PACKAGE = "pysodmetrics"


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Measures of the maps of many images, each in [0, 1]."""

    s_measure: float
    """S-measure, alpha = 0.5 (Fan et al., ICCV 2017), mean over the images."""
    mean_e: float
    """E-measure (Fan et al., IJCAI 2018), mean over images and 256 thresholds."""
    max_e: float
    """Largest value of the curves of the E-measure averaged over the images."""


def is_installed() -> bool:
    """Say whether PySODMetrics can be imported."""
    return importlib.util.find_spec("py_sod_metrics") is not None


class StructureTally:
    """Gather the structure measures of many maps one by one, in constant memory."""

    def __init__(self) -> None:
        self._s, self._images = 0.0, 0
        self._e = np.zeros(256)

    def add(self, saliency: np.ndarray, truth: np.ndarray) -> None:
        """Take in one map, float [H, W] in [0, 1], and its true mask, bool [H, W].

        The map is taken as it is; PySODMetrics by itself would first stretch it to 0 ... 1.
        """
        from py_sod_metrics import Emeasure, Smeasure  # takes seconds: it imports scikit-learn

        s, e = Smeasure(), Emeasure()  # new ones, since they keep the curves of all images
        for measure in (s, e):
            measure.step(saliency.astype(np.float64), truth, normalize=False)
        self._s += float(s.get_results()["sm"])
        self._e += e.get_results()["em"]["curve"]
        self._images += 1

    def structure(self) -> Structure:
        """Return the measures of all maps so far; ValueError where there was none."""
        if self._images == 0:
            raise ValueError("no map was compared with a mask")
        curve = self._e / self._images
        return Structure(s_measure=self._s / self._images, mean_e=float(curve.mean()), max_e=float(curve.max()))
