"""Robust background detection: its equations against a plain transcription, and what it finds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from making import pixels
from objects import contrast_of, disc, image_of

from saliency.priors import rbd
from saliency.priors.scene import Scene, of_image


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("noise", [0, 8])
@pytest.mark.parametrize("shape", [(120, 150), (360, 480)])
def test_a_disc_stands_out(shape, noise, gray):
    inside = disc(*shape, (0.45 * shape[0], 0.55 * shape[1]), 0.22 * shape[0])
    salient, rest = contrast_of(of_image(rbd.of_scene, image_of(inside, noise=noise, gray=gray)), inside)
    assert salient > 0.7 > 0.2 > rest


def test_two_objects_are_found():
    one, other = disc(150, 220, (60, 50), 25), disc(150, 220, (90, 160), 30)
    saliency = of_image(rbd.of_scene, image_of(one | other, noise=5))
    assert min(saliency[one].mean(), saliency[other].mean()) > 0.7 > 0.2 > saliency[~(one | other)].mean()


def test_an_object_that_touches_the_border_stands_out():
    inside = disc(150, 200, (110, 100), 45)
    assert inside[-1].sum() > 40
    image = image_of(inside, noise=5)
    salient, rest = contrast_of(of_image(rbd.of_scene, image), inside)
    assert salient > 0.7 > 0.2 > rest
    # were all of the border background, the object would be too
    found = Scene(image).superpixels
    colour = rbd.distances(found.lab)
    of_object = found.rgb[:, 0] * 255 > 150
    assert colour[np.ix_(of_object, found.border)].min(axis=1).max() < 5 < 40 < colour.max()
    connectivity = rbd.boundary_connectivity(found.adjacency, found.border, colour)
    assert connectivity[of_object].max() < 1 < 2 < connectivity[~of_object].min()


def test_a_background_in_two_parts_is_one():
    inside = np.zeros((120, 180), bool)
    inside[:, 80:100] = True  # cuts the ground in two, from border to border
    image = image_of(inside, noise=3)
    found = Scene(image).superpixels
    colour = rbd.distances(found.lab)
    connectivity = rbd.boundary_connectivity(found.adjacency, found.border, colour)
    left, right = found.centres[:, 1] < 0.3, found.centres[:, 1] > 0.7
    assert connectivity[left].mean() == pytest.approx(connectivity[right].mean(), rel=0.05)
    salient, rest = contrast_of(of_image(rbd.of_scene, image), inside)
    assert salient > rest + 0.5


def test_equations_against_a_plain_transcription():
    found = Scene(pixels(45, 60, seed=5), number=40).superpixels
    np.testing.assert_allclose(rbd.of_superpixels(found), _transcription(found), atol=1e-9)


def _transcription(found):
    """Write the paper's equations in loops, with Bellman and Ford's relaxation for the geodesic distances."""
    nodes = range(len(found.sizes))
    colour = {(p, q): math.dist(found.lab[p], found.lab[q]) for p in nodes for q in nodes}
    border = [p for p in nodes if found.borders[:, p].any()]
    linked = {(p, q) for p in nodes for q in nodes if found.adjacency[p, q] or (p in border and q in border)}
    geodesic = {(p, q): 0.0 if p == q else math.inf for p in nodes for q in nodes}
    for _ in nodes:
        for (p, q), start in itertools.product(linked, nodes):
            geodesic[start, q] = min(geodesic[start, q], geodesic[start, p] + colour[p, q])
    span = {pair: math.exp(-(way**2) / (2 * 10**2)) for pair, way in geodesic.items()}
    connectivity = [sum(span[p, q] for q in border) / math.sqrt(sum(span[p, q] for q in nodes)) for p in nodes]
    background = [1 - math.exp(-(value**2) / 2) for value in connectivity]
    contrast = np.zeros(len(nodes))
    for p, q in itertools.product(nodes, nodes):
        apart = math.dist(found.centres[p], found.centres[q])
        contrast[p] += colour[p, q] * math.exp(-(apart**2) / (2 * 0.25**2)) * background[q]
    contrast = (contrast - contrast.min()) / np.ptp(contrast)
    # equation 9 as least squares: a row per term
    rows, wanted = [], []
    unit = np.eye(len(nodes))
    for p in nodes:
        rows += [math.sqrt(background[p]) * unit[p], math.sqrt(contrast[p]) * unit[p]]
        wanted += [0.0, math.sqrt(contrast[p])]
    for p, q in itertools.combinations(nodes, 2):
        near = any(found.adjacency[p, n] and found.adjacency[n, q] for n in nodes)
        weight = math.exp(-(colour[p, q] ** 2) / (2 * 10**2)) if near or (p, q) in linked else 0
        weight += 0.1 * found.adjacency[p, q]
        rows.append(math.sqrt(weight) * (unit[p] - unit[q]))
        wanted.append(0.0)
    saliency = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    return (saliency - saliency.min()) / np.ptp(saliency)


def test_shortest_paths_take_every_turn():
    cost = np.full((6, 6), np.inf)
    order = [3, 0, 5, 1, 4, 2]  # one corridor through nodes out of order
    for step, (one, other) in enumerate(itertools.pairwise(order)):
        cost[one, other] = cost[other, one] = step + 1
    np.fill_diagonal(cost, 0)
    place = np.cumsum([0, 1, 2, 3, 4, 5])[np.argsort(order)]
    np.testing.assert_array_equal(rbd._shortest_paths(cost), np.abs(place[:, None] - place))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 40), (37, 1), (2, 3), (400, 20), (333, 500)])
def test_any_size_gives_a_map_of_that_size_and_always_the_same(shape):
    image = pixels(*shape).copy()
    given = image.copy()
    saliency = of_image(rbd.of_scene, image)
    assert saliency.shape == shape
    assert saliency.dtype == np.float32
    assert 0 <= saliency.min() <= saliency.max() <= 1
    np.testing.assert_array_equal(saliency, of_image(rbd.of_scene, image))
    np.testing.assert_array_equal(image, given)


@pytest.mark.parametrize("shape", [(1, 1), (50, 60), (400, 300)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (90, 90, 90), (200, 17, 91)])
def test_one_colour_has_no_salience(shape, colour):
    assert not of_image(rbd.of_scene, np.full((*shape, 3), colour, np.uint8)).any()


def test_the_last_bits_of_one_colour_are_not_blown_up():
    found = Scene(np.full((50, 60, 3), 90, np.uint8)).superpixels
    lab = found.lab + np.random.default_rng(0).normal(0, 1e-6, found.lab.shape)
    assert not rbd.of_superpixels(found._replace(lab=lab)).any()


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"is uint8 \[H, W, 3\]"):
        of_image(rbd.of_scene, np.zeros((4, 4, 3)))
