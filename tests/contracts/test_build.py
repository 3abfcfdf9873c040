"""What `build_loader` refuses, in one line that names the file and the mend."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from loaders import DALI

from pipelines.beton import Beton
from pipelines.build import Backend, build_loader
from pipelines.config import BackgroundConfig, ViewsConfig
from saliency.store import MaskStoreWriter

build = partial(build_loader, recipe=ViewsConfig(), batch_size=2)
SWAPS = ViewsConfig(background=BackgroundConfig(mode="swap"))


@pytest.mark.parametrize(
    "backend", ["reference", "fused", "synthetic", DALI, pytest.param("ffcv", marks=pytest.mark.extra("ffcv"))]
)
def test_less_than_one_batch(tiny_beton: Path, backend: str):
    with pytest.raises(ValueError, match="12 images, fewer than one batch of 14") as raised:
        build(tiny_beton, backend=backend, batch_size=7, world_size=2)
    assert str(tiny_beton) in str(raised.value)


def test_masks_of_another_beton(tiny_beton: Path, tmp_path: Path):
    with MaskStoreWriter(tmp_path / "other.masks", len(Beton(tiny_beton)), "0" * 64):
        pass
    with pytest.raises(ValueError, match=r"other\.masks"):
        build(tiny_beton, masks=tmp_path / "other.masks")


def test_swaps_without_plates(tiny_beton: Path, tiny_masks: Path, tiny_plates: Path):
    with pytest.raises(ValueError, match="needs plates"):
        build(tiny_beton, recipe=SWAPS, masks=tiny_masks)
    build(tiny_beton, recipe=SWAPS, masks=tiny_masks, plates=tiny_plates).close()


def test_plates_that_are_none(tiny_beton: Path, tmp_path: Path):
    np.save(tmp_path / "gray.npy", np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"gray\.npy holds uint8 \(2, 8, 8\)"):
        build(tiny_beton, plates=tmp_path / "gray.npy")


def test_an_unknown_backend(tiny_beton: Path):
    with pytest.raises(ValueError, match="did you mean 'reference'"):
        build(tiny_beton, backend="referense")


@pytest.mark.parametrize("backend", ["ffcv", "dali"])
def test_who_cannot_skip_says_so(tiny_beton: Path, backend: Backend):
    with pytest.raises(ValueError, match=f"{backend} cannot leave out a corrupt image: take on_corrupt=raise"):
        build_loader(tiny_beton, ViewsConfig(), batch_size=2, backend=backend, on_corrupt="skip")
