"""Result records: what was measured, with every condition that it depends on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness import Measured
from benchmarks.providers import PROVIDERS
from benchmarks.work import Work

ALWAYS = ("relicv2", "numpy", "torch")
FIELDS = (
    "benchmark", "provider", "value", "unit", "low", "high", "repeats", "threads", "recipe", "images", "machine",
    "versions", "commit", "date",
)  # fmt: skip
"""What every record has."""


def conditions(machine: dict[str, Any]) -> dict[str, Any]:
    """Return what all records of one run share."""
    return {"machine": machine, "commit": commit(), "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def of_provider(
    benchmark: str,
    measured: Measured,
    decode: Measured | None,
    *,
    work: Work,
    images: dict[str, Any],
    shared: dict[str, Any],
) -> dict[str, Any]:
    """Return the record of one provider.

    Args:
        benchmark: `decode` or `views`.
        measured: its figures.
        decode: those of the bare decode in the same run.
        work: what it made.
        images: from `benchmarks.images.describe`.
        shared: from `conditions`.
    """
    value, low, high = measured.images_per_second()
    entry = PROVIDERS[measured.name]
    ratio = measured.times_faster_than(decode) if decode is not None else None
    return {
        "benchmark": benchmark,
        "provider": measured.name,
        "value": value,
        "unit": "images/s",
        "low": low,
        "high": high,
        "repeats": len(measured.rounds),
        "threads": work.threads,
        "recipe": asdict(work.recipe),
        "images": images,
        "output": entry.output,
        "batch_size": work.batch_size,
        "seed": work.seed,
        "ratio_to_decode": dict(zip(("value", "low", "high"), ratio, strict=True)) if ratio else None,
        "parity": measured.parity,
        "stages": measured.seconds_per_image(),
        "cold_start_seconds": measured.cold_start_seconds,
        "note": measured.note,
        "versions": versions((*ALWAYS, *entry.needs)),
        **shared,
    }


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit that this code is, `+changes` if it was edited; None outside of a checkout."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str | None:
        try:
            run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return run.stdout.strip()

    if not (root / ".git").exists():
        return None
    head = git("rev-parse", "--short=12", "HEAD")
    return f"{head}+changes" if head and git("status", "--porcelain") else head


def write(records: list[dict[str, Any]], target: str) -> None:
    """Write records as JSON to a file, or to standard output where `target` is `-`."""
    text = json.dumps(records, indent=1, ensure_ascii=False)
    if target == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(target).write_text(text + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Read records; raises FileNotFoundError, or ValueError for a file without them."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; write one with --json {path}")
    try:
        records = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no file of records: {error}") from None
    if not isinstance(records, list) or not all(isinstance(r, dict) and {*FIELDS} <= r.keys() for r in records):
        raise ValueError(f"{path} is no file of records: write one with --json {path}")
    return records


def check_target(target: str | None) -> None:
    """Raise FileNotFoundError before anything is measured, where the records could not be written."""
    if target not in (None, "-") and not Path(target).absolute().parent.is_dir():
        raise FileNotFoundError(f"{Path(target).parent}: no such folder for --json; make it with `mkdir -p`")
