"""`python -m benchmarks compare OLD.json NEW.json`: what became faster, what slower."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

MUST_AGREE = ("threads", "unit", "recipe", "images", "output", "batch_size", "seed", "options")
"""Records that differ in these are not of the same measurement."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One provider in two files; values of a unit of which more is better."""

    provider: str
    old: dict[str, Any]
    new: dict[str, Any]

    @property
    def ratio(self) -> float:
        """Return new / old."""
        return self.new["value"] / self.old["value"]

    @property
    def ranges_overlap(self) -> bool:
        """Return whether the rounds of the two cannot be told apart by their extremes."""
        return self.new["high"] >= self.old["low"] and self.old["high"] >= self.new["low"]

    def lost(self, tolerance: float) -> bool:
        """Return whether even its best round is more than `tolerance` below the worst round of before."""
        return self.new["high"] < self.old["low"] * (1 - tolerance)


def compare(old: tyro.conf.Positional[Path], new: tyro.conf.Positional[Path], tolerance: float = 0.05) -> int:
    """Compare two files of records; the exit code is 1 where a provider became slower.

    Args:
        old: Records of before, from --json.
        new: Records of now.
        tolerance: Share that a provider may lose beyond the ranges of its rounds.
    """
    from benchmarks import records, table

    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance {tolerance:g}: give a share from 0 to below 1")
    before, now = _by_name(records.read(old)), _by_name(records.read(new))
    changes = [Change(provider=name[1], old=before[name], new=now[name]) for name in now if name in before]
    if not changes:
        raise ValueError(f"{old} and {new} have no provider in common")
    for change in changes:
        if change.new["unit"] != "images/s":
            raise ValueError(f"{new} is in {change.new['unit']}: compare takes records in images/s")
        if differing := [field for field in MUST_AGREE if change.old.get(field) != change.new.get(field)]:
            raise ValueError(
                f"{change.provider} was measured with other {' and '.join(differing)} in {new}: measure both alike"
            )
    rows = [_row(change, tolerance) for change in changes]
    print(table.text_table(("provider", "old", "new", "new ÷ old", "ranges", ""), rows))
    for name in sorted(before.keys() ^ now.keys()):
        print(f"only in {old if name in before else new}: {name[1]}")
    if (there := changes[0].old["machine"]["cpu"]) != (here := changes[0].new["machine"]["cpu"]):
        print(f"warning: other processors: {there}, {here}", file=sys.stderr)
    return 1 if any(change.lost(tolerance) for change in changes) else 0


def _by_name(found: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(record["benchmark"], record["provider"]): record for record in found}


def _row(change: Change, tolerance: float) -> tuple[str, ...]:
    return (
        change.provider,
        f"{change.old['value']:.1f}",
        f"{change.new['value']:.1f}",
        f"{change.ratio:.3f}",
        "overlap" if change.ranges_overlap else "apart",
        "slower" if change.lost(tolerance) else "",
    )
