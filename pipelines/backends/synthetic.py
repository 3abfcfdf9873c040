"""Views that cost nothing: random pixels made once. The ceiling that any loader could reach (headspace analysis)."""

from __future__ import annotations

import numpy as np

from pipelines.config import ViewsConfig
from pipelines.loader import Render, Source

_NOISE_PIXELS = 1 << 20


def renderer(recipe: ViewsConfig) -> Render:
    """Return a function that copies noise, a different window of it per index, without decoding anything."""
    largest = max(recipe.large.size, recipe.small.size) ** 2 * 3
    noise = np.random.default_rng(0).integers(0, 256, _NOISE_PIXELS + largest, np.uint8)

    def render(source: Source, index: int, rows: np.ndarray, outputs: list[np.ndarray], slot: int) -> dict[str, float]:
        for view, output in enumerate(outputs):
            start = (index * 7919 + view * 104729) % _NOISE_PIXELS
            view_of = output[slot]
            view_of[...] = noise[start : start + view_of.size].reshape(view_of.shape)
        return {}

    return render
