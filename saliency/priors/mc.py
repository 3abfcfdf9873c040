"""Absorbing Markov chain: Jiang et al., Saliency Detection via Absorbing Markov Chain, ICCV 2013.

A random walk over superpixels prefers steps between like colours and is absorbed at the image's border. The
longer it lives, the more salient is where it began. Equations and parameters are the paper's; what the paper
leaves open is as in the authors' own code.
"""

from __future__ import annotations

import numpy as np

from saliency.priors.scene import FLAT, Scene, stretched
from saliency.priors.superpixels import Superpixels, distances, within_two_steps

SIGMA_SQUARED = 0.1  # of colour distances scaled to 0 … 1 over the graph's edges (their code)
WEIGHT_FLOOR = 1e-5  # keeps the walk from being locked in (their code)
LEVELS = 10  # of the quantised map
SMOOTH = 2.0  # the score from which large smooth regions amid the image are supposed


def of_scene(scene: Scene) -> np.ndarray:
    """Map the saliency of a prepared image: float32 [h, w] in [0, 1], at the scene's working size."""
    pixels = scene.superpixels
    return of_superpixels(pixels)[pixels.labels].astype(np.float32)


def of_superpixels(pixels: Superpixels) -> np.ndarray:
    """Return the saliency of every superpixel, float64 [N] in [0, 1], scaled to its full range."""
    colour = distances(pixels.lab)
    if colour.max() < FLAT:
        return np.zeros(len(colour))
    border = pixels.border
    weights = affinity(pixels.adjacency, border, colour)
    # every superpixel of the border has a twin that absorbs, with the same edges as its own
    leaving = weights.sum(axis=1) + weights[:, border].sum(axis=1)
    chain = np.eye(len(weights)) - weights / leaving[:, None]  # I − Q; its inverse is the fundamental matrix
    time = stretched(np.linalg.solve(chain, np.ones(len(weights))))
    if smooth_region_score(time) < SMOOTH:
        return time
    # where walks are long in smooth background, a visit counts by the inverse of how often it would come
    # anyway: of the equilibrium distribution, which is proportional to the sum of a node's weights
    rarity = 1 / weights.sum(axis=1)
    return stretched(np.linalg.solve(chain, rarity / rarity.sum()))


def affinity(adjacency: np.ndarray, border: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Weigh the edges of the graph.

    A superpixel is joined with itself, its neighbours and their neighbours; those of the border with each other.

    Args:
        adjacency: bool [N, N].
        border: bool [N], which superpixels touch the image's border.
        colour: float64 [N, N], distances in Lab.

    Returns:
        float64 [N, N], symmetric: 1 on the diagonal, 0 without an edge.
    """
    joined = within_two_steps(adjacency) | np.outer(border, border)
    np.fill_diagonal(joined, False)
    weights = np.zeros_like(colour)
    weights[joined] = np.exp(-stretched(colour[joined]) / SIGMA_SQUARED) + WEIGHT_FLOOR
    np.fill_diagonal(weights, 1)
    return weights


def smooth_region_score(saliency: np.ndarray) -> float:
    """Measure how much of a map is neither dark nor bright: float64 [N] in [0, 1] → 1 … 5."""
    level = np.minimum((saliency * LEVELS).astype(np.int64), LEVELS - 1) + 1
    return float(np.minimum(level, LEVELS + 1 - level).mean())
