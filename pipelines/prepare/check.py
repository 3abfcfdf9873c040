"""Whether every image of a beton decodes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from pipelines.beton import Beton
from pipelines.prepare.jpeg import check_decodes, check_whole, read_header

IMAGES_PER_TASK = 256


def check(
    path: str | Path, *, workers: int = 1, on_progress: Callable[[int], None] | None = None
) -> list[tuple[int, str]]:
    """Decode every image of a beton; gives (image index, reason) of those that fail, in order.

    A JPEG fails where libjpeg-turbo errs or warns anywhere in it, or where its size is not what the sample table says.
    Pixels have nothing to decode; that they are all there is known when the beton opens. Raises what `Beton` raises.
    """
    with Beton(path) as beton:
        num_images = beton.num_images
    tasks = [range(first, min(first + IMAGES_PER_TASK, num_images)) for first in range(0, num_images, IMAGES_PER_TASK)]
    bad: list[tuple[int, str]] = []
    if workers == 1:
        for task in tasks:
            bad += check_images(Path(path), task)
            if on_progress is not None:
                on_progress(len(task))
        return bad
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, max(len(tasks), 1)), mp_context=context) as pool:
        futures = {pool.submit(partial(check_images, Path(path), task)): task for task in tasks}
        try:
            for future in as_completed(futures):
                bad += future.result()
                if on_progress is not None:
                    on_progress(len(futures[future]))
        except BrokenProcessPool:
            raise ChildProcessError(f"{path}: a worker was killed (out of memory?); try fewer --workers") from None
    return sorted(bad)


def check_images(path: Path, indices: range) -> list[tuple[int, str]]:
    """Decode some images of a beton; gives (image index, reason) of those that fail."""
    bad = []
    with Beton(path) as beton:
        for index in indices:
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
                bad.append((index, str(error)))
    return bad
