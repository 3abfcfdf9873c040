"""The fast path: one decode per image, then all its views in one worker thread.

torch's 8-bit resize, numba colour and OpenCV's separable blur, all of which release the GIL. Photometric operations
run on float32 in [0, 255] in place and are rounded once at the end.
"""

from __future__ import annotations

import time

import cv2
import numpy as np

from pipelines import decode
from pipelines.backends.reference import mask_and_plate
from pipelines.config import ViewsConfig
from pipelines.loader import Render, Source
from pipelines.ops import background, blur, color, geometry, solarize

_JITTER_FIELDS = ("brightness", "contrast", "saturation", "hue")


def renderer(recipe: ViewsConfig) -> Render:
    """Return the function that renders one image's rows."""
    cv2.setNumThreads(1)  # the loader's threads are the parallelism; OpenCV's own would oversubscribe the cores

    def render(source: Source, index: int, rows: np.ndarray, outputs: list[np.ndarray]) -> dict[str, float]:
        start = time.perf_counter()
        image = decode.fused(source.beton, index)
        decoded = time.perf_counter()
        for row, output in zip(rows, outputs, strict=True):
            mask, plate = mask_and_plate(source, index, row)
            render_view(image, row, output, recipe, mask, plate)
        return {"decode": decoded - start, "render": time.perf_counter() - decoded}

    return render


def render_view(
    image: np.ndarray,
    row: np.void,
    output: np.ndarray,
    recipe: ViewsConfig,
    mask: np.ndarray | None = None,
    plate: np.ndarray | None = None,
) -> None:
    """Render one view into `output` (uint8 [size, size, 3]); arguments as `reference.render_view`."""
    resized = geometry.fused(image, row, output.shape[0], recipe.interpolation)
    if mask is None and not _has_photometric(row, recipe):
        output[...] = resized
        return
    view = resized.astype(np.float32, order="C")
    if mask is not None:
        behind = np.array(recipe.background.fill, np.uint8) if plate is None else plate
        background.fused(view, row, mask, behind, image.shape[0], image.shape[1])
    color.fused(view, row, recipe.photometric.jitter)
    view = blur.fused(view, float(row["blur_sigma"]))
    if row["solarize"]:
        view = solarize.fused(view)
    np.copyto(output, np.rint(view, out=view), casting="unsafe")


def _has_photometric(row: np.void, recipe: ViewsConfig) -> bool:
    off = (0.0 if recipe.photometric.jitter == "relicv2" else 1.0, 1.0, 1.0, 0.0)
    jittered = any(row[name] != neutral for name, neutral in zip(_JITTER_FIELDS, off, strict=True))
    return jittered or row["gray"] or row["blur_sigma"] > 0 or row["solarize"]
