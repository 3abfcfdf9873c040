"""Regions in layers: every step against the plainest way to say it."""

from __future__ import annotations

import numpy as np
import pytest
from making import pixels

from saliency.priors.regions import Regions, _scales, basins, descended, merged, summed


def _regions(labels, seed=0):
    labels = np.asarray(labels, np.int32)
    sizes = np.bincount(labels.ravel()).astype(np.float64)
    return Regions(labels, sizes, np.random.default_rng(seed).random((len(sizes), 3)))


def _patchwork(height, width, seed):
    """Return connected regions of many shapes."""
    image = pixels(height, width, seed)
    return basins(image, image.astype(np.float32))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (8, 1), (13, 17)])
def test_basins_are_where_steepest_descent_ends(shape):
    gradient = np.random.default_rng(3).random(shape, dtype=np.float32)
    labels, number = descended(gradient)
    ends = {}
    for start in np.ndindex(shape):
        place = start
        while True:
            y, x = place
            near = [at for at in np.ndindex(shape) if max(abs(at[0] - y), abs(at[1] - x)) <= 1]
            lowest = min(near, key=lambda at: gradient[at])
            if lowest == place:
                break
            place = lowest
        ends[start] = place
    minima = list(dict.fromkeys(ends.values()))  # numbered by their first pixel in raster order
    assert number == len(minima)
    np.testing.assert_array_equal(
        labels, [[minima.index(ends[y, x]) for x in range(shape[1])] for y in range(shape[0])]
    )


def test_a_plateau_is_one_basin_and_a_ridge_parts_two():
    gradient = np.zeros((7, 11), np.float32)
    assert descended(gradient)[1] == 1
    gradient[:, 5] = 1
    labels, number = descended(gradient)
    assert number == 2
    assert len(set(labels[:, :5].ravel())) == len(set(labels[:, 6:].ravel())) == 1


def test_an_image_of_one_colour_is_one_region():
    regions = basins(np.full((20, 30, 3), 90, np.uint8), np.full((20, 30, 3), 0.5, np.float32))
    assert regions.sizes.tolist() == [600]
    np.testing.assert_allclose(regions.colours, 0.5)


def test_sums_and_means():
    regions = _patchwork(40, 50, 1)
    image = pixels(40, 50, 1).astype(np.float32)
    assert len(regions.sizes) > 10
    for region in range(len(regions.sizes)):
        chosen = image[regions.labels == region]
        assert len(chosen) == regions.sizes[region]
        np.testing.assert_allclose(regions.colours[region], chosen.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        summed(image, regions.labels, len(regions.sizes)).sum(axis=0), image.sum((0, 1)), rtol=1e-6
    )


def _largest_square(inside):
    side = 0
    while side < min(inside.shape):
        windows = np.lib.stride_tricks.sliding_window_view(inside, (side + 1, side + 1))
        if not windows.all(axis=(2, 3)).any():
            break
        side += 1
    return side


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (40, 60)])
def test_the_scale_is_the_side_of_the_largest_square(shape):
    labels = _patchwork(*shape, 2).labels
    labels[: shape[0] // 2, : shape[1] // 3] = 0
    scales = _scales(labels, np.arange(labels.max() + 1))
    assert scales.tolist() == [_largest_square(labels == region) for region in range(labels.max() + 1)]


@pytest.mark.parametrize("scale", [1, 2, 4, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_merging_against_a_plain_transcription(seed, scale):
    regions = _patchwork(36, 44, seed)
    coarse, parent = merged(regions, scale)
    expected = _transcription(regions, scale)
    np.testing.assert_array_equal(coarse.labels, expected)
    np.testing.assert_array_equal(parent[regions.labels], expected)
    assert len(coarse.sizes) > 1
    assert min(_largest_square(coarse.labels == region) for region in range(len(coarse.sizes))) >= scale
    image = pixels(36, 44, seed)
    for region, colour in enumerate(coarse.colours):
        np.testing.assert_allclose(colour, image[coarse.labels == region].mean(axis=0), rtol=1e-5)


def _transcription(regions, scale):
    """Algorithm 2 on whole images: measure, merge the small ones that did not grow meanwhile, until none is small."""
    labels = regions.labels.copy()
    colour, size = dict(enumerate(regions.colours)), dict(enumerate(regions.sizes))
    while True:
        scales = {region: _largest_square(labels == region) for region in colour}
        small = sorted(
            (region for region in colour if scales[region] < scale), key=lambda region: (scales[region], region)
        )
        if not small or len(colour) == 1:
            break
        grew = set()
        for region in small:
            if region in grew or len(colour) == 1:
                continue
            inside = np.pad(labels == region, 1)
            rim = inside[:-2, 1:-1] | inside[2:, 1:-1] | inside[1:-1, :-2] | inside[1:-1, 2:]
            near = set(labels[rim].tolist()) - {region}
            nearest = min(near, key=lambda other: np.linalg.norm(colour[other] - colour[region]))
            total = size[nearest] + size[region]
            colour[nearest] = (colour[nearest] * size[nearest] + colour.pop(region) * size.pop(region)) / total
            size[nearest] = total
            labels[labels == region] = nearest
            grew.add(nearest)
    # numbered by the oldest region in them
    oldest = {}
    for region in range(len(regions.sizes)):
        oldest.setdefault(labels[regions.labels == region][0], len(oldest))
    return np.vectorize(oldest.get)(labels)


def test_where_no_region_is_large_enough_one_remains():
    coarse, parent = merged(_regions([[0, 1, 2, 3, 3, 1]]), 2)
    assert coarse.labels.tolist() == [[0] * 6]
    assert parent.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("middle", "parents", "means"), [(6, [0, 1, 1], [0, 9]), (4, [0, 0, 1], [1, 10])])
def test_a_thin_region_joins_the_neighbour_of_the_nearest_colour(middle, parents, means):
    labels = np.repeat([0, 0, 0, 1, 2, 2, 2], 6).reshape(7, 6).astype(np.int32)
    sizes = np.bincount(labels.ravel()).astype(np.float64)
    regions = Regions(labels, sizes, np.array([[0.0, 0, 0], [middle, 0, 0], [10, 0, 0]]))
    coarse, parent = merged(regions, 3)
    assert parent.tolist() == parents
    np.testing.assert_allclose(coarse.colours[:, 0], means)
