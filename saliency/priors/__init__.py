"""Saliency priors: image uint8 [H, W, 3] → saliency float32 [H, W] in [0, 1], with no labels and no learning.

A new prior is one module here and one line in PRIORS.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

import numpy as np

from saliency.priors.mbd import minimum_barrier

Prior = Callable[[np.ndarray], np.ndarray]

PRIORS: dict[str, Prior] = {
    "mbd": minimum_barrier,
}


def find_prior(name: str) -> Prior:
    """Return the prior of that name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    if name not in PRIORS:
        nearest = difflib.get_close_matches(name, PRIORS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown saliency prior {name!r}: did you mean {nearest!r}? (known: {', '.join(PRIORS)})")
    return PRIORS[name]
