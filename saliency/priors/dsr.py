"""Dense and sparse reconstruction: Li et al., Saliency Detection via Dense and Sparse Reconstruction, ICCV 2013.

What the superpixels at the image's border cannot explain, as a plane through them (dense) or as a sum of few of
them (sparse), is salient. Both errors spread among superpixels that look alike, are averaged over coarse and fine
superpixels, drawn towards the object's centre, and each map then serves the other as evidence (Bayes).

Equations are the paper's; where the authors' own code differs, the code is followed: it made the published maps.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from saliency.priors.lasso import lasso_errors
from saliency.priors.scene import FLAT, Scene, stretched
from saliency.priors.superpixels import COMPACTNESS, Superpixels

COARSER = (0.6, 0.4, 0.2)
"""Superpixels of the other scales, which are superpixels of superpixels: 150, 100 and 50 of 250.

The paper segments the image eight times, into 50, 100 … 400. These four cost one segmentation, which other priors
share: mean max F .785 and IoU .465 on 80 photographs, against .777 and .472 for the eight at 110 ms.
"""
VARIANCE = 0.95  # of the border's features that the plane holds, and one direction more (their code)
PENALTY = 0.02  # of the lasso: lambda = 0.01 of half the squared error (their code), section 3.1.2
CLUSTERS = 8  # K, section 3.2
PROPAGATION = 0.5  # tau, equation 4
OBJECT_SIGMA = 0.25  # of the image's height and width, equation 8
BINS = 60  # of the likelihoods of equations 10 and 11 (their code)
ITERATIONS = 100  # K-means at most


def of_scene(scene: Scene) -> np.ndarray:
    """Map the saliency of a prepared image: float32 [h, w] in [0, 1], at the scene's working size."""
    dense, sparse = error_maps(scene)
    return stretched(_posterior(dense, sparse) + _posterior(sparse, dense))  # equation 12


def error_maps(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return the dense and the sparse map, float32 [h, w] in [0, 1], drawn towards the object (equations 1 to 9)."""
    lowest, highest = _extremes(scene.lab)
    reach = highest - lowest
    if reach.max() < FLAT:
        nothing = np.zeros(scene.lab.shape[:2], np.float32)
        return nothing, nothing
    scale = np.where(reach < FLAT, 0, 1 / np.maximum(reach, FLAT)).astype(np.float32)
    pixels = scene.superpixels
    finest = np.concatenate([(pixels.lab - lowest) * scale, pixels.rgb, pixels.centres], axis=1)
    features: list[np.ndarray] = [finest]
    errors: list[np.ndarray] = [propagated_errors(finest, pixels.border)]
    for share in COARSER:
        group = _grouped(pixels, max(1, round(share * len(pixels.sizes))))
        sizes = np.bincount(group, pixels.sizes)
        means = np.stack([np.bincount(group, pixels.sizes * column) / sizes for column in finest.T], axis=1)
        features.append(means[group])
        errors.append(propagated_errors(means, np.bincount(group, pixels.border) > 0)[group])
    dense, sparse = _pixel_errors(
        scene.lab,
        scene.rgb,
        pixels.labels,
        lowest,
        scale,
        np.stack(features, axis=1).astype(np.float32),
        np.stack(errors, axis=1).astype(np.float32),
    )
    return _object_biased(stretched(dense)), _object_biased(stretched(sparse))


def propagated_errors(features: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Return both reconstruction errors of every superpixel, spread among those that look alike.

    Args:
        features: float64 [N, 8], mean Lab, RGB, y and x, each in 0 … 1.
        border: bool [N], which superpixels touch the image's border.

    Returns:
        float64 [N, 2], dense and sparse, each in [0, 1].
    """
    seeds = features[(2 * np.arange(CLUSTERS) + 1) * len(features) // (2 * CLUSTERS)]
    cluster = _clustered(features, seeds, np.ones(len(features), np.int64))
    variance = max(float(features.var(axis=0).mean()), 1e-12)
    spread = []
    for measure in (dense_error, sparse_error):
        error = stretched(measure(features, features[border]))
        spread.append(_propagated(error, np.argsort(-error, kind="stable"), features, cluster, variance))
    return np.stack([stretched(error) for error in spread], axis=1)


def dense_error(features: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Return how far each superpixel is from the principal directions of the border, equations 1 and 2.

    float64 [N, 8] and [M, 8] → float64 [N], not squared (their code).
    """
    away = templates - templates.mean(axis=0)
    variances, directions = np.linalg.eigh(away.T @ away)  # ascending
    held = np.cumsum(variances[::-1])
    number = int(np.searchsorted(held, VARIANCE * held[-1])) + 2
    plane = directions[:, ::-1][:, :number]
    offset = features - features.mean(axis=0)
    return np.linalg.norm(offset - offset @ plane @ plane.T, axis=1)


def sparse_error(features: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Return the squared error of each superpixel as a sparse sum of the border's, equation 3.

    Features are scaled to length 1 first (their code). float64 [N, 8] and [M, 8] → float64 [N].
    """
    signals, atoms = (points / np.linalg.norm(points, axis=1, keepdims=True) for points in (features, templates))
    return lasso_errors(signals, atoms, PENALTY)


def _grouped(pixels: Superpixels, number: int) -> np.ndarray:
    """Group superpixels as SLIC groups pixels: int64 [N], the group of each, 0 to at most `number` − 1."""
    height, width = pixels.labels.shape
    interval = math.sqrt(height * width / number)
    rows, columns = max(1, round(height / interval)), max(1, round(width / interval))
    y = (2 * np.arange(rows) + 1) * height // (2 * rows)
    x = (2 * np.arange(columns) + 1) * width // (2 * columns)
    points = np.concatenate([pixels.lab / COMPACTNESS, pixels.centres * (height, width) / interval], axis=1)
    seeds = points[pixels.labels[y[:, None], x].ravel()]
    return np.unique(_clustered(points, seeds, pixels.sizes), return_inverse=True)[1]


@numba.njit(cache=True, nogil=True)
def _clustered(points: np.ndarray, seeds: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Cluster points by K-means from given centres; one that loses all its points stays where it is.

    float64 [N, D], [K, D] and int64 [N] → int64 [N], the nearest centre of each point.
    """
    number, dimensions = points.shape
    centres = seeds.T.copy()  # [D, K]: LLVM makes vector code of the loop over centres
    nearest = np.full(number, -1)
    distances = np.empty(len(seeds))
    for _ in range(ITERATIONS):
        changed = False
        for point in range(number):
            distances[:] = 0
            for dimension in range(dimensions):
                place = points[point, dimension]
                for centre in range(len(seeds)):
                    away = centres[dimension, centre] - place
                    distances[centre] += away * away
            best = np.argmin(distances)
            changed |= best != nearest[point]
            nearest[point] = best
        if not changed:
            break
        sums, totals = np.zeros(centres.shape), np.zeros(len(seeds))
        for point in range(number):
            totals[nearest[point]] += weights[point]
            for dimension in range(dimensions):
                sums[dimension, nearest[point]] += weights[point] * points[point, dimension]
        for centre in range(len(seeds)):
            if totals[centre] > 0:
                centres[:, centre] = sums[:, centre] / totals[centre]
    return nearest


@numba.njit(cache=True, nogil=True)
def _propagated(
    errors: np.ndarray, order: np.ndarray, features: np.ndarray, cluster: np.ndarray, variance: float
) -> np.ndarray:
    """Mix every superpixel's error with the mean error of its cluster, weighted by likeness (equations 4 and 5).

    In the given order, so that later superpixels see the new errors of earlier ones.

    Args:
        errors: float64 [N].
        order: int64 [N].
        features: float64 [N, D].
        cluster: int64 [N].
        variance: sigma_x² of the likeness (their code: the mean over features of their variances).
    """
    spread = errors.copy()
    for here in order:
        total, weighted = 0.0, 0.0
        for other in range(len(errors)):
            if cluster[other] != cluster[here]:
                continue
            apart = 0.0
            for dimension in range(features.shape[1]):
                apart += (features[here, dimension] - features[other, dimension]) ** 2
            likeness = math.exp(-apart / (2 * variance))
            total += likeness
            weighted += likeness * spread[other]
        spread[here] = PROPAGATION * weighted / total + (1 - PROPAGATION) * spread[here]
    return spread


@numba.njit(cache=True, nogil=True)
def _extremes(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest value of each channel: float32 [h, w, 3] → float32 [3] twice."""
    lowest, highest = lab[0, 0].copy(), lab[0, 0].copy()
    for y in range(lab.shape[0]):
        for x in range(lab.shape[1]):
            for channel in range(3):
                lowest[channel] = min(lowest[channel], lab[y, x, channel])
                highest[channel] = max(highest[channel], lab[y, x, channel])
    return lowest, highest


@numba.njit(cache=True, nogil=True)
def _pixel_errors(
    lab: np.ndarray,
    rgb: np.ndarray,
    labels: np.ndarray,
    lowest: np.ndarray,
    scale: np.ndarray,
    features: np.ndarray,
    errors: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Average every pixel's errors over the scales, weighted by its likeness to its superpixel (equation 6).

    Args:
        lab: float32 [h, w, 3]; (lab − lowest) · scale is in 0 … 1.
        rgb: uint8 [h, w, 3].
        labels: int32 [h, w], superpixels of the finest scale.
        features: float32 [N, S, 8], of the superpixel of every scale that holds each of them.
        errors: float32 [N, S, 2], likewise, dense and sparse.

    Returns:
        float32 [h, w] twice, dense and sparse.
    """
    height, width = labels.shape
    dense, sparse = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    pixel = np.empty(8, np.float32)
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                pixel[channel] = (lab[y, x, channel] - lowest[channel]) * scale[channel]
                pixel[3 + channel] = rgb[y, x, channel] * np.float32(1 / 255)
            pixel[6], pixel[7] = (y + 0.5) / height, (x + 0.5) / width
            near = labels[y, x]
            weights, sum_dense, sum_sparse = np.float32(0), np.float32(0), np.float32(0)
            for level in range(features.shape[1]):
                apart = np.float32(1e-12)  # a pixel may equal its superpixel
                for dimension in range(8):
                    away = pixel[dimension] - features[near, level, dimension]
                    apart += away * away
                weight = 1 / np.sqrt(apart)
                weights += weight
                sum_dense += weight * errors[near, level, 0]
                sum_sparse += weight * errors[near, level, 1]
            dense[y, x], sparse[y, x] = sum_dense / weights, sum_sparse / weights
    return dense, sparse


def _object_biased(error: np.ndarray) -> np.ndarray:
    """Weight a map by a Gaussian around its centre of mass (equations 7 to 9): float32 [h, w] to [0, 1]."""
    height, width = error.shape
    y, x = (np.arange(height, dtype=np.float32) + 0.5) / height, (np.arange(width, dtype=np.float32) + 0.5) / width
    mass = max(float(error.sum()), 1e-12)
    off_y, off_x = y - error.sum(axis=1) @ y / mass, x - error.sum(axis=0) @ x / mass
    down, across = (np.exp(-(off**2) / (2 * OBJECT_SIGMA**2)) for off in (off_y, off_x))
    return stretched(error * down[:, None] * across)


@numba.njit(cache=True, nogil=True)
def _posterior(prior: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Update one map by another, section 3.4: the probability of foreground given what the other map says.

    The prior map cut at its mean says which pixels the likelihoods, histograms of `observed`, are counted in.
    float32 [h, w] twice, in [0, 1] → float32 [h, w] in [0, 1].
    """
    cut = prior.mean()
    counts = np.zeros((BINS, 2))
    for y in range(prior.shape[0]):
        for x in range(prior.shape[1]):
            counts[min(int(observed[y, x] * BINS), BINS - 1), int(prior[y, x] > cut)] += 1
    foreground = counts[:, 1] / max(counts[:, 1].sum(), 1.0)
    background = counts[:, 0] / max(counts[:, 0].sum(), 1.0)
    posterior = np.empty(prior.shape, np.float32)
    for y in range(prior.shape[0]):
        for x in range(prior.shape[1]):
            level = min(int(observed[y, x] * BINS), BINS - 1)
            for_it = prior[y, x] * foreground[level]
            against = (1 - prior[y, x]) * background[level]
            posterior[y, x] = for_it / (for_it + against) if for_it > 0 else 0.0
    return posterior
