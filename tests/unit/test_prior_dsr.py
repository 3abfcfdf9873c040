"""Dense and sparse reconstruction: its equations against plain transcriptions, and what it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from making import pixels
from objects import contrast_of, disc, image_of

from saliency.priors import dsr
from saliency.priors.scene import Scene, of_image


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("noise", [0, 8])
@pytest.mark.parametrize("shape", [(120, 150), (360, 480)])
def test_a_disc_stands_out(shape, noise, gray):
    inside = disc(*shape, (0.45 * shape[0], 0.55 * shape[1]), 0.22 * shape[0])
    salient, rest = contrast_of(of_image(dsr.of_scene, image_of(inside, noise=noise, gray=gray)), inside)
    assert salient > 0.7 > 0.2 > rest


def test_two_objects_are_found():
    one, other = disc(150, 220, (60, 70), 25), disc(150, 220, (90, 150), 30)
    saliency = of_image(dsr.of_scene, image_of(one | other, noise=5))
    assert min(saliency[one].mean(), saliency[other].mean()) > 0.6 > 0.2 > saliency[~(one | other)].mean()


def test_an_object_that_touches_the_border_stands_out():
    inside = disc(150, 200, (110, 100), 45)
    assert inside[-1].sum() > 40
    salient, rest = contrast_of(of_image(dsr.of_scene, image_of(inside, noise=5)), inside)
    assert salient > 0.7 > 0.2 > rest


def test_dense_error_against_the_singular_vectors():
    rng = np.random.default_rng(0)
    templates, features = rng.random((30, 8)) * np.arange(1, 9), rng.random((50, 8))
    _, strengths, directions = np.linalg.svd(templates - templates.mean(axis=0), full_matrices=False)
    share = np.cumsum(strengths**2) / np.sum(strengths**2)
    number = next(count for count in range(1, 9) if share[count - 1] >= 0.95) + 1
    assert number < 8
    offset = features - features.mean(axis=0)
    expected = [math.dist(row, directions[:number].T @ (directions[:number] @ row)) for row in offset]
    np.testing.assert_allclose(dsr.dense_error(features, templates), expected, atol=1e-9)


def test_what_lies_in_the_plane_of_the_border_has_no_dense_error():
    rng = np.random.default_rng(1)
    plane = rng.random((2, 8))
    templates, features = rng.random((20, 2)) @ plane, rng.random((20, 2)) @ plane
    np.testing.assert_allclose(dsr.dense_error(features, templates), 0, atol=1e-9)


def test_sparse_error_is_that_of_directions_so_brightness_alone_has_none():
    rng = np.random.default_rng(2)
    templates = rng.random((20, 8))
    error = dsr.sparse_error(
        np.concatenate([templates * 0.3, rng.random((5, 8)) * [9, 0, 9, 0, 9, 0, 0, 0]]), templates
    )
    np.testing.assert_allclose(error[:20], 1e-4, atol=1e-6)  # what lambda itself leaves: its square
    assert error[20:].min() > 0.002


def test_propagation_against_a_plain_transcription():
    rng = np.random.default_rng(3)
    features, errors, cluster = rng.random((40, 8)), rng.random(40), rng.integers(0, 3, 40)
    expected = errors.copy()
    for here in sorted(range(40), key=lambda here: -errors[here]):
        same = [other for other in range(40) if cluster[other] == cluster[here]]
        alike = [math.exp(-(math.dist(features[here], features[other]) ** 2) / (2 * 0.1)) for other in same]
        mean = sum(weight * expected[other] for weight, other in zip(alike, same, strict=True)) / sum(alike)
        expected[here] = 0.5 * mean + 0.5 * expected[here]
    order = np.argsort(-errors, kind="stable")
    np.testing.assert_allclose(dsr._propagated(errors, order, features, cluster, 0.1), expected, rtol=1e-9)


def test_clusters_against_lloyd():
    rng = np.random.default_rng(4)
    points, weights = rng.random((200, 5)), rng.integers(1, 9, 200)
    centres = points[:7].copy()
    for _ in range(100):
        nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(axis=1)
        centres = np.array([np.average(points[nearest == k], axis=0, weights=weights[nearest == k]) for k in range(7)])
    np.testing.assert_array_equal(dsr._clustered(points, points[:7], weights), nearest)


@pytest.mark.parametrize("share", dsr.COARSER)
def test_coarser_scales_have_about_as_many_superpixels_as_asked_for_and_keep_to_edges(share):
    inside = disc(200, 300, (100, 150), 60)
    found = Scene(image_of(inside, noise=3)).superpixels
    number = round(share * len(found.sizes))
    group = dsr._grouped(found, number)
    assert len(np.unique(group)) == group.max() + 1
    assert 0.75 * number <= group.max() + 1 <= 1.2 * number
    share = np.bincount(group[found.labels].ravel(), inside.ravel()) / np.bincount(group[found.labels].ravel())
    assert np.minimum(share, 1 - share).max() < 0.25
    centres = [np.ptp(found.centres[group == one], axis=0).max() for one in range(group.max() + 1)]
    assert max(centres) < 4 / math.sqrt(number)


def test_posterior_by_hand():
    prior = np.array([[0.9, 0.8], [0.1, 0.2]], np.float32)
    observed = np.array([[1.0, 0.5], [0.5, 0.0]], np.float32)
    # cut at .5: a half of the foreground is at 1, a half at .5; of the background a half at .5, a half at 0
    expected = [[1.0, 0.8 * 0.5 / (0.8 * 0.5 + 0.2 * 0.5)], [0.1 * 0.5 / (0.1 * 0.5 + 0.9 * 0.5), 0.0]]
    np.testing.assert_allclose(dsr._posterior(prior, observed), expected, rtol=1e-6)


def test_maps_of_both_errors_against_a_plain_transcription():
    scene = Scene(pixels(40, 50, seed=5))
    (dense, sparse), (expected_dense, expected_sparse) = dsr.error_maps(scene), _transcription(scene)
    np.testing.assert_allclose(dense, expected_dense, atol=2e-5)
    # many sparse errors tie at lambda², so rounding may change the order in which they spread
    np.testing.assert_allclose(sparse, expected_sparse, atol=3e-3)


def _stretched(values):
    return (values - values.min()) / np.ptp(values)


def _transcription(scene):
    """Take features and equation 6 from the pixels of every scale, equations 7 to 9 on whole images."""
    height, width = scene.lab.shape[:2]
    lab = np.stack([_stretched(scene.lab[..., channel].astype(np.float64)) for channel in range(3)], axis=2)
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    pixel = np.concatenate([lab, scene.rgb / 255, y[..., None], x[..., None]], axis=2)
    found = scene.superpixels
    numbers = [round(share * len(found.sizes)) for share in dsr.COARSER]
    scales = [found.labels, *(dsr._grouped(found, number)[found.labels] for number in numbers)]
    weights, totals = np.zeros((height, width)), np.zeros((height, width, 2))
    for labels in scales:
        features = np.array([pixel[labels == one].mean(axis=0) for one in range(labels.max() + 1)])
        rim = {*labels[0], *labels[-1], *labels[:, 0], *labels[:, -1]}
        border = np.array([one in rim for one in range(len(features))])
        errors = dsr.propagated_errors(features, border)
        weight = 1 / np.maximum(np.linalg.norm(pixel - features[labels], axis=2), 1e-6)
        weights += weight
        totals += weight[..., None] * errors[labels]
    maps = []
    for error in np.moveaxis(totals / weights[..., None], 2, 0):
        mass = _stretched(error)
        off_y, off_x = y - (y * mass).sum() / mass.sum(), x - (x * mass).sum() / mass.sum()
        maps.append(_stretched(mass * np.exp(-(off_y**2 + off_x**2) / (2 * 0.25**2))))
    return maps


def test_both_maps_are_integrated_by_bayes():
    scene = Scene(pixels(40, 50, seed=5))
    maps = dsr.error_maps(scene)
    total = np.zeros((40, 50))
    for prior, observed in (maps, maps[::-1]):
        front = prior > prior.mean()
        level = np.minimum((observed * dsr.BINS).astype(int), dsr.BINS - 1)
        likely = np.bincount(level[front], minlength=dsr.BINS)[level] / front.sum()
        unlikely = np.bincount(level[~front], minlength=dsr.BINS)[level] / (~front).sum()
        total += prior * likely / np.maximum(prior * likely + (1 - prior) * unlikely, 1e-30)
    np.testing.assert_allclose(dsr.of_scene(scene), _stretched(total), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 40), (37, 1), (2, 3), (400, 20), (333, 500)])
def test_any_size_gives_a_map_of_that_size_and_always_the_same(shape):
    image = pixels(*shape).copy()
    given = image.copy()
    saliency = of_image(dsr.of_scene, image)
    assert saliency.shape == shape
    assert saliency.dtype == np.float32
    assert 0 <= saliency.min() <= saliency.max() <= 1
    np.testing.assert_array_equal(saliency, of_image(dsr.of_scene, image))
    np.testing.assert_array_equal(image, given)


@pytest.mark.parametrize("shape", [(1, 1), (50, 60), (400, 300)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (90, 90, 90), (200, 17, 91)])
def test_one_colour_has_no_salience(shape, colour):
    assert not of_image(dsr.of_scene, np.full((*shape, 3), colour, np.uint8)).any()


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"is uint8 \[H, W, 3\]"):
        of_image(dsr.of_scene, np.zeros((4, 4, 3)))
