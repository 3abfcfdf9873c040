"""What a fit makes once and keeps in its folder: what the network sees of every image, and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from saliency.network import NetworkConfig, channels

PIECE = 64  # images of a task; also what a stop in the middle costs


class Each(Protocol):
    """Call a function for every task, somewhere; results in the order of completion, each with its task's number."""

    def __call__(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[tuple[int, Any]]: ...


def here(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Call a function for every task in this process."""
    for number, task in enumerate(tasks):
        yield number, function(task)


class _Piece(NamedTuple):
    """Some images to prepare."""

    read: Callable[[int], np.ndarray]
    indices: Sequence[int]
    config: NetworkConfig
    out: Path


def prepared(
    read: Callable[[int], np.ndarray],
    indices: Sequence[int],
    folder: Path,
    config: NetworkConfig,
    on_prepared: Callable[[int], None],
    each: Each,
) -> np.ndarray:
    """Return what the network is to see of all images that decode, uint8 [N, side, side, C]; each is made once."""
    files = [folder / f"seen-{start:07d}.npy" for start in range(0, len(indices), PIECE)]
    pieces = [
        _Piece(read, indices[number * PIECE : (number + 1) * PIECE], config, file) for number, file in enumerate(files)
    ]
    missing = [piece for piece in pieces if not piece.out.exists()]
    done = sum(len(piece.indices) for piece in pieces) - sum(len(piece.indices) for piece in missing)
    on_prepared(done)
    for number, _ in each(_prepare, missing):
        done += len(missing[number].indices)
        on_prepared(done)
    return np.concatenate([np.load(file) for file in files])


def _prepare(piece: _Piece) -> None:
    seen = []
    for index in piece.indices:
        try:
            image = piece.read(index)
        except ValueError:  # damaged: the others do without
            continue
        seen.append(channels(image, piece.config))
    _save(piece.out, np.array(seen, np.uint8).reshape(-1, piece.config.side, piece.config.side, piece.config.shown))


def mapped(each: Each, function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """Call a function for every image's rows of some arrays; returns its results in order."""
    starts = range(0, len(arrays[0]), PIECE)
    tasks = (tuple(array[start : start + PIECE] for array in arrays) for start in starts)
    made = dict(each(partial(_rows, function), tasks))
    return np.concatenate([made[number] for number in range(len(starts))])


def _rows(function: Callable[..., np.ndarray], arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.stack([function(*(np.ascontiguousarray(row) for row in rows)) for rows in zip(*arrays, strict=True)])


def kept(path: Path, made: Callable[[], np.ndarray]) -> np.ndarray:
    """Read an array that an earlier start of this fit made, or make it."""
    if not path.exists():
        _save(path, made())
    return np.load(path)


def _save(path: Path, array: np.ndarray) -> None:
    temporary = path.with_suffix(".partial")
    with open(temporary, "wb") as file:
        np.save(file, array)
    temporary.replace(path)
