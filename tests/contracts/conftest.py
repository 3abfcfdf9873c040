"""Loaders for the contract tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loaders import BATCH_SIZE, RECIPE, SEED, Make

from pipelines.build import build_loader
from pipelines.config import ViewsConfig
from pipelines.contract import Loader


@pytest.fixture
def make(tiny_beton: Path, tiny_masks: Path) -> Iterator[Make]:
    """Return build_loader with defaults; what it makes is closed after the test."""
    made: list[Loader] = []

    def build(backend: str, *, data: Path = tiny_beton, recipe: ViewsConfig = RECIPE, **changes) -> Loader:
        arguments = {"batch_size": BATCH_SIZE, "seed": SEED, "masks": tiny_masks, **changes}
        made.append(build_loader(data, recipe, backend=backend, **arguments))
        return made[-1]

    yield build
    for loader in made:
        loader.close()
