"""Read the JPEG files that every provider gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import simplejpeg

from benchmarks.harness import evenly_spaced

SUFFIXES = (".jpg", ".jpeg")
COLORS = ("YCbCr", "RGB", "Gray")  # CMYK is turned to RGB in different ways by different libraries


def read_jpegs(folder: Path, limit: int, *, on_note: Callable[[str], None]) -> list[bytes]:
    """Read at most `limit` JPEGs, evenly spaced in the sorted list of all below the folder.

    Raises:
        ValueError: none is there.
        FileNotFoundError: no such folder.
    """
    if limit < 1:
        raise ValueError(f"limit {limit}: give at least 1")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give --images DIR with JPEG files")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    jpegs, left_out = [], 0
    for place in evenly_spaced(len(files), limit):
        jpeg = files[place].read_bytes()
        if _is_common(jpeg):
            jpegs.append(jpeg)
        else:
            left_out += 1
    if not jpegs:
        raise ValueError(f"{folder}: no RGB or grayscale JPEG below it ({len(files)} files end in .jpg or .jpeg)")
    if left_out:
        on_note(f"{left_out} files are left out: damaged, no JPEG, or CMYK")
    return jpegs


def _is_common(jpeg: bytes) -> bool:
    try:
        simplejpeg.decode_jpeg(jpeg, "RGB")
        return simplejpeg.decode_jpeg_header(jpeg)[2] in COLORS
    except ValueError:
        return False


def describe(folder: Path, jpegs: list[bytes], sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Return folder name, count, and mean file size in kB and sides in pixels."""
    count = len(jpegs)
    return {
        "folder": folder.resolve().name,
        "count": count,
        "mean_kilobytes": round(sum(map(len, jpegs)) / count / 1000, 1),
        "mean_height": round(sum(height for height, _ in sizes) / count),
        "mean_width": round(sum(width for _, width in sizes) / count),
    }
