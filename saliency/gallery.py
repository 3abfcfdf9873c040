"""A contact sheet of maps that came out best and worst, beside the true masks and the images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TRUTH, CUT = "#009e73", "#d55e00"  # Okabe and Ito's green and red, which colour-blind people can tell apart
LONGEST_TITLE = 34
COLUMN_INCHES, ROW_INCHES = 1.9, 1.75


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One image's map and mask."""

    title: str
    """What it is called; cut where it is long."""
    iou: float
    """Intersection over union of the map cut at 0.5."""
    saliency: np.ndarray
    """uint8 [H, W], the map at the mask's size."""
    truth: np.ndarray
    """bool [H, W], the true mask."""
    image: np.ndarray | None = None
    """uint8 [h, w, 3], the image; None leaves its place out."""


def gallery(best: Sequence[Exhibit], worst: Sequence[Exhibit], *, heading: str) -> bytes:
    """Draw the best maps on the left and the worst on the right, a row per map: image, mask, map.

    The mask's outline is green; that of the map cut at 0.5, which the IoU judges, is red.

    Args:
        best: first row first.
        worst: first row first; as many, or fewer.
        heading: what the sheet shows.

    Returns:
        A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = ["mask", "map"] if best[0].image is None else ["image", "mask", "map"]
    rows = max(len(best), len(worst))
    size = (2 * len(parts) * COLUMN_INCHES, rows * ROW_INCHES + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(heading, x=0.01, ha="left", fontsize=12)
    axes = figure.subplots(rows, 2 * len(parts), squeeze=False)
    for each in axes.flat:
        each.set_axis_off()
    for side, (name, exhibits) in enumerate((("best", best), ("worst", worst))):
        for row, exhibit in enumerate(exhibits):
            cells = axes[row, side * len(parts) : (side + 1) * len(parts)]
            cells[0].set_title(f"{name} {row + 1}: IoU {exhibit.iou:.2f}", loc="left", fontsize=9)
            cells[-1].set_title(_short(exhibit.title), loc="right", fontsize=7, color="0.4")
            for part, cell in zip(parts, cells, strict=True):
                _draw(cell, part, exhibit)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _draw(cell, part: str, exhibit: Exhibit) -> None:
    high, wide = exhibit.truth.shape
    extent = (0, wide, high, 0)  # all three parts in the mask's pixels, whatever their own size
    if part == "image":
        cell.imshow(exhibit.image, extent=extent)
        _outline(cell, exhibit.truth, TRUTH)
        _outline(cell, exhibit.saliency > 127, CUT)
    elif part == "mask":
        cell.imshow(exhibit.truth, cmap="gray", vmin=0, vmax=1, extent=extent)
    else:
        cell.imshow(exhibit.saliency, cmap="gray", vmin=0, vmax=255, extent=extent)
        _outline(cell, exhibit.saliency > 127, CUT)


def _outline(cell, mask: np.ndarray, color: str) -> None:
    if mask.any() and not mask.all():  # matplotlib warns of a contour that is nowhere
        high, wide = mask.shape
        cell.contour(np.arange(wide) + 0.5, np.arange(high) + 0.5, mask, levels=[0.5], colors=color, linewidths=1)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TITLE else f"…{text[1 - LONGEST_TITLE :]}"
