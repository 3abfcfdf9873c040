"""The fast path: one decode per image into a reused buffer, then all its views in one call of the engine."""

from __future__ import annotations

import time

import numpy as np

from pipelines import decode, engine
from pipelines.config import ViewsConfig
from pipelines.engine.settings import Output, settings_of
from pipelines.loader import Render, Source
from pipelines.views import KEEP


def renderer(recipe: ViewsConfig, *, photometric: bool = True, output: Output = "uint8", quiet: bool = False) -> Render:
    """Return the function that renders one image's rows.

    Args:
        recipe, output: as `pipelines.engine.settings.settings_of`.
        photometric: False leaves all but crop, resize and flip to the device.
        quiet: say nothing while numba compiles.
    """
    settings, name = settings_of(recipe, photometric=photometric, output=output), engine.chosen()
    engine.prepare(name, quiet=quiet)

    def render(source: Source, index: int, rows: np.ndarray, outputs: list[np.ndarray], slot: int) -> dict[str, float]:
        start = time.perf_counter()
        image = decode.fused(source.beton, index)
        decoded = time.perf_counter()
        masks = source.masks
        wanted = photometric and masks is not None and (rows["background"] != KEEP).any()
        mask = masks.mask(index) if masks is not None and wanted else None
        engine.render(name, image, rows, outputs, settings, mask, source.plates, slot=slot)
        return {"decode": decoded - start, "render": time.perf_counter() - decoded}

    return render
