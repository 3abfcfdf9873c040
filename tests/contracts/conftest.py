"""Loaders for the contract tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loaders import BATCH_SIZE, RECIPE, SEED, Make
from sharded import in_shards, masks_in_shards

from pipelines.build import build_loader
from pipelines.config import ViewsConfig
from pipelines.contract import Loader
from pipelines.shards import open_beton


@pytest.fixture(scope="session")
def tiny_shards(tiny_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the images of `tiny_beton` in four shards, one of them empty."""
    return in_shards(tiny_beton, tmp_path_factory.mktemp("shards"), (5, 0, 1, 6))


@pytest.fixture(scope="session")
def tiny_mask_shards(tiny_masks: Path, tiny_shards: Path) -> Path:
    """Return the masks of `tiny_masks` for `tiny_shards`, a store for each."""
    with open_beton(tiny_shards) as beton:
        return masks_in_shards(tiny_masks, tiny_shards.with_suffix(".masks"), beton.fingerprint(), beton.files)


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
