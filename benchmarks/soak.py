"""`python -m benchmarks convert --soak N`: very many small images in shards; memory stays flat, time is linear."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from benchmarks.harness import straight_line
from benchmarks.tree import Sample, watch

IMAGES_PER_TAR = 5000
SHARD_SIZE = "8MiB"
SIDE, PICTURES, CLASSES = 48, 64, 1000

Layout = Literal["webdataset", "classes"]


def small_jpegs() -> Iterator[bytes]:
    """Yield small JPEGs without end, no two alike: few pictures, each time with another number in a comment."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(PICTURES):
        coarse = rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        pictures.append(file.getvalue())
    number = 0
    while True:
        data = pictures[number % PICTURES]
        comment = b"%012d" % number
        yield data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]
        number += 1


def write_tars(folder: Path, count: int, layout: Layout) -> None:
    """Write `count` images as tars: WebDataset's, with a class number beside each image, or in class folders."""
    images = small_jpegs()
    for first in range(0, count, IMAGES_PER_TAR):
        with tarfile.open(folder / f"set-{first // IMAGES_PER_TAR:06d}.tar", "w") as tar:
            for number in range(first, min(first + IMAGES_PER_TAR, count)):
                label = number % CLASSES
                if layout == "webdataset":
                    _add(tar, f"{number:09d}.cls", b"%d" % label)
                    _add(tar, f"{number:09d}.jpg", next(images))
                else:
                    _add(tar, f"class{label:04d}/{number:09d}.jpg", next(images))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
    tar.members.clear()  # type: ignore[attr-defined]


def soak(count: int, workers: int, layout: Layout, shared: dict[str, Any]) -> dict[str, Any]:
    """Convert `count` small images in shards by the command, watch it, and return the record.

    Raises:
        ValueError: too few to see anything.
        OSError: the conversion failed.
    """
    if count < 4 * IMAGES_PER_TAR:
        raise ValueError(f"soak {count}: give at least {4 * IMAGES_PER_TAR:,} images")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        folder = Path(name)
        (folder / "set").mkdir()
        write_tars(folder / "set", count, layout)
        out = folder / "out.beton"
        options = ["--shard-size", SHARD_SIZE, "--workers", str(workers), "--json"]
        watched = watch([sys.executable, "-m", "relic", "data", "convert", str(folder / "set"), str(out), *options])
        summary = json.loads(watched.output)
        shards = json.loads(out.read_text())["shards"]
        # A shard's file keeps the time at which its last byte was written.
        moments = [(folder / shard["file"]).stat().st_mtime_ns / 1e9 for shard in shards]
    if summary["images"] != count:
        raise OSError(f"{count:,} images were made, {summary['images']:,} are in the shards")
    counts = np.cumsum([shard["images"] for shard in shards])
    slope, _, fit = straight_line(counts[:-1].tolist(), sorted(moments)[:-1])
    # Until the first shard is there, sources may be listed.
    early, late = memory_early_and_late(watched.samples, min(moments), max(moments))
    return {
        "benchmark": f"convert, {layout} in shards",
        "provider": "relic data convert",
        "value": summary["images_per_second"],
        "unit": "images/s",
        "low": summary["images_per_second"],
        "high": summary["images_per_second"],
        "repeats": 1,
        "threads": workers,
        "recipe": {"layout": layout, "shard_size": SHARD_SIZE, "images_per_tar": IMAGES_PER_TAR},
        "images": {"count": count, "mean_kilobytes": round(summary["bytes"] / count / 1000, 2)},
        "shards": len(shards),
        "milliseconds_per_thousand_images": 1e6 * slope,
        "r2_of_time_over_images": fit,
        "memory_mib": {"early": early, "late": late, "peak": watched.peak / 2**20},
        "memory_growth": late / early - 1,
        **shared,
    }


def memory_early_and_late(samples: list[Sample], first: float, last: float) -> tuple[float, float]:
    """Return the median MiB of the first and of the second half of the time between two moments."""
    middle = (first + last) / 2
    halves = [[s.bytes for s in samples if start <= s.moment < end] for start, end in ((first, middle), (middle, last))]
    return float(np.median(halves[0])) / 2**20, float(np.median(halves[1])) / 2**20


def lines(record: dict[str, Any]) -> str:
    """Say what came of it."""
    memory, images = record["memory_mib"], record["images"]
    what = f"{images['count']:,} images of {images['mean_kilobytes']} kB, {record['recipe']['layout']}"
    return (
        f"{what}, in {record['shards']:,} shards: {record['value']:,.0f} images/s\n"
        f"time      {record['milliseconds_per_thousand_images']:.1f} ms per thousand images, R² of a straight line"
        f" {record['r2_of_time_over_images']:.5f}\n"
        f"memory    {memory['early']:.1f} MiB early, {memory['late']:.1f} MiB late ({record['memory_growth']:+.1%}),"
        f" at most {memory['peak']:.1f} MiB, whole tree"
    )
