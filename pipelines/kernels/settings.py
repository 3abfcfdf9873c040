"""What a device must know of each view to finish it: one line of numbers per view, made of the table's rows.

A line is float32, exact for every whole number here. It says no more than the kernels read, so that one copy of 80
bytes per view goes to the device and no type is translated there.
"""

from __future__ import annotations

import numpy as np

from pipelines.ops import blur, color
from pipelines.ops.color import JitterMode
from pipelines.views import BRIGHTNESS, CONTRAST, HUE, JITTER_ORDERS, SWAP
from saliency.store import SIDE

# Columns of a line.
OPERATION = 0  # four: which jitter operation comes at each place; NO_OPERATION where it would change nothing
STRENGTH = 4  # four: of the operations at these places
CONTRAST_PLACE = 8  # at which place contrast comes; NO_OPERATION if it is off
GRAY = 9
SIGMA = 10  # of the blur in pixels; 0: off
SOLARIZE = 11
BACKGROUND = 12  # KEEP, REMOVE or SWAP
PLATE = 13  # number of the plate
MASK_Y, MASK_X = 14, 16  # two each: where the view's first row (column) falls on the mask, and the step to the next
COLUMNS = 20

NO_OPERATION = 4
MOST_PLATES = 1 << 24
"""Numbers of plates that float32 tells apart."""


def settings_of(
    rows: np.ndarray,
    size: int,
    *,
    mode: JitterMode,
    heights: np.ndarray,
    widths: np.ndarray,
    num_plates: int,
) -> np.ndarray:
    """Turn the rows of one view of a batch into the lines that a device reads.

    Args:
        rows: `pipelines.views.ROW` [N].
        size: side of the view in pixels.
        mode: whose jitter is meant, which says what changes nothing.
        heights, widths: int [N], of the stored images.
        num_plates: plates in the bank; 0: a swap is a removal.

    Returns:
        float32 [N, COLUMNS].
    """
    lines = np.zeros((len(rows), COLUMNS), np.float32)
    orders = JITTER_ORDERS[rows["order"]]
    strengths = np.stack([rows[color.FIELDS[operation]] for operation in range(orders.shape[1])], axis=1)
    added = (BRIGHTNESS, HUE) if mode == "relicv2" else (HUE,)  # these are off at 0, factors at 1
    is_off = strengths == [float(operation not in added) for operation in range(orders.shape[1])]
    lines[:, OPERATION : OPERATION + 4] = np.where(np.take_along_axis(is_off, orders, 1), NO_OPERATION, orders)
    lines[:, STRENGTH : STRENGTH + 4] = np.take_along_axis(strengths, orders, 1)
    lines[:, CONTRAST_PLACE] = np.where(is_off[:, CONTRAST], NO_OPERATION, (orders == CONTRAST).argmax(1))
    lines[:, GRAY], lines[:, SOLARIZE] = rows["gray"], rows["solarize"]
    lines[:, SIGMA] = rows["blur_sigma"] if blur.radius(size) else 0
    lines[:, BACKGROUND] = rows["background"]
    if num_plates:
        lines[:, PLATE] = np.where(rows["background"] == SWAP, rows["plate"] % num_plates, 0)
    for column, start, extent, sides in (
        (MASK_Y, rows["top"], rows["height"], heights),
        (MASK_X, rows["left"], rows["width"], widths),
    ):
        # centre of view pixel i: start + (i + 1/2) extent / size in the image; · SIDE / side - 1/2 on the mask
        step = extent.astype(np.float64) / size * SIDE / sides
        first = (start + 0.5 * extent / size) * SIDE / sides - 0.5
        if column == MASK_X:
            first = np.where(rows["flip"], first + (size - 1) * step, first)
            step = np.where(rows["flip"], -step, step)
        lines[:, column], lines[:, column + 1] = first, step
    return lines
