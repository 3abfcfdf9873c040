"""Masks of some images of a beton, made by whoever has the time: here, or on another machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines import decode
from pipelines.beton import Beton
from relic.masks import pngs
from relic.masks.batches import check_seen, mapped
from saliency.infer import Maker, binary_mask, packed_mask
from saliency.store import DAMAGED, MASK_BYTES


class Task(NamedTuple):
    """Images `start` to before `stop` of a file, which is one shard perhaps."""

    part: int
    """Which shard."""
    beton: Path
    fingerprint: str
    """Of that file."""
    start: int
    stop: int
    first: int
    """Index, in the whole data set, of the file's first image."""
    maker: Maker
    pngs: Path | None
    """Folder for maps as pictures, named by their index in the whole data set."""


class Made(NamedTuple):
    """What a store is to hold of the images from `start` on: `packed` uint8 [n, 2048], `flags` uint8 [n]."""

    part: int
    start: int
    packed: np.ndarray
    flags: np.ndarray


def make_masks(task: Task) -> Made:
    """Decode some images and make their masks; a damaged one does not cost the others.

    Raises:
        FileNotFoundError, ValueError: the beton or the network is not there, or another one.
    """
    check_seen(task.beton)
    beton = opened(task.beton, task.fingerprint)
    packed = np.zeros((task.stop - task.start, MASK_BYTES), np.uint8)
    flags = np.full(task.stop - task.start, DAMAGED, np.uint8)
    for index, size, saliency in mapped(_decoded(beton, task.start, task.stop), task.maker):
        place = index - task.start
        packed[place], flags[place] = packed_mask(binary_mask(saliency))
        if task.pngs is not None:
            check_seen(task.pngs)
            pngs.write(png_of(task.pngs, task.first + index), pngs.gray_of(saliency, size), str(task.maker))
    return Made(task.part, task.start, packed, flags)


def png_of(folder: Path, index: int) -> Path:
    """Name the picture of an image's map."""
    return folder / f"{index:06d}.png"


@lru_cache(maxsize=1)
def opened(path: Path, fingerprint: str) -> Beton:
    """Open a beton, once per process rather than per task: the tables of a million images are large."""
    beton = Beton(path)
    if beton.fingerprint() != fingerprint:
        beton.close()
        raise ValueError(f"{path}: has other images than when the masks were begun; run the command again")
    return beton


def _decoded(beton: Beton, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
    for index in range(start, stop):
        try:
            yield index, decode.fused(beton, index).copy()  # the decoder uses its memory again
        except decode.CorruptImageError:
            continue
