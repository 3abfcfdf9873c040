"""Stock FFCV 1.0.2 as `pipelines.backends.ffcv` drives it, on a beton of the same files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.work import Work
from pipelines.backends.ffcv import FfcvLoader
from pipelines.build import open_source
from pipelines.ops.normalize import normalize
from pipelines.position import Position
from pipelines.prepare.convert import ConvertConfig, convert


class Ffcv:
    """FFCV's loader over the images in `folder`, which lives as long as this provider."""

    note = "draws its own numbers; no hue, grayscale, blur, solarize, so it does less work; area resize, six decodes"

    def __init__(self, work: Work, folder: tempfile.TemporaryDirectory):
        self._folder = folder
        beton = Path(folder.name) / "images.beton"
        summary = convert(Path(folder.name) / "images", beton, config=ConvertConfig())
        if summary.images != len(work.jpegs):
            raise ValueError(f"{len(work.jpegs) - summary.images} of the images do not fit in a beton: leave them out")
        source = open_source(beton, work.recipe)
        self._order = _Order(
            beton=source.beton,
            batch_size=work.batch_size,
            seed=work.seed,
            rank=0,
            world_size=1,
            shuffle=False,
            drop_last=False,
        )
        self._loader = FfcvLoader(source, work.recipe, self._order, num_threads=work.threads)

    def run(self, indices: Sequence[int]) -> dict[str, float]:
        """Serve these images, and normalise them to float32."""
        self._order.indices = np.array(indices, np.int64)
        for batch in self._loader:
            for view in (*batch.large, *batch.small):
                normalize(view)
        return {}

    def views(self, index: int) -> None:
        """Return None: the views do not follow the rows."""


class _Order(Position):
    """An order of chosen images instead of an epoch's."""

    indices: np.ndarray

    def batches(self) -> list[np.ndarray]:
        starts = range(0, len(self.indices), self.batch_size)
        return [self.indices[start : start + self.batch_size] for start in starts]

    def advance(self) -> None:
        """Stay: every pass starts at the front."""


def prepare(work: Work) -> Ffcv:
    """Convert the images to a beton in a temporary folder."""
    torch.set_num_threads(work.threads)
    folder = tempfile.TemporaryDirectory(prefix="ffcv-")
    images = Path(folder.name) / "images"
    images.mkdir()
    for index, jpeg in enumerate(work.jpegs):
        (images / f"{index:06d}.jpg").write_bytes(jpeg)
    return Ffcv(work, folder)
