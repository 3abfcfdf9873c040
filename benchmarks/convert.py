"""`python -m benchmarks convert`: `relic data convert` against a plain copy of the same files, and a soak."""

from __future__ import annotations

import json as json_module
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.tree import watch

COPY, COMMAND, CONVERSION = "cp -r", "relic data convert", "relic data convert, without its start"
MIB = 2**20


@dataclass(kw_only=True)
class Rounds:
    """Images per second of each provider, a value a round; and the most memory of each, in a round apart."""

    peaks: dict[str, int]
    speeds: dict[str, list[float]] = field(default_factory=lambda: {COPY: [], COMMAND: [], CONVERSION: []})

    def ratio(self, provider: str) -> tuple[float, float, float]:
        """Return median, lowest and highest of a provider's speed over the copy's of the same round."""
        from benchmarks.harness import spread

        return spread([mine / copy for mine, copy in zip(self.speeds[provider], self.speeds[COPY], strict=True)])


def convert(
    images: Path | None = None,
    repeats: int = 7,
    workers: int | None = None,
    times: int = 1,
    soak: int | None = None,
    soak_layout: Literal["webdataset", "classes"] = "webdataset",
    json: str | None = None,
) -> int:
    """Measure conversion: images/s against `cp -r` of the same files in turn, and peak memory of all processes.

    The copy does not wait for the disk, the conversion does (fsync). All files are in the page cache.

    Args:
        images: Folder with a folder of JPEGs per class.
        repeats: Rounds.
        workers: Processes of the conversion; by default one per core.
        times: Take the folder so many times over (copies of it, each file under another name), so that the start of
            the command weighs less.
        soak: Instead convert so many small synthetic images in shards, and say how memory and time grow.
        soak_layout: Tars as WebDataset makes them, converted as they come; or with class folders, listed first.
        json: File for the records, - for standard output (the table then goes to standard error).
    """
    from benchmarks import machine, records
    from relic import cores

    if repeats < 1 or times < 1:
        raise ValueError(f"repeats {repeats}, times {times}: give at least 1")
    if images is None and soak is None:
        raise ValueError("nothing to convert: give --images DIR, or --soak 200000")
    records.check_target(json)
    workers = cores.available() if workers is None else workers
    described = machine.describe()
    shared = {**records.conditions(described), "versions": records.versions(records.ALWAYS)}
    out = sys.stderr if json == "-" else sys.stdout
    made = []
    if soak is not None:
        from benchmarks import soak as soaking

        made.append(soaking.soak(soak, workers, soak_layout, shared))
        print(soaking.lines(made[-1]), file=out)
    if images is not None:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
            source = multiplied(images, times, Path(name) / "source")
            facts = facts_of(source)
            rounds = measure(source, facts["count"], workers, repeats, Path(name))
        made += [record(provider, rounds, facts, workers, times, shared) for provider in rounds.speeds]
        print(table(made[-len(rounds.speeds) :]), file=out)
    if json is not None:
        records.write(made, json)
    return 0


def multiplied(images: Path, times: int, target: Path) -> Path:
    """Give the folder itself, or a folder with so many copies of each file."""
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such folder; give --images DIR with a folder of JPEGs per class")
    if times == 1:
        return images
    for file in sorted(path for path in images.rglob("*") if path.is_file()):
        copy = target / file.relative_to(images)
        copy.parent.mkdir(parents=True, exist_ok=True)
        for number in range(times):
            shutil.copyfile(file, copy.with_name(f"{number}-{file.name}"))
    return target


def facts_of(folder: Path) -> dict[str, Any]:
    """Return name, number and mean size in kB of the files in a folder; ValueError where there are none."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    if not sizes:
        raise ValueError(f"{folder}: has no files")
    return {
        "folder": folder.resolve().name,
        "count": len(sizes),
        "mean_kilobytes": round(sum(sizes) / len(sizes) / 1000, 1),
    }


def measure(source: Path, count: int, workers: int, repeats: int, folder: Path) -> Rounds:
    """Copy and convert in turn. A round before the first is for the memory, since watching it takes time."""
    from benchmarks.harness import print_note

    beton, copy = folder / "made.beton", folder / "copy"
    copying = ["cp", "-r", str(source), str(copy)]
    converting = [sys.executable, "-m", "relic", "data", "convert", str(source), str(beton)]
    converting += ["--workers", str(workers), "--overwrite", "--json"]
    copied = watch(copying)
    shutil.rmtree(copy)
    converted = watch(converting)
    rounds = Rounds(peaks={COPY: copied.peak, COMMAND: converted.peak, CONVERSION: converted.peak})
    for number in range(repeats):
        start = time.perf_counter()
        subprocess.run(copying, check=True)
        middle = time.perf_counter()
        made = subprocess.run(converting, check=True, capture_output=True, text=True)
        end = time.perf_counter()
        shutil.rmtree(copy)
        rounds.speeds[COPY].append(count / (middle - start))
        rounds.speeds[COMMAND].append(count / (end - middle))
        rounds.speeds[CONVERSION].append(json_module.loads(made.stdout)["images_per_second"])
        speeds = ", ".join(f"{provider} {speeds[-1]:,.0f}" for provider, speeds in rounds.speeds.items())
        print_note(f"round {number + 1} of {repeats}, images/s: {speeds}")
    return rounds


def record(
    provider: str, rounds: Rounds, facts: dict[str, Any], workers: int, times: int, shared: dict[str, Any]
) -> dict[str, Any]:
    """Return the record of one provider."""
    from benchmarks.harness import spread

    value, low, high = spread(rounds.speeds[provider])
    return {
        "benchmark": "convert",
        "provider": provider,
        "value": value,
        "unit": "images/s",
        "low": low,
        "high": high,
        "repeats": len(rounds.speeds[provider]),
        "threads": 1 if provider == COPY else workers,
        "recipe": {"times": times},
        "images": facts,
        "ratio_to_copy": dict(zip(("value", "low", "high"), rounds.ratio(provider), strict=True)),
        "peak_mib": rounds.peaks[provider] / MIB,
        **shared,
    }


def table(made: list[dict[str, Any]]) -> str:
    """Show speeds, their ratio to the copy, and memory."""
    from benchmarks.table import text_table

    rows = []
    for one in made:
        ratio = one["ratio_to_copy"]
        rows.append(
            (
                one["provider"],
                f"{one['value']:,.0f}",
                f"{one['low']:,.0f}–{one['high']:,.0f}",
                f"{ratio['value']:.2f}",
                f"{ratio['low']:.2f}–{ratio['high']:.2f}",
                f"{one['peak_mib']:.0f}",
            )
        )
    return text_table(("provider", "images/s", "low–high", "÷ cp", "low–high", "peak MiB"), rows)
