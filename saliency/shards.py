"""Many files read as one: the manifest that names them, and tables that are read where they lie.

Mask stores use it here, betons in `pipelines.shards`.
"""

from __future__ import annotations

import json
import os
import resource
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

VERSION = 1
BLOCK_IMAGES = 1 << 16
MOST_OPEN = 1 << 14  # each is a mapping, of which Linux gives a process 65,530


def most_open() -> int:
    """Return how many shards of one kind to hold open: a quarter of the files that this process may open.

    So images and masks together leave it half. Where a data set has more, looking into one that is closed takes 60 µs
    (one core of an AMD EPYC); `ulimit -n 65536` keeps 16,384 open.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if soft < 0 else min(max(soft // 4, 1), MOST_OPEN)


def is_manifest(path: str | Path) -> bool:
    """Say whether a file is a manifest (JSON) rather than data."""
    path = Path(path)
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(1) == b"{"


def save_manifest(path: str | Path, kind: str, shards: Sequence[dict[str, Any]], **facts: Any) -> None:
    """Put a manifest of format `kind` into place, complete or not at all.

    Args:
        path: where.
        kind: its format.
        shards: per shard its `file`, a name beside `path`, its number of `images`, and what else its reader needs.
        facts: more values that JSON can hold, of all shards.
    """
    path, content = Path(path), {"format": kind, "version": VERSION, **facts, "shards": list(shards)}
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # so that the rename, too, lasts through a power cut
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_manifest(
    path: str | Path, kind: str, *, fields: Sequence[str], facts: Sequence[str] = (), mend: str
) -> dict[str, Any]:
    """Read a manifest of format `kind`.

    Args:
        path: the file.
        kind: its format.
        fields: what each shard has beside `file` and `images`.
        facts: what the whole has beside `shards`.
        mend: what the user can do about a bad one.

    Raises ValueError where it is another one, of another version, or damaged, in a line that ends with `mend`.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found, version, shards = content["format"], content["version"], content["shards"]
        lacks = [name for name in facts if name not in content]
        lacks += [name for name in ("file", "images", *fields) if not all(name in shard for shard in shards)]
        are_beside = lacks or all(Path(shard["file"]).name == shard["file"] for shard in shards)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged (it is no manifest of shards); {mend}") from error
    if found != kind:
        raise ValueError(f"{path}: is of format {found!r}, where {kind!r} is read; {mend}")
    if version != VERSION:
        raise ValueError(f"{path}: {kind} of version {version}, where {VERSION} is read; {mend}")
    if lacks or not are_beside:
        reason = f"no {lacks[0]!r}" if lacks else "a shard that does not lie beside it"
        raise ValueError(f"{path}: damaged ({reason}); {mend}")
    return content


def starts_of(counts: Sequence[int]) -> list[int]:
    """Return the index at which each shard begins, and last the number of all images."""
    return [0, *accumulate(counts)]


def locate(starts: list[int], index: int) -> tuple[int, int]:
    """Return the shard that holds an image, and the image's place in it; IndexError where none does."""
    if not 0 <= index < starts[-1]:
        raise IndexError(f"image {index} is not among {starts[-1]}")
    shard = bisect_right(starts, index) - 1
    return shard, index - starts[shard]


def by_part(starts: np.ndarray, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice, np.ndarray]]:
    """Yield (shard, places in `indices`, places in the shard) for each shard that holds some of the images."""
    if len(starts) == 2:
        yield 0, slice(None), indices
        return
    parts = np.searchsorted(starts, indices, side="right") - 1
    in_order = np.argsort(parts, kind="stable")
    edges = np.flatnonzero(np.diff(parts[in_order], prepend=-1, append=len(starts)))
    for first, last in pairwise(edges):
        places = in_order[first:last]
        number = int(parts[places[0]])
        yield number, places, indices[places] - starts[number]


class Column(NDArrayOperatorsMixin):
    """One number of every image, read from the files when it is asked for: an array that no process holds.

    `column[index]` and `column[indices]` read those images; `min`, `max`, `sum` and `mean` go block by block.
    Arithmetic, comparisons and `np.asarray` make the whole array, which nobody should ask of a billion images.

    Args:
        starts: the index at which each part begins, and last the number of all images.
        part: number of a part -> its values, one-dimensional, mapped.
        dtype: of what is given out.
    """

    def __init__(self, starts: list[int], part: Callable[[int], np.ndarray], dtype: type = np.int64):
        self._starts, self._edges = starts, np.asarray(starts)
        self.part, self.dtype = part, np.dtype(dtype)

    @classmethod
    def of(cls, values: np.ndarray, dtype: type = np.int64) -> Column:
        """Return the column of one part."""
        return cls([0, len(values)], lambda _: values, dtype)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (int, np.integer)):
            part, place = locate(self._starts, int(index) + (len(self) if index < 0 else 0))
            return self.dtype.type(self.part(part)[place])
        indices = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index)
        if indices.dtype == np.bool_:
            if indices.shape != (len(self),):
                raise IndexError(f"a mask of shape {indices.shape} is not one of {len(self)} images")
            indices = np.flatnonzero(indices)
        elif not np.issubdtype(indices.dtype, np.integer) and not (isinstance(index, list) and not index):
            raise IndexError(f"images are numbered by integers, not {indices.dtype}")
        return self._gather(indices.astype(np.int64).ravel()).reshape(indices.shape)

    def _gather(self, indices: np.ndarray) -> np.ndarray:
        if indices.size and indices.min() < 0:
            indices = np.where(indices < 0, indices + len(self), indices)
        if indices.size and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"images {indices.min()} to {indices.max()} are not all among {len(self)}")
        out = np.empty(len(indices), self.dtype)
        for number, places, in_part in by_part(self._edges, indices):
            out[places] = self.part(number)[in_part]
        return out

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all values in order, a bounded number at a time."""
        for number, (first, last) in enumerate(pairwise(self._starts)):
            values = self.part(number) if last > first else ()
            for start in range(0, last - first, BLOCK_IMAGES):
                yield np.asarray(values[start : start + BLOCK_IMAGES], self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a column lies in files: there is no array of it without a copy")
        whole, first = np.empty(len(self), dtype or self.dtype), 0
        for block in self.blocks():
            whole[first : first + len(block)] = block
            first += len(block)
        return whole

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = (np.asarray(value) if isinstance(value, Column) else value for value in inputs)
        return getattr(ufunc, method)(*arrays, **options)

    def tolist(self) -> list[Any]:
        """Return all values as a list."""
        return np.asarray(self).tolist()

    def min(self, *, initial: int | None = None) -> int:
        """Return the least value, `initial` among them; ValueError where there is none."""
        return min([int(block.min()) for block in self.blocks()] + ([] if initial is None else [initial]))

    def max(self, *, initial: int | None = None) -> int:
        """Return the largest value, `initial` among them; ValueError where there is none."""
        return max([int(block.max()) for block in self.blocks()] + ([] if initial is None else [initial]))

    def sum(self) -> int:
        """Return the sum of all values."""
        return sum(int(block.sum()) for block in self.blocks())

    def mean(self) -> float:
        """Return the mean of all values; not a number where there is none."""
        return self.sum() / len(self) if len(self) else float("nan")
