"""Stock FFCV 1.0.2 on the same beton: the baseline, and the proof that FFCV reads our files.

FFCV draws its own random numbers in compiled code, from generators per thread that nothing seeds. So order, index,
label, length, state and resume are those of every loader here, but the views are not those of the table, and differ
between two runs. What its operations are:

- one pipeline per view, each decoding the JPEG again (a decoder yields one crop, ffcv#77);
- RandomResizedCrop or centre crop, resized by OpenCV's INTER_AREA up and down;
- flip; brightness, contrast and saturation as torchvision's factors, each by its own chance, in this order;
- no hue, grayscale, blur, solarize or background;
- a corrupt JPEG silently yields the pixels that stood in the buffer before (its decoder's return code is ignored).

Measured on one core of an AMD EPYC, 500 ImageNet JPEGs: 20 ms per image for the 4 + 2 views of `ViewsConfig()`, less
what is left out; numba compiles each operation of each view anew for each loader, 41 s before the first batch.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty
from typing import Any

import numpy as np
import torch

from pipelines.config import CropConfig, ViewsConfig
from pipelines.contract import Batch
from pipelines.loader import Source
from pipelines.position import Position
from pipelines.shards import ShardedBeton

_POLL_SECONDS = 0.002


class FfcvLoader:
    """Serve the batches of one rank; see `pipelines.contract.Loader`, and the module for what FFCV's views are.

    Args:
        source: opened beton; its masks and plates are not used. Closed with the loader.
        recipe: the views; what FFCV cannot do of them is named in a warning.
        position: where in the order of which epoch this rank stands.
        num_threads: FFCV's workers, at most the cores of this machine.
        prefetch: batches in flight.
        device: where batches are delivered.

    Raises:
        ValueError: ffcv does not import; the data set has many shards, of which FFCV reads one; an image is too small
            for FFCV's centre crop.
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
    ):
        self.source, self.recipe, self.device = source, recipe, torch.device(device)
        self.num_images = source.beton.num_images
        self.position = position
        self._prefetch = max(prefetch, 1)
        with _torch_threads_kept():
            self._stock = _stock_loader(source, recipe, position.batch_size, num_threads, self._prefetch)
        self._running: Any = None
        self._stats = {"wait": 0.0, "batches": 0.0, "occupancy": 0.0}
        if position.rank == 0:
            print(f"warning: {_limits(source, recipe)}", file=sys.stderr)

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
        batches = list(self.position.batches())  # FFCV wants the whole order
        running = self._start(batches)
        try:
            for indices in batches:
                views = self._next(running) if len(indices) else self._no_views()
                self.position.advance()
                batch = Batch(
                    index=torch.from_numpy(indices),
                    label=torch.from_numpy(self.source.beton.labels[indices]),
                    large=views[: self.recipe.large.count],
                    small=views[self.recipe.large.count :],
                )
                yield batch if self.device.type == "cpu" else batch.to(self.device)
        finally:
            _stop(running)

    def stats(self) -> dict[str, float]:
        """Return seconds of `wait` of the consumer, `batches` and mean `occupancy`; FFCV times no stages."""
        return {**self._stats, "occupancy": self._stats["occupancy"] / max(self._stats["batches"], 1)}

    def close(self) -> None:
        """Stop FFCV's thread and release the file."""
        if self._running is not None:
            _stop(self._running)
        self.source.beton.close()
        if self.source.masks is not None:
            self.source.masks.close()

    def _start(self, batches: list[np.ndarray]) -> Any:
        """Let FFCV's own iterator run over these batches; it cuts the sequence as they are cut."""
        order = np.concatenate(batches) if batches else np.empty(0, np.int64)
        # FFCV 1.0.2 takes no custom TraversalOrder (it calls the instance it is given); its sequential one yields
        # whatever indices it holds. uint64 is the type that FFCV compiles for.
        self._stock.traversal_order.indices = order.astype(np.uint64)
        try:
            with _torch_threads_kept():
                self._running = iter(self._stock)
        except RuntimeError as error:
            raise ValueError(
                f"{self.source.beton.path}: ffcv cannot allocate {self._buffer_bytes() / 1e9:.1f} GB of decode buffers"
                " (batch_size x (prefetch + 2) x views x largest image): lower batch_size, or convert --max-side"
            ) from error
        return self._running

    def _buffer_bytes(self) -> int:
        beton = self.source.beton
        largest = 3 * int(beton.heights.max()) * int(beton.widths.max())
        views = self.recipe.large.count + self.recipe.small.count
        return self.position.batch_size * (self._prefetch + 2) * views * largest

    def _next(self, running: Any) -> list[torch.Tensor]:
        start = time.perf_counter()
        self._stats["occupancy"] += running.output_queue.qsize() / self._prefetch
        with _torch_threads_kept():
            while running.output_queue.empty():
                # A thread that died of an error would leave FFCV's own `__next__` waiting for ever (ffcv#262).
                if not running.is_alive() and running.output_queue.empty():
                    raise RuntimeError("ffcv's thread ended before its last batch: its error is printed above")
                time.sleep(_POLL_SECONDS)
            # FFCV writes into these buffers again a few batches later: the batch needs its own memory.
            views = [view.clone() for view in next(running)]
        self._stats["wait"] += time.perf_counter() - start
        self._stats["batches"] += 1
        return views

    def _no_views(self) -> list[torch.Tensor]:
        """Return the views of a rank whose share of the last, short batch is empty."""
        crops = (self.recipe.large, self.recipe.small)
        return [
            torch.empty((0, crop.size, crop.size, 3), dtype=torch.uint8) for crop in crops for _ in range(crop.count)
        ]


def import_ffcv() -> None:
    """Import FFCV without its side effects: deprecation warnings, torch's threads, and a fault of its types.

    FFCV marks numba's one shared type of uint8[::1] as read-only, in place. That type is a key in the dispatch tables
    of every function compiled before, so a second loader in a process breaks those of the first (KeyError in
    finalizers). Its reader is replaced by the same two lines with a read-only type of their own.

    Raises:
        ImportError: ffcv is missing or does not fit this Python.
    """
    with _torch_threads_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports distutils
        from ffcv.memory_managers import OSCacheManager
        from ffcv.pipeline.compiler import Compiler
    from numba import config, types

    # TBB's pool can wait for ever at exit where the process may use fewer CPUs than numba counted (taskset, cgroups).
    config.THREADING_LAYER = "omp"

    def compile_reader(manager: Any) -> Any:
        payload, table = types.Array(types.uint8, 1, "C", readonly=True), types.uint64[::1]

        def read(address, file):
            size = file[2][np.searchsorted(file[1], address)]
            return file[0][address : address + size]

        return Compiler.compile(read, payload(types.uint64, types.Tuple([payload, table, table])))

    OSCacheManager.compile_reader = compile_reader


def _stock_loader(source: Source, recipe: ViewsConfig, batch_size: int, num_threads: int, prefetch: int) -> Any:
    if isinstance(source.beton, ShardedBeton):
        raise ValueError(
            f"{source.beton.path} has {len(source.beton.files)} shards, and stock FFCV reads one file: take backend"
            " 'fused', or a shard of it"
        )
    try:
        import_ffcv()
    except ImportError as error:
        raise ValueError(
            f"backend 'ffcv' needs ffcv, which does not import ({error}): see docs/ffcv.md, or take backend 'fused'"
        ) from error
    from ffcv.fields import RGBImageField
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline import PipelineSpec
    from ffcv.reader import Reader
    from numba import config

    path = str(source.beton.path)
    handlers = Reader(path).handlers
    image = next(name for name, handler in handlers.items() if isinstance(handler, RGBImageField))
    pipelines: dict[str, Any] = dict.fromkeys(handlers)  # None: no pipeline of its own
    for kind, crop in (("large", recipe.large), ("small", recipe.small)):
        _check_center_crop(source, crop)
        for view in range(crop.count):
            pipelines[f"{kind} {view}"] = PipelineSpec(image, decoder=_decoder(crop), transforms=_transforms(recipe))
    return Loader(
        path,
        batch_size=batch_size,
        num_workers=min(num_threads, config.NUMBA_NUM_THREADS),
        os_cache=True,
        order=OrderOption.SEQUENTIAL,
        seed=0,  # only for orders that are not used; None would draw from numpy's global generator
        pipelines=pipelines,
        drop_last=False,
        batches_ahead=prefetch,
    )


def _decoder(crop: CropConfig) -> Any:
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder

    size = (crop.size, crop.size)
    if crop.placement == "center":
        return CenterCropRGBImageDecoder(size, crop.center_share)
    return RandomResizedCropRGBImageDecoder(size, scale=crop.area, ratio=crop.ratio)


def _check_center_crop(source: Source, crop: CropConfig) -> None:
    shorter = np.minimum(source.beton.heights, source.beton.widths)
    if crop.placement == "center" and crop.count and (crop.center_share * shorter).min() < 1:
        raise ValueError(
            f"{source.beton.path}: ffcv rounds the centre crop of image {shorter.argmin()} (shorter side"
            f" {shorter.min()}) to nothing: take backend 'fused'"
        )


def _transforms(recipe: ViewsConfig) -> list[Any]:
    from ffcv.transforms import RandomBrightness, RandomContrast, RandomHorizontalFlip, RandomSaturation, ToTensor

    photometric = recipe.photometric
    transforms: list[Any] = []
    if photometric.flip > 0:
        transforms.append(RandomHorizontalFlip(photometric.flip))
    for operation, largest in (
        (RandomBrightness, photometric.brightness),
        (RandomContrast, photometric.contrast),
        (RandomSaturation, photometric.saturation),
    ):
        if photometric.jitter_chance > 0 and largest > 0:
            transforms.append(operation(largest, photometric.jitter_chance))
    return [*transforms, ToTensor()]


def _limits(source: Source, recipe: ViewsConfig) -> str:
    photometric = recipe.photometric
    wanted = {
        "hue": photometric.jitter_chance > 0 and photometric.hue > 0,
        "grayscale": photometric.grayscale > 0,
        "blur": max(photometric.blur) > 0,
        "solarize": max(photometric.solarize) > 0,
        "background": recipe.background.chance > 0 and source.masks is not None,
    }
    left_out = ", ".join(name for name, is_wanted in wanted.items() if is_wanted) or "nothing"
    return f"backend ffcv is a baseline with random views of its own; of this recipe it leaves out {left_out}"


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """Undo FFCV's torch.set_num_threads, which it calls on import, on construction and on iteration."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _stop(running: Any) -> None:
    """End FFCV's thread: give it no further batch, and take what it still wants to deliver.

    Its own `close` leaves it running until its queue is full, or waiting for ever to deliver the end.
    """
    running.iter_ixes = iter(())
    while running.is_alive():
        with suppress(Empty):
            running.output_queue.get(timeout=_POLL_SECONDS)
    running.join()
    running.close()
