"""A fully connected CRF over an image: pixels of one colour, and pixels side by side, get one label.

Krähenbühl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NIPS 2011, with two
labels. Its mean field needs one Gaussian filter over (y, x, colour) per step, which runs on a bilateral grid (Chen,
Paris, Durand, SIGGRAPH 2007) rather than a permutohedral lattice: for maps of 160 pixels the grid fits the caches.

One unary term is added: how much better the colours of the object explain a pixel than those of the background do,
both measured in this image by the present labels (the data term of GrabCut, Rother et al., SIGGRAPH 2004).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numba
import numpy as np

CLIPPED = 0.03  # a map's 0 and 1 are no certainty: logits of ±3.5
RATIO = 4.0  # most that colour alone says, as a logit


@dataclass(frozen=True, kw_only=True)
class CrfConfig:
    """Widths and weights of the terms; a weight is a logit."""

    steps: int = 2
    """Of the mean field."""
    smooth_pixels: float = 2.0
    """σ of the Gaussian over (y, x)."""
    smooth_weight: float = 2.0
    """Of pixels side by side having one label."""
    bilateral_side: float = 0.25
    """σ over (y, x) of the bilateral term, times the image's sides (80 pixels of 320 in DeepUSPS' code)."""
    bilateral_colour: float = 20.0
    """σ over colour of the bilateral term, grey levels (a and b of Lab count 1.5 times)."""
    bilateral_weight: float = 2.0
    """Of near pixels of one colour having one label."""
    model_colour: float = 10.0
    """Width of a cell of the colour models, grey levels."""
    model_weight: float = 0.5
    """Of the colour models; 0 leaves a common CRF."""


class Grid(NamedTuple):
    """A grid of unit cells over features, and where each of N points lies in it."""

    shape: tuple[int, ...]
    cells: np.ndarray
    """int32 [N, 2**D]: the cells around each point."""
    weights: np.ndarray
    """float32 [N, 2**D]: how near each of them is; they add up to 1."""


def smoothed(rgb: np.ndarray, probability: np.ndarray, config: CrfConfig | None = None) -> np.ndarray:
    """Run the mean field from a map.

    Args:
        rgb: uint8 [h, w, 3].
        probability: float32 [h, w] in [0, 1], that a pixel is salient.
        config: default: `CrfConfig()`.

    Returns:
        float32 [h, w] in [0, 1].
    """
    config = CrfConfig() if config is None else config
    height, width = probability.shape
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32) * np.array([1, 1.5, 1.5], np.float32)
    colours = grid_of(lab.reshape(-1, 3) / config.model_colour) if config.model_weight else None
    both = _bilateral_grid(lab, config) if config.bilateral_weight else None
    ones = np.ones((height * width, 1), np.float32)
    mass = None if both is None else filtered(both, ones)

    sure = probability.clip(CLIPPED, 1 - CLIPPED)
    unary = np.log(sure / (1 - sure))
    label = probability.astype(np.float32)
    for _ in range(config.steps):
        logit = unary.copy()
        if colours is not None:
            logit += config.model_weight * _ratio(colours, label)
        if both is not None:
            agreement = filtered(both, label.reshape(-1, 1)) / mass
            logit += config.bilateral_weight * (2 * agreement.reshape(height, width) - 1)
        if config.smooth_weight:
            logit += config.smooth_weight * (2 * cv2.GaussianBlur(label, (0, 0), config.smooth_pixels) - 1)
        label = 1 / (1 + np.exp(-logit))
    return label


def _bilateral_grid(lab: np.ndarray, config: CrfConfig) -> Grid:
    height, width = lab.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    place = np.stack([y / height, x / width], axis=-1) / config.bilateral_side
    return grid_of(np.concatenate([place, lab / config.bilateral_colour], axis=-1).reshape(height * width, 5))


def _ratio(colours: Grid, label: np.ndarray) -> np.ndarray:
    """Return log p(colour | object) − log p(colour | background), float32 [h, w]."""
    split = np.stack([label.ravel(), 1 - label.ravel()], axis=1)
    density = filtered(colours, split) / np.maximum(split.sum(axis=0), 1e-6) + np.float32(1e-7)
    return np.log(density[:, 0] / density[:, 1]).clip(-RATIO, RATIO).reshape(label.shape)


def grid_of(features: np.ndarray) -> Grid:
    """Lay a grid over points, float32 [N, D]."""
    features = features - features.min(axis=0)
    shape = tuple(int(cells) for cells in np.floor(features.max(axis=0)).astype(np.int64) + 2)
    strides = np.array([np.prod(shape[axis + 1 :]) for axis in range(len(shape))], np.int32)
    return Grid(shape, *_corners(features, strides))


def filtered(grid: Grid, values: np.ndarray) -> np.ndarray:
    """Blur values of points, float32 [N, K], with a Gaussian of about one cell."""
    cells = _splat(grid.cells, grid.weights, values, int(np.prod(grid.shape)))
    for axis, length in enumerate(grid.shape):
        before = int(np.prod(grid.shape[:axis]))
        cells = _blurred(cells.reshape(before, length, -1)).reshape(cells.shape)
    return _slice(grid.cells, grid.weights, cells)


@numba.njit(cache=True, nogil=True)
def _corners(features: np.ndarray, strides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells around each point, int32 [N, 2**D], and their multilinear weights, float32 [N, 2**D]."""
    points, dimensions = features.shape
    cells = np.empty((points, 1 << dimensions), np.int32)
    weights = np.empty((points, 1 << dimensions), np.float32)
    for point in range(points):
        cells[point, 0], weights[point, 0] = 0, 1
        for axis in range(dimensions):
            # double the corners: those so far at this cell of the axis, and again at the next
            base = np.int32(features[point, axis])  # at least 0: the floor
            inside = features[point, axis] - np.float32(base)
            for corner in range(1 << axis):
                cell, weight = cells[point, corner] + base * strides[axis], weights[point, corner]
                cells[point, corner], weights[point, corner] = cell, weight * (1 - inside)
                further = corner + (1 << axis)
                cells[point, further], weights[point, further] = cell + strides[axis], weight * inside
    return cells, weights


@numba.njit(cache=True, nogil=True)
def _splat(cells: np.ndarray, weights: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Add each point's values to the cells around it: float32 [count, K]."""
    total = np.zeros((count, values.shape[1]), np.float32)
    for point in range(cells.shape[0]):
        for corner in range(cells.shape[1]):
            for channel in range(values.shape[1]):
                total[cells[point, corner], channel] += weights[point, corner] * values[point, channel]
    return total


@numba.njit(cache=True, nogil=True)
def _slice(cells: np.ndarray, weights: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Read the cells around each point: float32 [N, K]."""
    values = np.zeros((cells.shape[0], total.shape[1]), np.float32)
    for point in range(cells.shape[0]):
        for corner in range(cells.shape[1]):
            for channel in range(total.shape[1]):
                values[point, channel] += weights[point, corner] * total[cells[point, corner], channel]
    return values


@numba.njit(cache=True, nogil=True)
def _blurred(values: np.ndarray) -> np.ndarray:
    """Weigh neighbours along the middle axis by ¼ ½ ¼ (zeros outside): float32 [A, B, C]."""
    out = values * np.float32(0.5)
    for before in range(values.shape[0]):
        for at in range(values.shape[1] - 1):
            for after in range(values.shape[2]):
                out[before, at, after] += np.float32(0.25) * values[before, at + 1, after]
                out[before, at + 1, after] += np.float32(0.25) * values[before, at, after]
    return out
