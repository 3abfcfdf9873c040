"""`python -m benchmarks plot RECORDS.json`: a bar chart of speeds, with the conditions below it."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import tyro

OURS, PEER, UNIT = "#1b6ca8", "#b8bec4", "#3c3c3c"


def plot(records: tyro.conf.Positional[Path], out: Path = Path("views.png"), title: str = "") -> int:
    """Draw the speeds of a file of records, fastest first, on a logarithmic scale.

    Args:
        records: File written by --json.
        out: PNG file to write.
        title: Heading; by default what was measured.
    """
    from benchmarks import records as stored

    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out} is no .png file: give it that ending")
    found = sorted(stored.read(records), key=lambda record: record["value"])
    if not found:
        raise ValueError(f"{records} has no records")
    draw(found, out, title or _title(found[0]))
    print(f"{out}: {len(found)} providers")
    return 0


def _title(record: dict[str, Any]) -> str:
    threads = record["threads"]
    what = "All views of an image" if record["benchmark"] == "views" else f"benchmarks {record['benchmark']}"
    return f"{what}, {threads} thread{'s' if threads > 1 else ''}"


def draw(records: list[dict[str, Any]], out: Path, title: str) -> None:
    """Write the chart; the first of `records` is the lowest bar."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.8 + 0.36 * len(records)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = [record["value"] for record in records]
    reach = [
        [record["value"] - record["low"] for record in records],
        [record["high"] - record["value"] for record in records],
    ]
    colors = [_color(record["provider"]) for record in records]
    axes.barh([_label(record) for record in records], values, color=colors, height=0.72)
    axes.errorbar(values, range(len(values)), xerr=reach, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
    for place, record in enumerate(records):
        shown = f"{record['value']:,.0f}" if record["value"] >= 100 else f"{record['value']:.1f}"
        axes.text(record["high"] * 1.06, place, shown, fontsize=9, va="center")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(min(values) / 2, max(values) * 2)
    axes.set_xlabel(f"source {records[0]['unit']}, logarithmic; lines: lowest and highest round")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    caption = fill(_caption(records), 150)
    figure.supxlabel(caption, fontsize=7, color="0.35", x=0.02, ha="left")
    figure.savefig(out, dpi=150)


def _caption(records: list[dict[str, Any]]) -> str:
    """Return the conditions, and what the peers do otherwise."""
    from benchmarks import table

    record = records[0]
    notes = [
        f"{r['provider']}: {r['note']}" for r in reversed(records) if _color(r["provider"]) == PEER and r.get("note")
    ]
    return ". ".join([f"{table.machine_line(records)}; commit {record['commit']}, {record['date'][:10]}", *notes])


def _color(provider: str) -> str:
    from benchmarks.providers import PROVIDERS

    if provider == "decode":
        return UNIT
    return OURS if provider not in PROVIDERS or PROVIDERS[provider].is_ours else PEER


def _label(record: dict[str, Any]) -> str:
    return f"{record['provider']} ({record['output']})" if record.get("output") else record["provider"]
