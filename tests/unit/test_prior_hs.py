"""Hierarchical saliency: its equations against a plain transcription, and what it finds."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest
from making import pixels
from objects import contrast_of, disc, image_of

from saliency.priors import hs
from saliency.priors.regions import basins, merged
from saliency.priors.scene import Scene, of_image


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("noise", [0, 8])
@pytest.mark.parametrize("shape", [(120, 150), (360, 480)])
def test_a_disc_stands_out(shape, noise, gray):
    inside = disc(*shape, (0.45 * shape[0], 0.55 * shape[1]), 0.22 * shape[0])
    salient, rest = contrast_of(of_image(hs.of_scene, image_of(inside, noise=noise, gray=gray)), inside)
    assert salient > 0.7 > 0.2 > rest


def test_two_objects_are_found():
    one, other = disc(150, 220, (60, 70), 25), disc(150, 220, (90, 150), 30)
    saliency = of_image(hs.of_scene, image_of(one | other, noise=5))
    assert min(saliency[one].mean(), saliency[other].mean()) > 0.6 > 0.2 > saliency[~(one | other)].mean()


def test_an_object_that_touches_the_border_stands_out():
    inside = disc(150, 200, (110, 100), 45)
    assert inside[-1].sum() > 40
    salient, rest = contrast_of(of_image(hs.of_scene, image_of(inside, noise=5)), inside)
    assert salient > 0.4 > 0.1 > rest  # the location heuristic dims what is far from the centre


def test_texture_inside_an_object_is_outvoted_by_the_coarser_layers():
    inside = disc(200, 260, (100, 130), 60)
    image = image_of(inside)
    y, x = np.ogrid[:200, :260]
    dots = inside & (y % 12 < 4) & (x % 12 < 4)  # in the ground's colour
    image[dots] = image[0, 0]
    saliency = of_image(hs.of_scene, image)
    assert saliency[dots].mean() > 0.5 > 0.2 > saliency[~inside].mean()


def test_equations_against_a_plain_transcription():
    scene = Scene(pixels(60, 80, seed=2))
    saliency = hs.of_scene(scene)
    np.testing.assert_allclose(saliency, _transcription(scene), atol=2e-4)
    assert len(np.unique(saliency)) > 10


def _transcription(scene):
    """Write equations 2 to 7 in loops, and minimise the energy as one dense least squares problem."""
    height, width = scene.lab.shape[:2]
    layer = basins(cv2.GaussianBlur(scene.rgb, (0, 0), 2.0), scene.lab)
    layers = []
    for scale in (3, 17, 33):
        layer = merged(layer, max(1, round(scale * max(height, width) / 400)))[0]
        layers.append((scale, layer.labels))
    own = {}
    for level, (scale, labels) in enumerate(layers):
        places, colours, location = {}, {}, {}
        for region in np.unique(labels):
            y, x = np.nonzero(labels == region)
            y, x = (y + 0.5) / height, (x + 0.5) / width
            places[region] = y.mean(), x.mean()
            colours[region] = scene.lab[labels == region].astype(np.float64).mean(axis=0)
            location[region] = np.exp(-9 * ((y - 0.5) ** 2 + (x - 0.5) ** 2)).mean()  # equation 3
        contrast = dict.fromkeys(places, 0.0)
        for here, other in itertools.product(places, places):  # equation 2
            near = math.exp(-(math.dist(places[here], places[other]) ** 2) / (0.2**2 * scale))
            contrast[here] += (labels == other).sum() * near * math.dist(colours[here], colours[other])
        low, high = min(contrast.values()), max(contrast.values())
        for region in places:
            own[level, region] = (contrast[region] - low) / (high - low) * location[region]  # equation 4
    nodes = list(own)
    rows, wanted = [], []
    unit = dict(zip(nodes, np.eye(len(nodes)), strict=True))
    for level, region in nodes:  # equations 5 to 7
        trust = math.sqrt((0.5, 4.0, 2.0)[level])
        rows.append(trust * unit[level, region])
        wanted.append(trust * own[level, region])
        if level < 2:
            parent = layers[level + 1][1][layers[level][1] == region][0]
            rows.append(2 * (unit[level, region] - unit[level + 1, parent]))
            wanted.append(0.0)
    saliency = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0][: layers[0][1].max() + 1]
    return ((saliency - saliency.min()) / np.ptp(saliency))[layers[0][1]]


def test_local_contrast_is_exact_from_the_nearest_to_the_farthest():
    rng = np.random.default_rng(6)
    points = rng.random((5, 90), dtype=np.float32)
    weights = rng.random(90, dtype=np.float32)
    for scale in hs.SCALES:
        apart = ((points[3:, :, None] - points[3:, None, :]) ** 2).sum(axis=0)
        colour = np.sqrt(((points[:3, :, None] - points[:3, None, :]) ** 2).sum(axis=0))
        expected = (weights * colour * np.exp(-apart / (0.04 * scale))).sum(axis=1)
        np.testing.assert_allclose(hs._local_contrast(points, weights, 0.04 * scale), expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 40), (37, 1), (2, 3), (400, 20), (333, 500)])
def test_any_size_gives_a_map_of_that_size_and_always_the_same(shape):
    image = pixels(*shape).copy()
    given = image.copy()
    saliency = of_image(hs.of_scene, image)
    assert saliency.shape == shape
    assert saliency.dtype == np.float32
    assert 0 <= saliency.min() <= saliency.max() <= 1
    np.testing.assert_array_equal(saliency, of_image(hs.of_scene, image))
    np.testing.assert_array_equal(image, given)


@pytest.mark.parametrize("shape", [(1, 1), (50, 60), (400, 300)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (90, 90, 90), (200, 17, 91)])
def test_one_colour_has_no_salience(shape, colour):
    assert not of_image(hs.of_scene, np.full((*shape, 3), colour, np.uint8)).any()


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"is uint8 \[H, W, 3\]"):
        of_image(hs.of_scene, np.zeros((4, 4, 3)))
