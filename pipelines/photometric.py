"""The photometric half of the views in plain torch, a batch at a time, on whatever device the batch is on.

With `photometric="device"` the fused engine stops after crop, resize, flip and background, and this does the rest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pipelines.config import ViewsConfig
from pipelines.contract import Batch
from pipelines.ops import blur, color, solarize
from pipelines.views import BRIGHTNESS, JITTER_ORDERS


def finish(batch: Batch, rows: np.ndarray, recipe: ViewsConfig) -> Batch:
    """Apply jitter, grayscale, blur and solarize to all views of a batch.

    Args:
        batch: uint8 views that hold geometry and background only.
        rows: `pipelines.views.ROW` [N, views], from which they were made.
        recipe: whose jitter is meant.
    """
    mode = recipe.photometric.jitter
    views = [render(view, rows[:, number], mode) for number, view in enumerate((*batch.large, *batch.small))]
    return replace(batch, large=views[: recipe.large.count], small=views[recipe.large.count :])


def render(view: torch.Tensor, rows: np.ndarray, mode: color.JitterMode) -> torch.Tensor:
    """Apply the photometric operations of `rows` [N] to uint8 [N, S, S, 3]; float32 arithmetic, rounded to uint8."""
    if len(view) == 0:
        return view
    planes = view.permute(0, 3, 1, 2).to(torch.float32) / 255
    _jitter(planes, rows, mode)
    _replace(planes, rows["gray"], color.reference_grayscale)
    blurred = (rows["blur_sigma"] > 0) & (blur.radius(view.shape[1]) > 0)
    sigmas = torch.from_numpy(rows["blur_sigma"][blurred].astype(np.float64)).to(view.device)
    _replace(planes, blurred, lambda chosen: blur.batched(chosen, sigmas))
    _replace(planes, rows["solarize"], solarize.reference)
    return (planes * 255).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _jitter(planes: torch.Tensor, rows: np.ndarray, mode: color.JitterMode) -> None:
    orders = JITTER_ORDERS[rows["order"]]
    for place in range(orders.shape[1]):
        for operation, field in color.FIELDS.items():
            off = 0.0 if field == "hue" or (operation == BRIGHTNESS and mode == "relicv2") else 1.0
            chosen = (orders[:, place] == operation) & (rows[field] != off)
            strength = torch.from_numpy(rows[field][chosen]).to(planes.device).view(-1, 1, 1, 1)
            _replace(planes, chosen, lambda part, op=operation, by=strength: color.jitter(part, op, by, mode))


def _replace(planes: torch.Tensor, chosen: np.ndarray, operation) -> None:
    """Replace the chosen views of the batch by what the operation makes of them."""
    if chosen.any():
        places = torch.from_numpy(np.flatnonzero(chosen)).to(planes.device)
        planes[places] = operation(planes[places])
