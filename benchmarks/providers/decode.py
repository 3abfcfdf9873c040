"""Bare decoding: what no way of making views can undercut."""

from __future__ import annotations

import time

from benchmarks import jpeg
from benchmarks.image_by_image import ImageByImage
from benchmarks.work import Work


def prepare(work: Work) -> ImageByImage:
    """Decode every image into one reused buffer, and nothing else."""
    largest = jpeg.largest_bytes(work.jpegs)

    def fill(index: int, _: list) -> dict[str, float]:
        start = time.perf_counter()
        jpeg.decode(work.jpegs[index], largest)
        return {"decode": time.perf_counter() - start}

    return ImageByImage(work, fill, [], note="no views", follows_rows=False)
