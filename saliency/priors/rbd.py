"""Robust background detection: Zhu et al., Saliency Optimization from Robust Background Detection, CVPR 2014.

A region is background when much of its boundary, for its size, lies on the image's border: so an object that
touches the border stays an object. Contrast to such a background makes a first map, which is then smoothed by
least squares. Equations and parameters are the paper's.
"""

from __future__ import annotations

import numba
import numpy as np

from saliency.priors.scene import FLAT, Scene, stretched
from saliency.priors.superpixels import Superpixels, distances, within_two_steps

COLOUR_SIGMA = 10.0  # sigma_clr, Lab: of geodesic distances and of smoothness
BOUNDARY_SIGMA = 1.0  # sigma_bndCon
SPATIAL_SIGMA = 0.25  # sigma_spa, in an image 1 high and 1 wide
LEAST_SMOOTHNESS = 0.1  # mu: neighbours of any colours pull a little, which takes small noise away


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
    connectivity = boundary_connectivity(pixels.adjacency, border, colour)
    background = 1 - _gaussian(connectivity, BOUNDARY_SIGMA)
    contrast = weighted_contrast(colour, distances(pixels.centres), background)
    return stretched(optimised(pixels.adjacency, border, colour, background, contrast))


def boundary_connectivity(adjacency: np.ndarray, border: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Measure how much of each superpixel's region lies on the image's border, for the region's size.

    Length along the border over the root of the area, both soft: every superpixel counts by its geodesic distance
    in colour.

    Args:
        adjacency: bool [N, N].
        border: bool [N], which superpixels touch the image's border.
        colour: float64 [N, N], distances in Lab.

    Returns:
        float64 [N]; about 0 for an object amid the image, 1 and more for background.
    """
    linked = adjacency | np.outer(border, border)  # a background that the object cuts in two is one
    cost = np.where(linked, colour, np.inf)
    np.fill_diagonal(cost, 0)
    affinity = _gaussian(_shortest_paths(cost), COLOUR_SIGMA)
    return affinity[:, border].sum(axis=1) / np.sqrt(affinity.sum(axis=1))


def weighted_contrast(colour: np.ndarray, apart: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Sum each superpixel's colour distances to near background.

    Args:
        colour: float64 [N, N], distances in Lab.
        apart: float64 [N, N], distances of the centres in an image 1 high and 1 wide.
        background: float64 [N], probability of being background.

    Returns:
        float64 [N], scaled to 0 … 1 as the background's probability is, which it is weighed against.
    """
    return stretched((colour * _gaussian(apart, SPATIAL_SIGMA)) @ background)


def optimised(
    adjacency: np.ndarray, border: np.ndarray, colour: np.ndarray, background: np.ndarray, foreground: np.ndarray
) -> np.ndarray:
    """Minimise Σ background · s² + Σ foreground · (s − 1)² + Σ smoothness · (s_i − s_j)², equation 9.

    The paper does not say how far smoothness reaches. As in its authors' code: to neighbours, their neighbours and
    between all of the border; the least smoothness to neighbours only.

    Args:
        adjacency: bool [N, N].
        border: bool [N], which superpixels touch the image's border.
        colour: float64 [N, N], distances in Lab.
        background: float64 [N], weights that pull to 0.
        foreground: float64 [N], weights that pull to 1.

    Returns:
        s, float64 [N] in [0, 1].
    """
    reached = within_two_steps(adjacency) | np.outer(border, border)
    smoothness = np.where(reached, _gaussian(colour, COLOUR_SIGMA), 0) + LEAST_SMOOTHNESS * adjacency
    np.fill_diagonal(smoothness, 0)
    system = np.diag(smoothness.sum(axis=1) + background + foreground) - smoothness
    return np.linalg.solve(system, foreground)


def _gaussian(distance: np.ndarray, sigma: float) -> np.ndarray:
    return np.exp(-(distance**2) / (2 * sigma**2))


@numba.njit(cache=True, nogil=True)
def _shortest_paths(cost: np.ndarray) -> np.ndarray:
    """Return the cheapest way between all pairs (Floyd and Warshall): float64 [N, N], inf where there is no edge."""
    best = cost.copy()
    for via in range(len(best)):
        onward = best[via].copy()  # no view: LLVM sees that it never overlaps `row`, and makes vector code
        for start in range(len(best)):
            first, row = best[start, via], best[start]
            for end in range(len(row)):
                way = first + onward[end]
                row[end] = way if way < row[end] else row[end]
    return best
