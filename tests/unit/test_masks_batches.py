"""Images go through a method some at a time, within memory."""

from __future__ import annotations

import numpy as np

from relic.masks import batches
from saliency.infer import Maker


def test_large_images_come_in_small_batches(monkeypatch):
    monkeypatch.setattr(batches, "BATCH_BYTES", 100 * 100 * 3 * 2)
    monkeypatch.setattr(
        "saliency.infer.by_priors", lambda *_: lambda images: [np.full((2, 2), len(images))] * len(images)
    )
    batches.method_of.cache_clear()
    images = ((number, np.zeros((100, side, 3), np.uint8)) for number, side in enumerate([100, 100, 250, 20, 20]))
    found = list(batches.mapped(images, Maker()))
    batches.method_of.cache_clear()
    assert [(key, size, int(saliency[0, 0])) for key, size, saliency in found] == [
        (0, (100, 100), 2),
        (1, (100, 100), 2),
        (2, (100, 250), 1),
        (3, (100, 20), 2),
        (4, (100, 20), 2),
    ]
