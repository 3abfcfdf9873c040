"""The truth: Pillow decodes, torch renders in float32, one operation after the other. Slow on purpose."""

from __future__ import annotations

import time

import numpy as np
import torch

from pipelines import decode
from pipelines.config import ViewsConfig
from pipelines.loader import Render, Source
from pipelines.ops import background, blur, color, geometry, solarize
from pipelines.views import KEEP, REMOVE


def renderer(recipe: ViewsConfig) -> Render:
    """Return the function that renders one image's rows."""

    def render(source: Source, index: int, rows: np.ndarray, outputs: list[np.ndarray], slot: int) -> dict[str, float]:
        start = time.perf_counter()
        image = torch.from_numpy(decode.reference(source.beton, index))
        decoded = time.perf_counter()
        for row, output in zip(rows, outputs, strict=True):
            mask, plate = mask_and_plate(source, index, row)
            output[slot] = render_view(image, row, output.shape[1], recipe, mask, plate).numpy()
        return {"decode": decoded - start, "render": time.perf_counter() - decoded}

    return render


def mask_and_plate(source: Source, index: int, row: np.void) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return what the row's background needs: bool mask [128, 128] and uint8 plate [h, w, 3], or None."""
    if row["background"] == KEEP or source.masks is None:
        return None, None
    if row["background"] == REMOVE or source.plates is None:
        return source.masks.mask(index), None
    return source.masks.mask(index), source.plates[int(row["plate"]) % len(source.plates)]


def render_view(
    image: torch.Tensor,
    row: np.void,
    size: int,
    recipe: ViewsConfig,
    mask: np.ndarray | None = None,
    plate: np.ndarray | None = None,
) -> torch.Tensor:
    """Render one view as the design defines it.

    Args:
        image: uint8 [H, W, 3].
        row: one `pipelines.views.ROW`.
        size: side of the view.
        recipe: interpolation, jitter mode and fill.
        mask: bool [h, w] over the whole image, needed where row["background"] is not KEEP.
        plate: uint8 [h, w, 3], needed for swaps.

    Returns:
        uint8 [size, size, 3].
    """
    view = geometry.reference(image, row, size, recipe.interpolation).permute(2, 0, 1).to(torch.float32) / 255
    if mask is not None:
        cover = background.reference_cover(torch.from_numpy(mask), row, size, image.shape[0], image.shape[1])
        if plate is None:
            behind = torch.tensor(recipe.background.fill, dtype=torch.float32).view(3, 1, 1) / 255
        else:
            behind = background.reference_plate(torch.tensor(plate), size)  # a copy: plates are read-only pages
        view = background.reference(view, cover, behind)
    view = color.reference_jitter(view, row, recipe.photometric.jitter)
    if row["gray"]:
        view = color.reference_grayscale(view)
    view = blur.reference(view, float(row["blur_sigma"]))
    if row["solarize"]:
        view = solarize.reference(view)
    return (view * 255).clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0)
