"""Maps of one or more priors measured side by side: against the true masks, and against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from saliency import quality
from saliency.maps import resized
from saliency.structure import StructureTally


class Comparison:
    """Gather what is known of every prior's maps, image by image; keeps a few numbers per image and no map.

    Args:
        names: of the priors, no two alike.
        with_structure: also take the measures that need PySODMetrics.
    """

    def __init__(self, names: Sequence[str], *, with_structure: bool):
        self._columns = {name: _Column(with_structure=with_structure) for name in names}
        self._agreement: dict[tuple[str, str], list[tuple[float, float]]] = {
            pair: [] for pair in combinations(names, 2)
        }
        self._true_shares: list[float] = []
        self._images = 0

    def add(self, maps: Sequence[np.ndarray | None], truth: np.ndarray | None) -> list[float | None]:
        """Take in one image.

        Args:
            maps: per prior, uint8 [h, w]; None where it has no mask for this image.
            truth: bool [H, W], the true mask, to whose size the maps are brought; without one they are brought to the
                size of the first and compared with each other only.

        Returns:
            IoU with the truth per prior; None where there is no map or no truth.
        """
        self._images += 1
        if truth is not None:
            self._true_shares.append(float(truth.mean()))
        shape = next((each.shape for each in (truth, *maps) if each is not None), ())
        fitted = [None if each is None else resized(each, shape) for each in maps]
        for (one, a), (other, b) in combinations(zip(self._columns, fitted, strict=True), 2):
            if a is not None and b is not None:
                pair = quality.overlap(a > 127, b > 127), quality.correlation(a, b)
                self._agreement[one, other].append(pair)
        return [
            column.add(each, was_resized=before is not None and before.shape != shape, truth=truth)
            for column, each, before in zip(self._columns.values(), fitted, maps, strict=True)
        ]

    def summary(self) -> dict[str, Any]:
        """Return all figures, ready for JSON: `images`, `maps` by prior, `true_coverage`, `agreement` by pair."""
        return {
            "images": self._images,
            "maps": {name: column.summary() for name, column in self._columns.items()},
            "true_coverage": _coverage(self._true_shares),
            "agreement": [
                {"maps": list(pair), "images": len(found), **_means(found)} for pair, found in self._agreement.items()
            ],
        }


class _Column:
    """What is known of one prior's maps."""

    def __init__(self, *, with_structure: bool):
        self._tally = quality.Tally()
        self._structure = StructureTally() if with_structure else None
        self._shares: list[float] = []
        self._resized = self._absent = 0

    def add(self, gray: np.ndarray | None, *, was_resized: bool, truth: np.ndarray | None) -> float | None:
        if gray is None:
            self._absent += 1
            return None
        self._resized += was_resized
        self._shares.append(float((gray > 127).mean()))
        if truth is None:
            return None
        saliency = gray / np.float32(255)
        if self._structure is not None:
            self._structure.add(saliency, truth)
        return self._tally.add(saliency, truth).iou

    def summary(self) -> dict[str, Any]:
        measured = {"absent": self._absent, "resized": self._resized, "coverage": _coverage(self._shares)}
        if self._tally.images:
            measured |= asdict(self._tally.quality())
            if self._structure is not None:
                measured |= asdict(self._structure.structure())
        return measured


def _coverage(shares: list[float]) -> dict[str, Any] | None:
    """Return the median salient share of the images, and how many have a share in each tenth."""
    if not shares:
        return None
    return {"median": float(np.median(shares)), "histogram": quality.histogram(np.array(shares))}


def _means(pairs: list[tuple[float, float]]) -> dict[str, float | None]:
    """Return mean IoU and mean correlation; None where there is nothing to average, as of flat maps."""
    ious = [iou for iou, _ in pairs]
    correlations = [r for _, r in pairs if not np.isnan(r)]
    return {
        "iou": float(np.mean(ious)) if ious else None,
        "correlation": float(np.mean(correlations)) if correlations else None,
    }
