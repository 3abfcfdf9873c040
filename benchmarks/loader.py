"""`python -m benchmarks loader`: a whole loader, from the beton to batches."""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pipelines.config import ViewsConfig
    from pipelines.contract import Loader

STATUS = Path("/proc/self/status")
PARTS = 5
"""The batches are timed in so many parts, whose median and extremes are reported."""


@dataclass(kw_only=True)
class Served:
    """What a loader did."""

    images: dict[str, Any]
    """Name, count and mean sizes of the data set, as `benchmarks.images.describe`."""
    first_batch_seconds: float
    """From opening the files to the first batch."""
    rss_megabytes: dict[str, float]
    """The process's own resident memory before the loader, after a tenth of the batches, and after the last."""
    stats: dict[str, float]
    """`Loader.stats()` of the batches after the first; occupancy over all."""
    counted: list[int] = field(default_factory=list)
    """Images of each batch after the first."""
    moments: list[float] = field(default_factory=list)
    """Clock at the first batch, and after each that followed."""

    def speeds(self) -> list[float]:
        """Return images/s of each part of the batches after the first."""
        total = len(self.counted)
        edges = sorted({total * part // min(PARTS, total) for part in range(min(PARTS, total) + 1)})
        return [
            sum(self.counted[low:high]) / (self.moments[high] - self.moments[low])
            for low, high in itertools.pairwise(edges)
        ]


def loader(
    data: Path | None = None,
    images: Path | None = None,
    backend: Literal["fused", "reference", "dali", "synthetic", "ffcv"] = "fused",
    threads: int = 1,
    batches: int = 50,
    batch_size: int = 64,
    masks: Path | None = None,
    prefetch: int = 2,
    output: Literal["uint8", "bfloat16", "float32"] = "uint8",
    photometric: Literal["host", "device"] = "host",
    device: Literal["cpu", "cuda"] = "cpu",
    seed: int = 0,
    json: str | None = None,
) -> int:
    """Measure a loader: images/s, seconds by stage, queue, memory and time to the first batch.

    Args:
        data: Beton.
        images: Folder of images, converted to a temporary beton where no --data is given.
        backend: Who decodes and renders.
        threads: Threads that decode and render.
        batches: Batches to take, over as many epochs as that needs.
        batch_size: Images per batch.
        masks: Mask store of the beton; with it large views lose their background as the recipe says.
        prefetch: Batches in flight.
        output: Type of the views (fused and dali only).
        photometric: Who does all but decoding, crop, resize and flip (fused only; with dali always the device).
        device: Where batches are delivered.
        seed: Seed of order and views.
        json: File for the record, - for standard output (the figures then go to standard error).
    """
    from benchmarks import machine, records
    from benchmarks.providers import DALI
    from benchmarks.work import benchmark_recipe
    from pipelines.config import BackgroundConfig

    if batches < 2:
        raise ValueError(f"batches {batches}: give at least 2, the first is not counted")
    records.check_target(json)
    shared = records.conditions(machine.describe())
    recipe = benchmark_recipe("relicv2")
    if masks is not None:
        recipe = replace(recipe, background=BackgroundConfig())
    options = {"backend": backend, "batch_size": batch_size, "prefetch": prefetch, "output": output, "seed": seed}
    options |= {"photometric": photometric, "device": device}
    with _beton(data, images) as beton:
        served = _serve(beton, recipe, batches, {**options, "num_threads": threads, "masks": masks})
    record = {
        **_figures(served),
        "benchmark": "loader",
        "provider": backend,
        "threads": threads,
        "recipe": asdict(recipe),
        "images": served.images,
        "options": {**options, "masks": masks is not None, "batches": batches},
        "versions": records.versions((*records.ALWAYS, "simplejpeg", "ffcv", *DALI, "triton")),
        **shared,
    }
    print("\n".join(_lines(record)), file=sys.stderr if json == "-" else sys.stdout)
    if json is not None:
        records.write([record], json)
    return 0


@contextlib.contextmanager
def _beton(data: Path | None, images: Path | None) -> Iterator[Path]:
    from pipelines.prepare.convert import ConvertConfig, convert

    if data is not None:
        yield data
        return
    if images is None:
        raise ValueError("nothing to load: give --data FILE.beton or --images DIR")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        beton = Path(folder) / f"{images.resolve().name}.beton"
        convert(images, beton, config=ConvertConfig())
        yield beton


def _serve(beton: Path, recipe: ViewsConfig, batches: int, options: dict[str, Any]) -> Served:
    import torch

    from pipelines.build import build_loader

    memory = {"before": resident_megabytes()}
    start = time.perf_counter()
    opened = build_loader(beton, recipe, **options)
    try:
        endless = _epochs(opened)
        next(endless)
        moments = [time.perf_counter()]
        at_first, counted = opened.stats(), []
        for number in range(1, batches):
            counted.append(len(next(endless).index))
            if number == batches - 1 and options.get("device") == "cuda":
                torch.cuda.synchronize()  # launched is not done
            moments.append(time.perf_counter())
            if number == max(batches // 10, 1):
                memory["after_a_tenth"] = resident_megabytes()
        memory["after"] = resident_megabytes()
        stats = opened.stats()
        endless.close()
    finally:
        opened.close()
    return Served(
        images=_described(beton),
        first_batch_seconds=moments[0] - start,
        rss_megabytes=memory,
        stats={name: value if name == "occupancy" else value - at_first.get(name, 0) for name, value in stats.items()},
        counted=counted,
        moments=moments,
    )


def _described(path: Path) -> dict[str, Any]:
    from pipelines.shards import open_beton

    with open_beton(path) as beton:
        return {
            "folder": path.name,
            "count": beton.num_images,
            "mean_kilobytes": round(beton.payload_sizes.mean() / 1000, 1),
            "mean_height": round(beton.heights.mean()),
            "mean_width": round(beton.widths.mean()),
        }


def _epochs(opened: Loader) -> Generator[Any, None, None]:
    epoch = 0
    while True:
        opened.set_epoch(epoch)
        yield from opened
        epoch += 1


def resident_megabytes() -> float:
    """Return this process's resident memory in MB, without pages of mapped files, which the system takes back at will.

    Not a number where the system does not tell.
    """
    if not STATUS.is_file():
        return float("nan")
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024 / 1e6


def _figures(served: Served) -> dict[str, Any]:
    import statistics

    speeds, images = served.speeds(), sum(served.counted)
    stages = {n: s / images for n, s in served.stats.items() if n not in ("occupancy", "batches", "wait")}
    return {
        "value": statistics.median(speeds),
        "unit": "images/s",
        "low": min(speeds),
        "high": max(speeds),
        "repeats": len(speeds),
        "stages": stages or None,
        "wait_share": served.stats["wait"] / (served.moments[-1] - served.moments[0]),
        "occupancy": served.stats["occupancy"],
        "first_batch_seconds": served.first_batch_seconds,
        "rss_megabytes": served.rss_megabytes,
        "parity": None,
    }


def _lines(record: dict[str, Any]) -> list[str]:
    memory = record["rss_megabytes"]
    stages = ", ".join(f"{name} {1000 * seconds:.2f}" for name, seconds in (record["stages"] or {}).items())
    return [
        f"{record['provider']}, {record['threads']} thread(s): {record['value']:.1f} images/s"
        f" ({record['low']:.1f}–{record['high']:.1f} over {record['repeats']} parts)",
        f"first batch after {record['first_batch_seconds']:.2f} s",
        f"milliseconds per image by stage, summed over threads: {stages or 'not known'}",
        f"consumer waited {100 * record['wait_share']:.0f} % of the time; queue filled to {record['occupancy']:.2f}",
        f"resident memory: {memory['before']:.0f} MB before, {memory['after_a_tenth']:.1f} MB after a tenth of"
        f" the batches, {memory['after']:.1f} MB after all ({memory['after'] / memory['after_a_tenth'] - 1:+.2%})",
    ]
