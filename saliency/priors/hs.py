"""Hierarchical saliency: Yan et al., Hierarchical Saliency Detection, CVPR 2013.

An image is seen in three layers, from fine to coarse. In each a region stands out by its contrast to large and
near regions, and near the centre. A tree over the layers reconciles the three: fine texture inside a coarse
object, or in a coarse background, is outvoted by the layers above. Constants are the paper's; the weights of the
energy (CONFIDENCE, CONSISTENCY) stand here from memory, and nobody has held them against its text. Colours are CIE Lab,
which the other priors share (the paper merges regions by CIE Luv: no better on 80 photographs).
"""

from __future__ import annotations

import cv2
import numba
import numpy as np

from saliency.priors.regions import Regions, basins, merged, summed
from saliency.priors.scene import Scene, stretched

SCALES = (3, 17, 33)  # pixels, the smallest region of each layer of an image of TYPICAL_SIDE
TYPICAL_SIDE = 400
SMOOTHING = 2.0  # pixels, Gaussian before the gradient; the paper leaves its watershed open
NEARNESS = 0.2**2  # times a layer's scale: sigma² of phi in equation 2, of an image 1 high and 1 wide
CENTREDNESS = 9.0  # lambda in equation 3
CONFIDENCE = (0.5, 4.0, 2.0)  # beta of each layer, equation 6
CONSISTENCY = 4.0  # lambda between layers, equation 7


def of_scene(scene: Scene) -> np.ndarray:
    """Map the saliency of a prepared image: float32 [h, w] in [0, 1], at the scene's working size."""
    regions = basins(cv2.GaussianBlur(scene.rgb, (0, 0), SMOOTHING), scene.lab)
    finest = regions.labels
    places = summed(_places(*finest.shape), finest, len(regions.sizes))
    cues: list[np.ndarray] = []
    parents: list[np.ndarray] = []
    for scale in SCALES:
        regions, parent = merged(regions, max(1, round(scale * max(finest.shape) / TYPICAL_SIDE)))
        places = np.stack([np.bincount(parent, column, len(regions.sizes)) for column in places.T], axis=1)
        cues.append(cue(regions, places / regions.sizes[:, None], scale))
        parents.append(parent)
    saliency = stretched(inferred(cues, parents[1:]))
    return saliency[parents[0]][finest].astype(np.float32)


def cue(regions: Regions, places: np.ndarray, scale: int) -> np.ndarray:
    """Return how much every region of a layer stands out by itself: local contrast × location, equation 4.

    Args:
        regions: the layer.
        places: float64 [N, 3], each region's mean y and x in an image 1 high and 1 wide, and mean location
            heuristic (equation 3).
        scale: the layer's smallest region, one of SCALES.

    Returns:
        float64 [N] in [0, 1].
    """
    points = np.concatenate([regions.colours.T, places[:, :2].T]).astype(np.float32, order="C")
    weights = (regions.sizes / regions.sizes.sum()).astype(np.float32)
    contrast = _local_contrast(points, weights, NEARNESS * scale)
    return stretched(contrast.astype(np.float64)) * places[:, 2]


def inferred(cues: list[np.ndarray], parents: list[np.ndarray]) -> np.ndarray:
    """Reconcile the layers: minimise the energy of equation 5 and return the finest layer's saliency.

    The energy is quadratic and its graph a tree, so one sweep up and one down are exact belief propagation: going
    up, each region hands its parent a parabola (a mean and a weight); going down, each takes its parent's value.

    Args:
        cues: float64 [N_l] per layer, finest first.
        parents: int [N_l] per layer but the last, each region's region in the next layer.

    Returns:
        float64 [N_0].
    """
    means, weights = [cues[0]], [np.full(len(cues[0]), CONFIDENCE[0])]
    for layer, parent in enumerate(parents, start=1):
        number = len(cues[layer])
        told = weights[-1] * CONSISTENCY / (weights[-1] + CONSISTENCY)  # two springs in a row
        weight = CONFIDENCE[layer] + np.bincount(parent, told, number)
        pull = CONFIDENCE[layer] * cues[layer] + np.bincount(parent, told * means[-1], number)
        means.append(pull / weight)
        weights.append(weight)
    saliency = means[-1]
    for mean, weight, parent in zip(means[-2::-1], weights[-2::-1], parents[::-1], strict=True):
        saliency = (weight * mean + CONSISTENCY * saliency[parent]) / (weight + CONSISTENCY)
    return saliency


def _places(height: int, width: int) -> np.ndarray:
    """Return y, x (0 … 1) and the location heuristic of every pixel: float32 [H, W, 3]."""
    y, x = np.broadcast_arrays(
        (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height,
        (np.arange(width, dtype=np.float32)[None, :] + 0.5) / width,
    )
    return np.stack([y, x, np.exp(-CENTREDNESS * ((y - 0.5) ** 2 + (x - 0.5) ** 2))], axis=2)


@numba.njit(cache=True, nogil=True)
def _local_contrast(points: np.ndarray, weights: np.ndarray, sigma_squared: float) -> np.ndarray:
    """Sum every region's colour distance to all others, weighted by their size and nearness (equation 2).

    Args:
        points: float32 [5, N], three colours, y and x.
        weights: float32 [N], w(R_j).
        sigma_squared: of the nearness exp(−D / sigma²).

    Returns:
        float32 [N].
    """
    lights, reds, blues, ys, xs = points[0], points[1], points[2], points[3], points[4]
    contrast = np.zeros(len(weights), np.float32)
    nearer = np.float32(-1 / 16) / np.float32(sigma_squared)
    one, half, third, quarter = np.float32(1), np.float32(1 / 2), np.float32(1 / 3), np.float32(1 / 4)
    for other in range(len(weights)):
        light, red, blue, other_y, other_x = lights[other], reds[other], blues[other], ys[other], xs[other]
        weight = weights[other]
        for region in range(len(weights)):
            far = (ys[region] - other_y) ** 2 + (xs[region] - other_x) ** 2
            # exp as the 16th power of its series, all in float32: LLVM makes vector code of it
            part = far * nearer
            near = one + part * (one + half * part * (one + third * part * (one + quarter * part)))
            near *= near
            near *= near
            near *= near
            near *= near
            colour = (lights[region] - light) ** 2 + (reds[region] - red) ** 2 + (blues[region] - blue) ** 2
            contrast[region] += weight * near * np.sqrt(colour)
    return contrast
