"""Read a row of the table as the peers' functions want their arguments (torchvision's jitter)."""

from __future__ import annotations

import numpy as np

from pipelines.ops.color import FIELDS
from pipelines.views import HUE, JITTER_ORDERS


def box(row: np.void) -> tuple[int, int, int, int]:
    """Return top, left, height, width."""
    return int(row["top"]), int(row["left"]), int(row["height"]), int(row["width"])


def jitter_steps(row: np.void) -> list[tuple[int, float]]:
    """Return (operation, strength) in the row's order, without those that change nothing."""
    steps = [(int(operation), float(row[FIELDS[int(operation)]])) for operation in JITTER_ORDERS[row["order"]]]
    return [(operation, strength) for operation, strength in steps if strength != (0.0 if operation == HUE else 1.0)]
