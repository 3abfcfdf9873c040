"""The fused engine: the table of a batch, then per image one decode and one call that makes all its views."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks import jpeg
from benchmarks.image_by_image import ImageByImage, array_buffers
from benchmarks.work import Work
from pipelines import engine, views
from pipelines.contract import Batch
from pipelines.engine.settings import settings_of
from pipelines.photometric import Finisher

TIMED_EVERY = 8
"""The stages of one image in so many are timed: reading the clock 200 times per image would cost half a percent."""


class Fused(ImageByImage):
    """The engine that `pipelines.backends.fused` chooses; it writes the output of `work`, too."""

    def __init__(self, work: Work):
        self._name = engine.chosen()
        self._settings = settings_of(work.recipe, photometric=work.photometric, output=work.output)
        self._largest = jpeg.largest_bytes(work.jpegs)
        self._heights, self._widths = np.array([jpeg.size_of(data) for data in work.jpegs]).T
        super().__init__(work, self._render, array_buffers(work), note=f"engine {self._name}", before=self._draw)

    def _draw(self, batch: Sequence[int]) -> dict[str, float]:
        """Draw the rows as a loader does; they are those of `work` again."""
        start, indices = time.perf_counter(), np.asarray(batch)
        self._work.rows[indices] = views.draw(
            self._work.recipe,
            seed=self._work.seed,
            epoch=0,
            indices=indices,
            heights=self._heights[indices],
            widths=self._widths[indices],
        )
        return {"table": time.perf_counter() - start}

    def _render(self, index: int, outputs: list[np.ndarray]) -> dict[str, float]:
        is_timed = index % TIMED_EVERY == 0
        start = time.perf_counter()
        image = jpeg.decode(self._work.jpegs[index], self._largest)
        decoded = time.perf_counter()
        seconds = np.zeros(len(engine.STAGES)) if is_timed else None
        engine.render(self._name, image, self._work.rows[index], outputs, self._settings, seconds=seconds)
        if seconds is None:
            return {}
        spent = dict(zip(engine.STAGES, seconds.tolist(), strict=True))
        spent |= {"decode": decoded - start, "call": time.perf_counter() - decoded - sum(spent.values())}
        return {stage: value * TIMED_EVERY for stage, value in spent.items()}

    def views(self, index: int) -> list[np.ndarray] | None:
        """Return the views of one image as grey levels; what was left to the device is done here."""
        made = super().views(index)
        if self._work.photometric or made is None:
            return made
        recipe = self._work.recipe
        whole = [torch.from_numpy(view.astype(np.uint8))[None] for view in made]
        batch = Batch(
            index=torch.tensor([index]),
            label=torch.tensor([-1]),
            large=whole[: recipe.large.count],
            small=whole[recipe.large.count :],
        )
        finisher = Finisher(recipe, torch.device("cpu"), torch.uint8, None)
        place = slice(index, index + 1)
        drawn = finisher.drawn(self._work.rows[place], self._heights[place], self._widths[place], None)
        finished = finisher.finish(batch, drawn)
        return [view[0].numpy() for view in (*finished.large, *finished.small)]


def prepare(work: Work) -> Fused:
    """Prepare the engine."""
    return Fused(work)
