"""The loop around libraries that treat one view at a time: images in order, batches in buffers, threads over images."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.work import Work
from pipelines.config import IMAGENET_MEAN, IMAGENET_STD

Fill = Callable[[int, list[Any]], dict[str, float]]
"""fill(index, outputs) -> seconds per stage: write the views of an image into one output each."""
Before = Callable[[Sequence[int]], dict[str, float]]
"""before(indices) -> seconds per stage: what must be done for a batch as a whole."""


class ImageByImage:
    """A `Provider` out of a function that makes the views of one image.

    The buffers are written again by every batch, which spares a library the page faults of new ones.

    Args:
        work: what is to be made.
        fill: who makes it; called from `work.threads` threads.
        buffers: per view an array or tensor [batch_size, ...].
        note: see `Provider`.
        follows_rows: False for a library that draws its own numbers.
        before: called before the images of each batch.
    """

    def __init__(
        self,
        work: Work,
        fill: Fill,
        buffers: list[Any],
        *,
        note: str = "",
        follows_rows: bool = True,
        before: Before | None = None,
    ):
        self.note, self._before = note, before
        self._work, self._fill, self._buffers, self._follows_rows = work, fill, buffers, follows_rows
        for buffer in buffers:
            buffer[...] = 0  # the system hands out the pages now, not in the first pass
        self._pool = ThreadPoolExecutor(work.threads) if work.threads > 1 else None

    def run(self, indices: Sequence[int]) -> dict[str, float]:
        """Make all views of these images."""
        stages: Counter[str] = Counter()
        each: Any = map if self._pool is None else self._pool.map
        for start in range(0, len(indices), self._work.batch_size):
            batch = indices[start : start + self._work.batch_size]
            if self._before is not None:
                stages.update(self._before(batch))
            for seconds in each(self._one, range(len(batch)), batch):
                for stage, value in seconds.items():
                    stages[stage] += value
        return dict(stages)

    def views(self, index: int) -> list[np.ndarray] | None:
        """Return the views of one image as grey levels, or None where they do not follow the rows."""
        if not self._follows_rows:
            return None
        self._one(0, index)
        return [grey_levels(np.asarray(buffer[0])) for buffer in self._buffers]

    def _one(self, slot: int, index: int) -> dict[str, float]:
        return self._fill(index, [buffer[slot] for buffer in self._buffers])


def view_by_view(
    work: Work,
    decode: Callable[[int], Any],
    make: Callable[[Any, np.void, int], Any],
    buffers: list[Any],
    *,
    note: str = "",
) -> ImageByImage:
    """Return the `Provider` of a library that decodes an image and then makes each view by itself.

    Args:
        work: what is to be made.
        decode: decode(index) -> image.
        make: make(image, row, size) -> the finished view, as a buffer holds it.
        buffers, note: as `ImageByImage`.
    """

    def fill(index: int, outputs: list[Any]) -> dict[str, float]:
        start = time.perf_counter()
        image = decode(index)
        decoded = time.perf_counter()
        for row, size, output in zip(work.rows[index], work.sizes, outputs, strict=True):
            output[...] = make(image, row, size)
        return {"decode": decoded - start, "views": time.perf_counter() - decoded}

    return ImageByImage(work, fill, buffers, note=note)


def array_buffers(work: Work) -> list[np.ndarray]:
    """Return channels-last buffers of the output that is asked for; bfloat16 as its bits."""
    from pipelines.engine.settings import ITEMS  # imports torch, which not every provider needs

    return [np.empty((work.batch_size, size, size, 3), ITEMS[work.output]) for size in work.sizes]


def tensor_buffers(work: Work) -> list[Any]:
    """Return float32 buffers [batch_size, 3, S, S] of torch."""
    import torch

    return [torch.empty((work.batch_size, 3, size, size)) for size in work.sizes]


def grey_levels(view: np.ndarray) -> np.ndarray:
    """Undo normalisation and layout.

    Args:
        view: [S, S, 3] or [3, S, S]; uint8 grey levels, or normalised as float32 or as the bits of bfloat16 (uint16).

    Returns:
        float32 [S, S, 3] grey levels, a copy.
    """
    if view.shape[-1] != 3:
        view = view.transpose(1, 2, 0)
    if view.dtype == np.uint8:
        return view.astype(np.float32)
    if view.dtype == np.uint16:
        view = (view.astype(np.uint32) << 16).view(np.float32)
    return ((view * np.array(IMAGENET_STD, np.float32) + np.array(IMAGENET_MEAN, np.float32)) * 255).astype(np.float32)
