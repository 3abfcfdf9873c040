"""The paper's numbers (ReLICv2, arXiv 2201.05119), to stand beside a run's own."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """Top-1 accuracy in percent; None where the paper gives none."""

    relicv2: float
    best_earlier: str | None = None
    """Best self-supervised method before."""
    supervised: float | None = None


# Linear evaluation on ImageNet's validation images, 1000 epochs.
LINEAR = {
    "resnet50": Published(relicv2=77.1, best_earlier="75.6", supervised=76.5),
    "resnet50x2": Published(relicv2=79.0, best_earlier="77.4 to 78.8", supervised=77.8),
    "resnet50x4": Published(relicv2=79.4, best_earlier="78.6", supervised=78.9),
    "resnet101": Published(relicv2=78.7, best_earlier="76.4", supervised=78.0),
    "resnet152": Published(relicv2=79.3, best_earlier="77.3", supervised=79.1),
    "resnet200": Published(relicv2=79.8, best_earlier="77.8", supervised=79.3),
    "resnet200x2": Published(relicv2=80.6, best_earlier="79.6", supervised=80.1),
}
KNN = {"resnet50": Published(relicv2=70.5, best_earlier="68.0 (BYOL)")}
OBJECTNET = {"resnet50": Published(relicv2=25.9, best_earlier="14.6 (SimCLR)")}


def published(*, backbone: str, view_size: int, test: str, metric: str) -> Published | None:
    """Return what the paper gives for a result, None where nothing is comparable.

    Comparable are ImageNet's validation images and ObjectNet, told by the test set's name, at 224 pixels.

    Args:
        backbone: as in `model.backbone`.
        view_size: side of the test views in pixels.
        test: name of the test set.
        metric: `linear` or `knn@K` (top-1).
    """
    if view_size != 224:
        return None
    if "objectnet" in test.lower():
        return OBJECTNET.get(backbone) if metric == "linear" else None
    if not re.search(r"(^|[^a-z])val", test.lower()):
        return None
    if metric == "linear":
        return LINEAR.get(backbone)
    return KNN.get(backbone) if re.fullmatch(r"knn@\d+", metric) else None
