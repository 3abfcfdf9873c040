"""Whether every image of a beton decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pipelines.beton import Beton
from pipelines.prepare.engines import Engine, run
from pipelines.prepare.jpeg import check_decodes, check_whole, read_header
from pipelines.shards import open_beton

IMAGES_PER_TASK = 256


class Task(NamedTuple):
    """Images `start` to before `stop` of a file, which is one shard perhaps; `first` is the index of its first image
    in the whole data set.
    """

    file: Path
    first: int
    start: int
    stop: int


def check(
    path: str | Path, *, workers: int = 1, on_progress: Callable[[int], None] | None = None
) -> list[tuple[int, str]]:
    """Decode every image of a beton, or of all its shards; gives (image index, reason) of those that fail, in order.

    A JPEG fails where libjpeg-turbo errs or warns anywhere in it, or where its size is not what the sample table says.
    Pixels have nothing to decode; that they are all there is known when the beton opens. Raises what `open_beton`
    raises.
    """
    with open_beton(path) as beton:
        files = list(beton.files)
        beton.labels.min(initial=0)  # opens every shard, which holds it against the manifest
    bad: list[tuple[int, str]] = []
    try:
        for _, (images, failed) in run(check_images, _tasks(files), engine=Engine(workers=workers)):
            bad += failed
            if on_progress is not None:
                on_progress(images)
    except ChildProcessError:
        raise ChildProcessError(f"{path}: a worker was killed (out of memory?); try fewer --workers") from None
    finally:
        _opened.cache_clear()
    return sorted(bad)


def _tasks(files: list[Path]) -> Iterator[Task]:
    first = 0
    for file in files:
        with Beton(file) as beton:
            num_images = beton.num_images
        for start in range(0, num_images, IMAGES_PER_TASK):
            yield Task(file, first, start, min(start + IMAGES_PER_TASK, num_images))
        first += num_images


def check_images(task: Task) -> tuple[int, list[tuple[int, str]]]:
    """Decode some images of a file; gives how many they are, and (image index, reason) of those that fail."""
    bad = []
    beton = _opened(task.file)
    for index in range(task.start, task.stop):
        if not beton.is_jpeg(index):
            continue
        data = bytes(beton.jpeg(index))
        try:
            header = read_header(data)
            found, said = (header.height, header.width), (beton.heights[index], beton.widths[index])
            if found != said:
                raise ValueError(f"is {found[1]} x {found[0]} pixels, the table says {said[1]} x {said[0]}")
            check_whole(data, header)
            check_decodes(data)
        except ValueError as error:
            bad.append((task.first + index, str(error)))
    return task.stop - task.start, bad


@lru_cache(maxsize=1)
def _opened(file: Path) -> Beton:
    """Open a file once for all tasks on it that a worker gets: opening takes time in proportion to its images."""
    return Beton(file)
