"""A contact sheet of images and what was made of them."""

from __future__ import annotations

import io

import numpy as np

INCHES = 1.4
PER_ROW = 2  # images side by side, each with its maps


def sheet(rgb: np.ndarray, columns: dict[str, np.ndarray], *, heading: str) -> bytes:
    """Draw images, each with its maps beside it under their names.

    Args:
        rgb: uint8 [n, side, side, 3].
        columns: name → maps, uint8 [n, side, side].
        heading: what the sheet shows.

    Returns:
        A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = 1 + len(columns)
    rows = -(-len(rgb) // PER_ROW)
    figure = Figure(figsize=(PER_ROW * width * INCHES, rows * INCHES + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
    axes = figure.subplots(rows, PER_ROW * width, squeeze=False)
    for each in axes.flat:
        each.set_axis_off()
    for number, image in enumerate(rgb):
        cells = axes[number // PER_ROW, number % PER_ROW * width :][:width]
        cells[0].imshow(image)
        for cell, maps in zip(cells[1:], columns.values(), strict=True):
            cell.imshow(maps[number], cmap="gray", vmin=0, vmax=255)
        if number < PER_ROW:
            for cell, title in zip(cells, ["image", *columns], strict=True):
                cell.set_title(title, loc="left", fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    return file.getvalue()
