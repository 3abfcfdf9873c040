"""From a position in the order to finished batches: draw the table, render images in threads, deliver in order.

The consumer's thread submits work and waits for the oldest batch, so there is no producer to shut down: at most
`prefetch` batches are in flight, which is the back-pressure, and an error in a worker is raised where it is consumed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch

from pipelines import views
from pipelines.buffers import Buffers
from pipelines.config import ViewsConfig
from pipelines.contract import Batch
from pipelines.decode import CorruptImageError
from pipelines.photometric import Finisher
from pipelines.position import Position
from pipelines.prefetch import DevicePrefetcher
from pipelines.shards import AnyBeton
from saliency.store import AnyMaskStore


@dataclass(frozen=True, kw_only=True)
class Source:
    """The opened files that views are made of."""

    beton: AnyBeton
    masks: AnyMaskStore | None = None
    plates: np.ndarray | None = None
    """uint8 [P, h, w, 3], the background plates for swaps."""


Render = Callable[[Source, int, np.ndarray, list[np.ndarray], int], dict[str, float]]
"""render(source, index, rows, outputs, slot) -> seconds per stage: fill outputs[view][slot], [size, size, 3] each."""


@dataclass(kw_only=True)
class _Pending:
    batch: Batch
    rows: np.ndarray
    outputs: list[np.ndarray]
    """The memory of the batch's views, one [N, size, size, 3] per view."""
    futures: list[Future[dict[str, float]]] = field(default_factory=list)

    def is_done(self) -> bool:
        return all(future.done() for future in self.futures)


class TableLoader:
    """Serve the batches of one rank; see `pipelines.contract.Loader`.

    Args:
        source: opened beton, masks and plates; closed with the loader.
        recipe: the views.
        render: the backend's deterministic function of (image, mask, plate, row).
        position: where in the order of which epoch this rank stands.
        num_threads: workers that decode and render.
        prefetch: batches in flight.
        device: where batches are delivered; pinned host buffers are used for CUDA.
        on_corrupt: `raise`, or `skip`: the next image of the file that decodes takes the place, with a warning.
        output: type of the delivered views; floating views are normalised.
        photometric: `device` if `render` writes uint8 views of geometry alone, and the rest is done there.
    """

    def __init__(
        self,
        source: Source,
        recipe: ViewsConfig,
        render: Render,
        position: Position,
        *,
        num_threads: int = 2,
        prefetch: int = 2,
        device: torch.device | str = "cpu",
        on_corrupt: Literal["raise", "skip"] = "raise",
        output: torch.dtype = torch.uint8,
        photometric: Literal["host", "device"] = "host",
    ):
        self.source, self.recipe, self.render = source, recipe, render
        self.prefetch, self.device, self.on_corrupt = max(prefetch, 1), torch.device(device), on_corrupt
        self._finisher = None
        if photometric == "device":
            self._finisher = Finisher(recipe, self.device, output, source.plates, quiet=position.rank != 0)
        self._rendered = torch.uint8 if self._finisher is not None else output
        self._to_device = DevicePrefetcher(self._stage, self.device)
        self.num_images = source.beton.num_images
        self.position = position
        views_in_use = (self.prefetch + 2) * (recipe.large.count + recipe.small.count)
        self._buffers = Buffers(keep=views_in_use, pin=self.device.type == "cuda")
        self._stats: dict[str, float] = {}
        self._stats_lock = threading.Lock()
        self._workers = ThreadPoolExecutor(num_threads, thread_name_prefix="views")

    def __len__(self) -> int:
        return self.position.epoch_batches()

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.position.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the next batch starts, with what identifies the order it belongs to."""
        return self.position.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; raises ValueError when it belongs to other data or another seed."""
        self.position.load_state_dict(state)

    def __iter__(self) -> Iterator[Batch]:
        pending: deque[_Pending] = deque()
        for batch in self._to_device(self._in_order(pending), lambda: bool(pending) and pending[0].is_done()):
            self.position.advance()
            yield batch

    def _in_order(self, pending: deque[_Pending]) -> Iterator[_Pending]:
        """Keep `prefetch` batches in `pending`, and give the oldest when it is rendered."""
        waiting = self.position.batches()
        try:
            while True:
                for indices in islice(waiting, self.prefetch - len(pending)):
                    pending.append(self._submit(indices))
                if not pending:
                    return
                self._count(occupancy=sum(each.is_done() for each in pending) / self.prefetch)
                self._wait(pending[0])  # stays in the queue: if it fails, the rest of it is cancelled too
                yield pending.popleft()
        finally:
            for abandoned in pending:
                for future in abandoned.futures:
                    future.cancel()

    def stats(self) -> dict[str, float]:
        """Return seconds per stage summed over threads, `wait` of the consumer, `batches`, mean `occupancy`."""
        with self._stats_lock:
            stats = dict(self._stats)
        if stats.get("batches"):
            stats["occupancy"] /= stats["batches"]
        return stats

    def close(self) -> None:
        """Stop the workers and release the files."""
        self._workers.shutdown(wait=True, cancel_futures=True)
        self.source.beton.close()
        if self.source.masks is not None:
            self.source.masks.close()

    def _submit(self, indices: np.ndarray) -> _Pending:
        rows = drawn_rows(self.source, self.recipe, self.position, indices)

        def buffers(count: int, size: int) -> list[torch.Tensor]:
            return [self._buffers.take((len(indices), size, size, 3), self._rendered) for _ in range(count)]

        batch = Batch(
            index=torch.from_numpy(indices),
            label=torch.from_numpy(self.source.beton.labels[indices]),
            large=buffers(self.recipe.large.count, self.recipe.large.size),
            small=buffers(self.recipe.small.count, self.recipe.small.size),
        )
        outputs = [_as_numpy(view) for view in (*batch.large, *batch.small)]
        pending = _Pending(batch=batch, rows=rows, outputs=outputs)
        for slot, index in enumerate(indices.tolist()):
            pending.futures.append(self._workers.submit(self._render, pending, slot, index))
        return pending

    def _render(self, pending: _Pending, slot: int, index: int) -> dict[str, float]:
        try:
            return self.render(self.source, index, pending.rows[slot], pending.outputs, slot)
        except CorruptImageError as error:
            if self.on_corrupt == "raise":
                raise
            corrupt = error
        for step in range(1, self.num_images):
            substitute = (index + step) % self.num_images
            rows = drawn_rows(self.source, self.recipe, self.position, np.array([substitute]))[0]
            try:
                seconds = self.render(self.source, substitute, rows, pending.outputs, slot)
            except CorruptImageError:
                continue
            print(f"warning: {corrupt}; image {substitute} takes its place", file=sys.stderr)
            pending.rows[slot] = rows
            pending.batch.index[slot] = substitute
            pending.batch.label[slot] = int(self.source.beton.labels[substitute])
            return seconds
        raise corrupt

    def _stage(self, pending: _Pending) -> Batch:
        """Bring a rendered batch to the device and finish it there."""
        batch = pending.batch if self.device.type == "cpu" else pending.batch.to(self.device)
        if self._finisher is None:
            return batch
        start, indices = time.perf_counter(), pending.batch.index.numpy()
        beton, masks = self.source.beton, self.source.masks
        packed = None if masks is None else masks.packed(indices)
        drawn = self._finisher.drawn(pending.rows, beton.heights[indices], beton.widths[indices], packed)
        batch = self._finisher.finish(batch, drawn)
        self._count(photometric=time.perf_counter() - start)
        return batch

    def _wait(self, pending: _Pending) -> None:
        start, spent = time.perf_counter(), defaultdict[str, float](float)
        for future in pending.futures:
            for stage, seconds in future.result().items():
                spent[stage] += seconds
        self._count(wait=time.perf_counter() - start, batches=1, **spent)

    def _count(self, **values: float) -> None:
        with self._stats_lock:
            for name, value in values.items():
                self._stats[name] = self._stats.get(name, 0.0) + value


def drawn_rows(source: Source, recipe: ViewsConfig, position: Position, indices: np.ndarray) -> np.ndarray:
    """Draw `pipelines.views.ROW` [N, views] of the position's epoch; an image without a mask keeps its background."""
    beton, masks = source.beton, source.masks
    rows = views.draw(
        recipe,
        seed=position.seed,
        epoch=position.epoch,
        indices=indices,
        heights=beton.heights[indices],
        widths=beton.widths[indices],
    )
    if masks is None:
        rows["background"] = views.KEEP
    else:
        rows["background"][masks.absent[indices]] = views.KEEP
    return rows


def _as_numpy(view: torch.Tensor) -> np.ndarray:
    """Return the memory of a view; numpy has no bfloat16, so its bits are seen as uint16."""
    return view.view(torch.int16).numpy().view(np.uint16) if view.dtype == torch.bfloat16 else view.numpy()
