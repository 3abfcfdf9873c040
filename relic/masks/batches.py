"""Images through a method, some at a time."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from saliency.infer import Maker, Method

Key = TypeVar("Key")

IMAGES_PER_TASK = 32  # 0.5 to 2 s of one core; also the most that a killed worker has to make again
# Enough for a network's matrices. The second bounds what a worker holds of large photographs.
BATCH_IMAGES, BATCH_BYTES = 16, 1 << 26


def mapped(images: Iterable[tuple[Key, np.ndarray]], maker: Maker) -> Iterator[tuple[Key, tuple[int, int], np.ndarray]]:
    """Map images in batches, in their order, by one thread.

    Args:
        images: (key, uint8 RGB [H, W, 3], which the caller does not change any more).
        maker: its method is made once per process.

    Yields:
        (key, (H, W), map float32 [h, w]).
    """
    for batch in _batches(images):
        with _one_thread():
            maps = method_of(maker)([image for _, image in batch])
        for (key, image), saliency in zip(batch, maps, strict=True):
            yield key, image.shape[:2], saliency  # type: ignore[misc]


@lru_cache(maxsize=1)
def method_of(maker: Maker) -> Method:
    """Make a maker's method, once per process: a network takes time to load."""
    return maker.method()


def check_seen(path: Path) -> None:
    """Raise FileNotFoundError where a machine does not see what the one that hands out the tasks sees."""
    if not path.exists():
        where = socket.gethostname()
        raise FileNotFoundError(f"{path}: not there on {where}; with --engine ray all machines must see the same files")


def _batches(images: Iterable[tuple[Key, np.ndarray]]) -> Iterator[list[tuple[Key, np.ndarray]]]:
    batch, held = [], 0
    for key, image in images:
        batch.append((key, image))
        held += image.nbytes
        if len(batch) == BATCH_IMAGES or held >= BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep OpenCV to this thread: the processes fill the cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
