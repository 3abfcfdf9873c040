"""Minimum barrier saliency, MB+: Zhang et al., Minimum Barrier Salient Object Detection at 80 FPS, ICCV 2015.

A pixel stands out when every path from it to the image's border crosses a high barrier (the range of values
on the path), and when its colour is unlike the border's. The parameters are the paper's.
"""

from __future__ import annotations

import math

import cv2
import numba
import numpy as np

from saliency.priors.scene import WORKING_SIDE, Scene

PASSES = 3  # K in algorithm 1
BORDER = 0.1  # width of the border strips; 30 pixels of 300
SMOOTHING = 50.0  # alpha: the kernel of the morphological smoothing is alpha * sqrt(mean saliency) wide
CONTRAST = 10.0  # b in the final sigmoid


def of_scene(scene: Scene) -> np.ndarray:
    """Map the saliency of a prepared image: float32 [h, w] in [0, 1], at the scene's size."""
    lab = cv2.cvtColor(scene.rgb, cv2.COLOR_RGB2LAB).astype(np.float32)
    barrier = np.zeros(lab.shape[:2], np.float32)
    for channel in range(3):
        barrier += _barrier_distance(np.ascontiguousarray(lab[..., channel]), PASSES)
    saliency = _scaled(barrier) + _scaled(_border_contrast(lab))
    peak = float(saliency.max())
    if peak < 1e-6:
        return np.zeros(lab.shape[:2], np.float32)
    saliency = _smoothed(saliency / peak)
    saliency = _scaled(saliency * _centredness(*saliency.shape))
    return 1 / (1 + np.exp(-CONTRAST * (saliency - np.float32(0.5))))


@numba.njit(cache=True, nogil=True)
def _barrier_distance(values: np.ndarray, passes: int) -> np.ndarray:
    """Approximate the minimum barrier distance of every pixel to the border (algorithm 1, "FastMBD").

    Each pass visits the pixels in raster or inverse raster order and lengthens the best known path of the two
    neighbours already visited. float32 [H, W] → float32 [H, W].
    """
    height, width = values.shape
    distance = np.full((height, width), np.float32(np.inf), np.float32)
    distance[0], distance[height - 1], distance[:, 0], distance[:, width - 1] = 0, 0, 0, 0
    highest, lowest = values.copy(), values.copy()
    for turn in range(passes):
        back = -1 if turn % 2 == 0 else 1  # where the visited neighbours lie
        for i in range(1, height - 1):
            y = i if back < 0 else height - 1 - i
            for j in range(1, width - 1):
                x = j if back < 0 else width - 1 - j
                value, best = values[y, x], distance[y, x]
                for step in range(2):
                    from_y, from_x = (y + back, x) if step == 0 else (y, x + back)
                    high = max(highest[from_y, from_x], value)
                    low = min(lowest[from_y, from_x], value)
                    if high - low < best:
                        best = high - low
                        distance[y, x], highest[y, x], lowest[y, x] = best, high, low
    return distance


def _border_contrast(lab: np.ndarray) -> np.ndarray:
    """Measure how unlike the border's colours a pixel is (section 4, "backgroundness cue").

    The Mahalanobis distance to each of the four border strips, scaled to 1; the sum without the largest, so
    that one strip covered by the object does no harm. float32 [H, W, 3] → float32 [H, W].
    """
    height, width = lab.shape[:2]
    band = max(1, round(BORDER * min(height, width)))
    total = np.zeros((height, width), np.float32)
    largest = np.zeros((height, width), np.float32)
    for strip in (lab[:band], lab[-band:], lab[:, :band], lab[:, -band:]):
        colours = strip.reshape(-1, 3).astype(np.float64)
        mean = colours.mean(axis=0)
        # the unit floor (one 8-bit level) keeps a flat strip's covariance invertible
        covariance = (colours - mean).T @ (colours - mean) / len(colours) + np.eye(3)
        whiten = np.linalg.inv(np.linalg.cholesky(covariance))
        away = _scaled(_whitened_distance(lab, mean.astype(np.float32), whiten.astype(np.float32)))
        total += away
        np.maximum(largest, away, out=largest)
    return total - largest


@numba.njit(cache=True, nogil=True)
def _whitened_distance(lab: np.ndarray, mean: np.ndarray, whiten: np.ndarray) -> np.ndarray:
    """Return |whiten · (colour − mean)| per pixel; `whiten` is lower triangular."""
    height, width = lab.shape[:2]
    distance = np.empty((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            lightness, a, b = lab[y, x, 0] - mean[0], lab[y, x, 1] - mean[1], lab[y, x, 2] - mean[2]
            first = whiten[0, 0] * lightness
            second = whiten[1, 0] * lightness + whiten[1, 1] * a
            third = whiten[2, 0] * lightness + whiten[2, 1] * a + whiten[2, 2] * b
            distance[y, x] = math.sqrt(first * first + second * second + third * third)
    return distance


def _smoothed(saliency: np.ndarray) -> np.ndarray:
    """Remove spots and holes smaller than the kernel but keep edges: open, then close, by reconstruction."""
    longer = max(saliency.shape)
    side = round(SMOOTHING * math.sqrt(float(saliency.mean())) * longer / WORKING_SIDE)
    if side < 2:
        return saliency
    kernel = np.ones((side, side), np.uint8)
    opened = _grown_under(cv2.erode(saliency, kernel), saliency)
    # closing is opening upside down
    return 1 - _grown_under(1 - cv2.dilate(opened, kernel), 1 - opened)


@numba.njit(cache=True, nogil=True)
def _grown_under(seed: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """Reconstruct by dilation: let `seed` flood its neighbours up to `ceiling` until nothing changes.

    Sweeps in raster and inverse raster order (Vincent 1993). float32 [H, W] twice → float32 [H, W].
    """
    height, width = seed.shape
    grown = np.minimum(seed, ceiling)
    changed = True
    while changed:
        changed = False
        for back in (-1, 1):
            for i in range(height):
                y = i if back < 0 else height - 1 - i
                for j in range(width):
                    x = j if back < 0 else width - 1 - j
                    level = grown[y, x]
                    if 0 <= y + back < height:
                        level = max(level, grown[y + back, x])
                    if 0 <= x + back < width:
                        level = max(level, grown[y, x + back])
                    level = min(level, ceiling[y, x])
                    if level > grown[y, x]:
                        grown[y, x] = level
                        changed = True
    return grown


def _centredness(height: int, width: int) -> np.ndarray:
    """Fall linearly from 1 at the centre to 0 at the corners: float32 [H, W]."""
    y = np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2
    x = np.arange(width, dtype=np.float32)[None, :] - (width - 1) / 2
    reach = max(math.hypot((height - 1) / 2, (width - 1) / 2), 1.0)
    return (1 - np.hypot(y, x) / reach).astype(np.float32)


def _scaled(values: np.ndarray) -> np.ndarray:
    """Scale to a maximum of 1 (an array without any contrast stays 0)."""
    return values * np.float32(1 / max(float(values.max()), 1e-6))
