"""Records as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first, which is a name, to the left, the others to the right."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]

    def aligned(line: Sequence[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        return "  ".join([line[0].ljust(widths[0]), *cells[1:]]).rstrip()

    return "\n".join([aligned(header), "  ".join("-" * width for width in widths), *map(aligned, rows)])


def speeds(records: list[dict[str, Any]], faster: dict[str, dict[str, tuple[float, float, float]]]) -> str:
    """Show speeds, and how pixels agree.

    Args:
        records: of one run of `views` or `decode`.
        faster: name of one of ours -> provider -> how many times faster than that it is (median, lowest, highest).
    """
    ours = [f"{name} is" for name in faster]
    header = ("provider", "images/s", "low–high", "× decode", *ours, "MAE", "PSNR", "output", "jitter")
    rows = [_row(record, [ratios.get(record["provider"]) for ratios in faster.values()]) for record in records]
    return text_table(header, rows)


def notes(records: list[dict[str, Any]]) -> str:
    """Show what a reader must know of each provider."""
    return "\n".join(f"{record['provider']}: {record['note']}" for record in records if record["note"])


def _row(record: dict[str, Any], faster: Sequence[tuple[float, float, float] | None]) -> tuple[str, ...]:
    parity, ratio = record["parity"], record["ratio_to_decode"]
    psnr = "–" if parity is None else "equal" if parity["psnr"] is None else f"{parity['psnr']:.1f} dB"
    return (
        record["provider"],
        f"{record['value']:.1f}",
        f"{record['low']:.1f}–{record['high']:.1f}",
        f"{ratio['value']:.3f}" if ratio else "–",
        *(f"{ratio_to_peer[0]:.1f}× faster" if ratio_to_peer else "" for ratio_to_peer in faster),
        f"{parity['mean_abs_error']:.2f}" if parity else "–",
        psnr,
        record["output"] or "–",
        record["recipe"]["photometric"]["jitter"] if record["output"] else "–",
    )


def stages(records: list[dict[str, Any]]) -> str:
    """Show milliseconds per image by stage, a line per provider that knows them."""
    lines = []
    for record in records:
        if record["stages"]:
            parts = (f"{name} {1000 * seconds:.2f}" for name, seconds in record["stages"].items())
            lines.append(f"{record['provider']}: {', '.join(parts)}")
    return "\n".join(lines)


def machine_line(records: list[dict[str, Any]]) -> str:
    """Say where and on what it was measured."""
    record = records[0]
    machine, images = record["machine"], record["images"]
    return (
        f"{machine['cpu']}, {record['threads']} thread(s), {machine['cores_allowed']} of {machine['cores']} cores"
        f" allowed, {' '.join(machine['vector_units'])}; load {machine['load_average'][0]} before;"
        f" {images['count']} images of {images['folder']}, mean {images['mean_height']}×{images['mean_width']} px,"
        f" {images['mean_kilobytes']} kB; {views_line(record['recipe'])}"
    )


def views_line(recipe: dict[str, Any]) -> str:
    """Say which views a recipe makes."""
    large, small = recipe["large"], recipe["small"]
    return (
        f"{large['count']}×{large['size']} + {small['count']}×{small['size']} px, antialiased {recipe['interpolation']}"
    )
