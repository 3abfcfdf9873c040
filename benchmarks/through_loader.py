"""A whole loader of ours as a provider: from the file to finished views on a device, which is what a run gets."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.image_by_image import grey_levels
from benchmarks.work import Work
from pipelines.build import build_loader
from pipelines.prepare.writer import write_beton

if TYPE_CHECKING:
    from pipelines.build import Backend

ON_CPU = "no GPU: the photometric half ran in plain torch on the CPU, which nobody would do"


class ThroughLoader:
    """Serve the images of a work from a beton, and finish their views on the GPU, if there is one.

    Args:
        work: what is to be made; its rows are those that the loader draws.
        backend: who decodes and resizes.
    """

    def __init__(self, work: Work, backend: Backend):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        on_gpu = f"views end on the GPU, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ON_CPU
        self.note = f"a whole loader; {on_gpu}"
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "images.beton"
        write_beton(path, work.jpegs, [-1] * len(work.jpegs))
        self._device = device
        self._loader = build_loader(
            path,
            work.recipe,
            batch_size=work.batch_size,
            seed=work.seed,
            backend=backend,
            num_threads=work.threads,
            shuffle=False,
            drop_last=False,
            device=device,
            photometric="device",
            output=work.output,
        )

    def run(self, indices: Sequence[int]) -> dict[str, float]:
        """Make one epoch, whatever is asked: a part of one would leave batches behind that the next pays for."""
        before = self._loader.stats()
        self._loader.set_epoch(0)
        for _ in self._loader:
            pass
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        stages = ("decode", "render", "table", "wait", "photometric")
        return {name: after - before.get(name, 0.0) for name, after in self._loader.stats().items() if name in stages}

    def views(self, index: int) -> list[np.ndarray]:
        """Return the views of one image as grey levels."""
        self._loader.load_state_dict({**self._loader.state_dict(), "epoch": 0, "position": index})
        batch = next(iter(self._loader))
        return [grey_levels(view[0].float().cpu().numpy()) for view in (*batch.large, *batch.small)]
