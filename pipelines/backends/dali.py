"""DALI decodes once and makes six regions of interest of it; the device does the rest (`pipelines.photometric`).

For hosts with few cores and a GPU with time to spare: JPEG bytes go from the file's own pages to DALI, which decodes
them on the GPU (its JPEG engine where it has one) and resizes there; nothing but bytes, boxes and the table's lines
crosses the bus. The same graph runs on a CPU, where it is no faster than elsewhere: that is for tests.

Its views are those of the table. What differs from the reference, over 200 photographs (tests/parity/test_dali.py
holds it): the decoder, on the CPU, in nothing; the filter by 0.01 grey levels on average, at most 10 in single pixels.
The crop is cut out before it is resized, so that the filter ends at it. On a GPU nvJPEG decodes by a transform of its
own, whose pixels nobody has compared here.

Memory: `prefetch` + 1 batches are in flight. Of each DALI holds the decoded images (600 kB for ImageNet's average, 3
bytes per pixel of the largest in the worst case) and uint8 views (657 kB per image for 4 × 224 + 2 × 96). On a GPU the
views of one or two batches more: DALI frees what it gave away only after the work that was queued then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines import decode
from pipelines.config import ViewsConfig
from pipelines.contract import Batch
from pipelines.loader import Source, drawn_rows
from pipelines.photometric import Drawn, Finisher
from pipelines.position import Position
from pipelines.prefetch import DevicePrefetcher

HARDWARE_LOAD = 0.65
"""Share of a batch that the GPU's JPEG engine decodes, where there is one; its other cores do the rest. DALI's own
default: never measured here."""

ARGUMENTS = 4
"""What DALI is given per view; see `_arguments`."""

AT_ONCE = 1e-3
"""Seconds within which a batch that is ready is handed over."""


@dataclass(kw_only=True)
class _Fed:
    """A batch that DALI was given."""

    indices: np.ndarray
    rows: np.ndarray
    encoded: list[np.ndarray]
    """What DALI reads without a copy: it must live as long as the batch is in flight."""


class DaliLoader:
    """Serve the batches of one rank; see `pipelines.contract.Loader`.

    Args:
        source: opened beton, masks and plates; closed with the loader.
        recipe: the views.
        position: where in the order of which epoch this rank stands.
        num_threads: DALI's threads on the host.
        prefetch: batches in flight.
        device: where batches are made and delivered.
        output: uint8 for grey levels; else normalised.

    Raises:
        ValueError: DALI does not import.
    """

    def __init__(
        self,
        source: Source,
        recipe: ViewsConfig,
        position: Position,
        *,
        num_threads: int = 2,
        prefetch: int = 2,
        device: torch.device | str = "cpu",
        output: torch.dtype = torch.uint8,
    ):
        self.source, self.recipe, self.position = source, recipe, position
        self.device, self.num_images = torch.device(device), source.beton.num_images
        self._options = {
            "batch_size": position.batch_size,
            "num_threads": num_threads,
            "device_id": _device_id(self.device),
            "prefetch_queue_depth": max(prefetch, 1),
            "exec_dynamic": True,  # gives its outputs away: the older executors write into them again
        }
        self._finisher = Finisher(recipe, self.device, output, source.plates, quiet=position.rank != 0)
        self._to_device = DevicePrefetcher(self._stage, self.device)
        self._stats = {"wait": 0.0, "table": 0.0, "photometric": 0.0, "batches": 0.0, "occupancy": 0.0}
        self._waiting: Iterator[np.ndarray] = iter(())
        self._failed: Exception | None = None
        self._in_flight: deque[_Fed] = deque()
        self._is_fresh = True
        self._pipeline: Any = _built(self._feed, recipe, self._options, self.device)

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
        for batch in self._to_device(self._decoded()):
            self.position.advance()
            yield batch

    def stats(self) -> dict[str, float]:
        """Return seconds of `wait` for DALI, of drawing the `table`, of launching the `photometric` half; `batches`;
        `occupancy`, the share of batches that were ready when they were asked for.
        """
        return {**self._stats, "occupancy": self._stats["occupancy"] / max(self._stats["batches"], 1)}

    def close(self) -> None:
        """Stop DALI and release the files."""
        self._pipeline = None
        self._in_flight.clear()
        self.source.beton.close()
        if self.source.masks is not None:
            self.source.masks.close()

    def _decoded(self) -> Iterator[tuple[_Fed, list[torch.Tensor]]]:
        """Give every batch that is left of the epoch with its views, which hold geometry alone."""
        if not self._is_fresh:  # the last epoch was abandoned, or failed: DALI has batches of it
            self._pipeline = None  # first: two of them may not fit
            self._in_flight.clear()
            self._pipeline = _built(self._feed, self.recipe, self._options, self.device)
        self._is_fresh = False
        self._failed, whole, empty = None, [], 0
        for indices in self.position.batches():
            if len(indices):
                whole.append(indices)
            else:
                empty += 1
        self._waiting = iter(whole)
        for _ in whole:
            made = self._run()
            yield self._in_flight.popleft(), made
        self._finish_epoch()
        for _ in range(empty):
            yield self._drawn(np.empty(0, np.int64)), self._no_views()

    def _finish_epoch(self) -> None:
        try:
            self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
            self._is_fresh = True

    def _run(self) -> list[torch.Tensor]:
        start, drawing = time.perf_counter(), self._stats["table"]
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        try:
            outputs = self._pipeline.run(stream)
        except StopIteration:
            raise self._failed or RuntimeError(f"{self.source.beton.path}: DALI ends before its last batch") from None
        except RuntimeError as error:
            raise self._explained(error) from error
        waited = time.perf_counter() - start - (self._stats["table"] - drawing)  # it asks for later batches first
        self._stats["wait"] += waited
        self._stats["occupancy"] += waited < AT_ONCE
        self._stats["batches"] += 1
        # no copy: with its default executor DALI gives these tensors away, and they live as long as torch's
        return [torch.from_dlpack(output.as_tensor()) for output in outputs]

    def _explained(self, error: RuntimeError) -> Exception:
        """Find the image that does not decode; DALI names none."""
        for fed in self._in_flight:
            for index in fed.indices.tolist():
                try:
                    decode.fused(self.source.beton, index)
                except decode.CorruptImageError as corrupt:
                    return corrupt
        return RuntimeError(f"{self.source.beton.path}: DALI fails, though every image of the batch decodes: {error}")

    def _feed(self) -> list[Any]:
        """Give DALI the next batch: encoded images, then four arguments per view."""
        indices = next(self._waiting)  # raises StopIteration at the end, as DALI wants it
        start = time.perf_counter()
        try:
            fed = self._drawn(indices)
        except Exception as error:
            self._failed = error  # raised when the batches before it are delivered
            raise StopIteration from error
        self._in_flight.append(fed)
        arguments = [argument for view in range(fed.rows.shape[1]) for argument in _arguments(fed.rows[:, view])]
        self._stats["table"] += time.perf_counter() - start
        return [fed.encoded, *arguments]

    def _drawn(self, indices: np.ndarray) -> _Fed:
        rows = drawn_rows(self.source, self.recipe, self.position, indices)
        encoded = [_encoded(self.source, index) for index in indices.tolist()]
        return _Fed(indices=indices, rows=rows, encoded=encoded)

    def _stage(self, made: tuple[_Fed, list[torch.Tensor]]) -> Batch:
        fed, pictures = made
        start, count = time.perf_counter(), self.recipe.large.count
        index, label = torch.from_numpy(fed.indices), torch.from_numpy(self.source.beton.labels[fed.indices])
        on_host = Batch(index=index, label=label, large=[], small=[])
        batch = on_host.to(self.device) if self.device.type == "cuda" else on_host
        batch.large.extend(pictures[:count])
        batch.small.extend(pictures[count:])
        batch = self._finisher.finish(batch, self._lines(fed))
        self._stats["photometric"] += time.perf_counter() - start
        return batch

    def _lines(self, fed: _Fed) -> Drawn:
        beton, masks = self.source.beton, self.source.masks
        packed = None if masks is None else masks.packed(fed.indices)
        return self._finisher.drawn(fed.rows, beton.heights[fed.indices], beton.widths[fed.indices], packed)

    def _no_views(self) -> list[torch.Tensor]:
        crops = (self.recipe.large, self.recipe.small)
        sides = [crop.size for crop in crops for _ in range(crop.count)]
        return [torch.empty((0, side, side, 3), dtype=torch.uint8, device=self.device) for side in sides]


def _encoded(source: Source, index: int) -> np.ndarray:
    """Return an image as DALI decodes it: the file's own bytes, or raw pixels behind a header of the PNM format."""
    beton = source.beton
    if beton.is_jpeg(index):
        return np.frombuffer(decode.header_checked(beton, index), np.uint8)
    pixels = beton.pixels(index)
    header = f"P6\n{pixels.shape[1]} {pixels.shape[0]}\n255\n".encode("ascii")
    return np.concatenate([np.frombuffer(header, np.uint8), pixels.reshape(-1)])


def _arguments(rows: np.ndarray) -> list[np.ndarray]:
    """Return what the operators of one view want: where the crop begins, its shape, and its corners, flipped or not."""
    flip = rows["flip"].astype(np.float32)
    zero, one = np.zeros_like(flip), np.ones_like(flip)
    return [
        np.stack([rows["top"], rows["left"]], axis=1),
        np.stack([rows["height"], rows["width"]], axis=1),
        np.stack([zero, flip], axis=1),  # a region that runs backwards mirrors the view
        np.stack([one, 1 - flip], axis=1),
    ]


def _device_id(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def _built(feed: Any, recipe: ViewsConfig, options: dict[str, Any], device: torch.device) -> Any:
    """Build the pipeline.

    Raises:
        ValueError: DALI does not import.
    """
    try:
        from nvidia.dali import pipeline_def
    except ImportError as error:
        raise ValueError(
            f"backend 'dali' needs DALI, which does not import ({error}): pip install nvidia-dali-cuda130"
            " (nvidia-dali-cuda120 for CUDA 12), or take backend 'fused'"
        ) from error
    sizes = [recipe.large.size] * recipe.large.count + [recipe.small.size] * recipe.small.count
    kind = "gpu" if device.type == "cuda" else "cpu"
    pipeline = pipeline_def(graph)(feed, sizes, recipe.interpolation, kind, **options)
    pipeline.build()
    return pipeline


def graph(feed: Any, sizes: list[int], interpolation: str, device: str) -> tuple[Any, ...]:
    """Describe the pipeline: one decode, and per view a crop and its resize, uint8 [size, size, 3] each.

    Args:
        feed: gives a batch's encoded images, and four arguments per view.
        sizes: side of each view.
        interpolation: bicubic or bilinear, both antialiased.
        device: gpu or cpu.
    """
    from nvidia.dali import fn, types

    filters = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}
    encoded, *arguments = fn.external_source(feed, num_outputs=1 + ARGUMENTS * len(sizes), batch=True, no_copy=True)
    choice = {"device": "cpu"}
    if device == "gpu":
        # smooth upsampling as libjpeg's: nvJPEG's own default repeats pixels
        choice = {"device": "mixed", "hw_decoder_load": HARDWARE_LOAD, "jpeg_fancy_upsampling": True}
    # EXIF would turn images, and not their masks and boxes
    image = fn.decoders.image(encoded, output_type=types.RGB, adjust_orientation=False, **choice)
    made = []
    for number, size in enumerate(sizes):
        begin, shape, start, end = arguments[number * ARGUMENTS : (number + 1) * ARGUMENTS]
        crop = fn.slice(image, start=begin, shape=shape, axes=[0, 1])
        resized = fn.resize(
            crop,
            size=[size, size],
            roi_start=start,
            roi_end=end,
            roi_relative=True,
            interp_type=filters[interpolation],
            antialias=True,
        )
        made.append(resized)
    return tuple(made)
