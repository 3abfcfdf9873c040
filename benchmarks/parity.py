"""How far a provider's pixels are from the reference's, made from the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.work import Provider, Work


def measure(work: Work, provider: Provider, indices: Sequence[int]) -> dict[str, Any] | None:
    """Compare the views of some images, in grey levels.

    Returns:
        mean_abs_error over all pixels, psnr in dB (None: equal), worst_mean_abs_error of a view, jitter of the rows,
        images compared, note; or None where the provider does not follow the rows.
    """
    from benchmarks.providers.reference import decoded_by_pillow
    from pipelines.backends.reference import render_view

    errors, squares = [], []
    for index in indices:
        views = provider.views(index)
        if views is None:
            return None
        image = decoded_by_pillow(work.jpegs[index])
        for row, size, view in zip(work.rows[index], work.sizes, views, strict=True):
            difference = np.asarray(view, np.float64) - render_view(image, row, size, work.recipe).numpy()
            errors.append((float(np.abs(difference).mean()), size * size))
            squares.append((float(np.square(difference).mean()), size * size))
    square = _mean(squares)
    return {
        "mean_abs_error": _mean(errors),
        "psnr": 10 * math.log10(255**2 / square) if square > 0 else None,
        "worst_mean_abs_error": max(error for error, _ in errors),
        "jitter": work.recipe.photometric.jitter,
        "images": len(indices),
        "note": provider.note,
    }


def _mean(weighted: list[tuple[float, int]]) -> float:
    return sum(value * weight for value, weight in weighted) / sum(weight for _, weight in weighted)
