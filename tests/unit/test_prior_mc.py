"""The absorbing Markov chain: its equations against a plain transcription and real walks, and what it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from making import pixels
from objects import contrast_of, disc, image_of

from saliency.priors import mc
from saliency.priors.scene import Scene, of_image


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("noise", [0, 8])
@pytest.mark.parametrize("shape", [(120, 150), (360, 480)])
def test_a_disc_stands_out(shape, noise, gray):
    inside = disc(*shape, (0.45 * shape[0], 0.55 * shape[1]), 0.22 * shape[0])
    salient, rest = contrast_of(of_image(mc.of_scene, image_of(inside, noise=noise, gray=gray)), inside)
    assert salient > 0.7 > 0.2 > rest


def test_two_objects_are_found():
    one, other = disc(150, 220, (60, 50), 25), disc(150, 220, (90, 160), 30)
    saliency = of_image(mc.of_scene, image_of(one | other, noise=5))
    assert min(saliency[one].mean(), saliency[other].mean()) > 0.5 > 0.2 > saliency[~(one | other)].mean()


def test_an_object_that_touches_the_border_stands_out():
    inside = disc(150, 200, (105, 100), 50)
    assert 20 < inside[-1].sum() < 50
    salient, rest = contrast_of(of_image(mc.of_scene, image_of(inside, noise=5)), inside)
    assert salient > rest + 0.3


@pytest.mark.parametrize("smooth", [0.0, 99.0])  # with and without the update by the equilibrium distribution
def test_equations_against_a_plain_transcription(monkeypatch, smooth):
    monkeypatch.setattr(mc, "SMOOTH", smooth)
    found = Scene(pixels(45, 60, seed=5), number=40).superpixels
    np.testing.assert_allclose(mc.of_superpixels(found), _transcription(found, updated=smooth == 0), atol=1e-9)


def _chain(found):
    """Return the paper's graph: affinity and transitions of all nodes, transient ones first, twins after them."""
    count = len(found.sizes)
    border = [p for p in range(count) if found.borders[:, p].any()]
    edges = {}
    for p in range(count):
        for q in range(count):
            near = any(found.adjacency[p, n] and found.adjacency[n, q] for n in range(count))
            if p != q and (found.adjacency[p, q] or near or (p in border and q in border)):
                edges[p, q] = math.dist(found.lab[p], found.lab[q])
    low, high = min(edges.values()), max(edges.values())
    affinity = np.eye(count + len(border))
    for (p, q), colour in edges.items():
        affinity[p, q] = math.exp(-(colour - low) / (high - low) / 0.1) + 1e-5
    for twin, original in enumerate(border, start=count):
        for p in range(count):
            affinity[p, twin] = affinity[p, original]
    return affinity, affinity / affinity.sum(axis=1, keepdims=True), count


def _transcription(found, *, updated):
    """Sum the visits of a walk step by step until it is absorbed, instead of inverting I − Q."""
    affinity, transition, count = _chain(found)
    worth = np.ones(count)
    if updated:
        equilibrium = affinity[:count, :count].sum(axis=1)
        worth = 1 / (equilibrium / equilibrium.sum())
    here, time = np.eye(count), np.zeros(count)
    while here.max() > 1e-14:
        time += here @ worth
        here = here @ transition[:count, :count]
    return (time - time.min()) / np.ptp(time)


def test_the_equilibrium_distribution_is_that_of_the_graph_without_borders():
    affinity, _, count = _chain(Scene(pixels(45, 60, seed=6), number=30).superpixels)
    inner = affinity[:count, :count]
    distribution = inner.sum(axis=1) / inner.sum()
    step = inner / inner.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(distribution @ step, distribution, atol=1e-12)


def test_the_score_counts_what_is_neither_dark_nor_bright():
    assert mc.smooth_region_score(np.array([0.0, 0.05, 0.95, 1.0])) == 1
    assert mc.smooth_region_score(np.array([0.45, 0.55])) == 5
    assert mc.smooth_region_score(np.array([0.0, 0.15, 0.85, 0.31])) == pytest.approx((1 + 2 + 2 + 4) / 4)


def test_a_smooth_background_amid_the_image_is_darkened(monkeypatch):
    # walks from a meadow inside a path live long, though what stands out is the spotted thing on it
    image = image_of(np.zeros((150, 200), bool))
    meadow, spotted = np.zeros((150, 200), bool), np.zeros((150, 200), bool)
    meadow[20:130, 25:175], spotted[50:100, 75:125] = True, True
    image[meadow] = (110, 130, 80)
    spots = np.random.default_rng(1).integers(60, 256, (5, 5, 3), np.uint8)
    image[spotted] = np.kron(spots, np.ones((10, 10, 1), np.uint8)).reshape(-1, 3)
    meadow &= ~spotted
    updated = of_image(mc.of_scene, image)
    monkeypatch.setattr(mc, "SMOOTH", 99.0)
    plain = of_image(mc.of_scene, image)
    assert mc.smooth_region_score(mc.of_superpixels(Scene(image).superpixels)) >= 2
    assert updated[meadow].mean() / updated[spotted].mean() < 0.5 * plain[meadow].mean() / plain[spotted].mean()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 40), (37, 1), (2, 3), (400, 20), (333, 500)])
def test_any_size_gives_a_map_of_that_size_and_always_the_same(shape):
    image = pixels(*shape).copy()
    given = image.copy()
    saliency = of_image(mc.of_scene, image)
    assert saliency.shape == shape
    assert saliency.dtype == np.float32
    assert 0 <= saliency.min() <= saliency.max() <= 1
    np.testing.assert_array_equal(saliency, of_image(mc.of_scene, image))
    np.testing.assert_array_equal(image, given)


@pytest.mark.parametrize("shape", [(1, 1), (50, 60), (400, 300)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (90, 90, 90), (200, 17, 91)])
def test_one_colour_has_no_salience(shape, colour):
    assert not of_image(mc.of_scene, np.full((*shape, 3), colour, np.uint8)).any()


def test_the_last_bits_of_one_colour_are_not_blown_up():
    found = Scene(np.full((50, 60, 3), 90, np.uint8)).superpixels
    lab = found.lab + np.random.default_rng(0).normal(0, 1e-6, found.lab.shape)
    assert not mc.of_superpixels(found._replace(lab=lab)).any()


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"is uint8 \[H, W, 3\]"):
        of_image(mc.of_scene, np.zeros((4, 4, 3)))
