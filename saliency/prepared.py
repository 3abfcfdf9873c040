"""What a fit prepares once and keeps in its folder: what the network sees of every image, and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from saliency.labels import label
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
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the network is to see of all images that decode, and their labels; each piece is made once.

    Returns:
        uint8 [N, side, side, C] and uint8 [N, side, side].
    """
    starts = range(0, len(indices), PIECE)
    pieces = [
        _Piece(read, indices[start : start + PIECE], config, folder / f"prepared-{start:07d}.npz") for start in starts
    ]
    missing = [piece for piece in pieces if not piece.out.exists()]
    done = len(indices) - sum(len(piece.indices) for piece in missing)
    on_prepared(done)
    for number, _ in each(_prepare, missing):
        done += len(missing[number].indices)
        on_prepared(done)
    made = [np.load(piece.out) for piece in pieces]
    return np.concatenate([piece["seen"] for piece in made]), np.concatenate([piece["labels"] for piece in made])


def _prepare(piece: _Piece) -> None:
    side, seen, labels = piece.config.side, [], []
    for index in piece.indices:
        try:
            image = piece.read(index)
        except ValueError:  # damaged: the others do without
            continue
        seen.append(channels(image, piece.config))
        labels.append(label(image, side))
    temporary = piece.out.with_suffix(".partial")
    with open(temporary, "wb") as file:
        np.savez(
            file,
            seen=np.array(seen, np.uint8).reshape(-1, side, side, piece.config.shown),
            labels=np.array(labels, np.uint8).reshape(-1, side, side),
        )
    temporary.replace(piece.out)
