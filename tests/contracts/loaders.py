"""What the tests of loaders share: a small recipe, the backends, and batches taken apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipelines.config import BackgroundConfig, CropConfig, ViewsConfig
from pipelines.contract import Loader
from pipelines.loader import TableLoader

RECIPE = ViewsConfig(
    large=CropConfig(count=2, size=32),
    small=CropConfig(count=1, size=20, area=(0.05, 0.25)),
    background=BackgroundConfig(chance=0.5),
)
DALI = pytest.param("dali", marks=pytest.mark.extra("dali"))
THREADED_BACKENDS = ("reference", "fused", "synthetic")
"""Whose views are made in threads of our own."""
TABLE_BACKENDS = (*THREADED_BACKENDS, DALI)
SKIPPING_BACKENDS = ("reference", "fused")
DECODING_BACKENDS = (*SKIPPING_BACKENDS, DALI)
NUM_IMAGES, BATCH_SIZE, SEED = 12, 2, 3

Make = Callable[..., TableLoader]


def views_by_image(loader: Loader) -> dict[int, list[bytes]]:
    return {
        index: [view[slot].numpy().tobytes() for view in (*batch.large, *batch.small)]
        for batch in loader
        for slot, index in enumerate(batch.index.tolist())
    }
