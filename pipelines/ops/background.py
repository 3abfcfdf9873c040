"""Background removal and swap: blend a fill or a plate in where the saliency mask is 0.

Mask and plate are sampled bilinearly with pixel centres at half-integers and edges held. The mask spans the stored
image, so a view's pixel (x, y) reads it at the place of its crop box; it is flipped with the view. The plate spans the
view and is not flipped.
"""

from __future__ import annotations

import numpy as np
import torch


def reference(view: torch.Tensor, cover: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Return cover * view + (1 - cover) * background.

    Args:
        view: float32 [3, H, W] in [0, 1].
        cover: float32 [H, W] in [0, 1], 1 = salient.
        background: float32 [3, H, W] or [3, 1, 1] in [0, 1].
    """
    return background + cover * (view - background)


def reference_cover(mask: torch.Tensor, row: np.void, size: int, image_height: int, image_width: int) -> torch.Tensor:
    """Sample a bool mask [h, w] that spans the image at the pixels of the row's view; float32 [size, size]."""
    high, wide = mask.shape
    y = _sample_positions(row["top"], row["height"], size, image_height, high)
    x = _sample_positions(row["left"], row["width"], size, image_width, wide)
    cover = bilinear(mask.to(torch.float32)[None], y, x)[0]
    return cover.flip(1) if row["flip"] else cover


def reference_plate(plate: torch.Tensor, size: int) -> torch.Tensor:
    """Stretch a uint8 plate [h, w, 3] over the view; float32 [3, size, size] in [0, 1]."""
    high, wide, _ = plate.shape
    y, x = (_sample_positions(0, side, size, side, side).to(plate.device) for side in (high, wide))
    return bilinear(plate.permute(2, 0, 1).to(torch.float32) / 255, y, x)


def _sample_positions(start: int, extent: int, size: int, image_side: int, grid_side: int) -> torch.Tensor:
    """Return where the view's pixel centres fall on the grid, held inside its outermost centres; float64 [size]."""
    centers = int(start) + (torch.arange(size, dtype=torch.float64) + 0.5) * int(extent) / size
    return (centers * grid_side / image_side - 0.5).clamp(0, grid_side - 1)


def bilinear(grid: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Interpolate float32 [C, h, w] at the outer product of positions; float32 [C, len(y), len(x)]."""
    for dimension, position in ((1, y), (2, x)):
        low = position.floor().to(torch.int64)
        high = (low + 1).clamp(max=grid.shape[dimension] - 1)
        weight = (position - low).to(torch.float32)
        weight = weight[:, None] if dimension == 1 else weight
        grid = grid.index_select(dimension, low) * (1 - weight) + grid.index_select(dimension, high) * weight
    return grid
