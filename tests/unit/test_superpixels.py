"""Superpixels: what holds for any image, the algorithm against a plain transcription, and what they measure."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from making import pixels
from objects import GROUND, OBJECT, disc, image_of

from saliency.priors.superpixels import (
    ITERATIONS,
    Superpixels,
    _clustered,
    _connected,
    distances,
    segment,
    within_two_steps,
)

SHAPES = [(1, 1), (1, 2), (1, 40), (37, 1), (2, 3), (8, 300), (40, 50), (225, 300)]


def lab_of(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def superpixels(rgb: np.ndarray, number: int, **options: float) -> Superpixels:
    return segment(rgb, lab_of(rgb), number, **options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", [1, 50, 250])
def test_they_are_numbered_connected_and_measured(shape, number):
    rgb = np.ascontiguousarray(pixels(*shape, seed=number))
    lab = lab_of(rgb)
    found = segment(rgb, lab, number)
    labels = found.labels
    count = len(found.sizes)
    assert labels.shape == shape
    assert labels.dtype == np.int32
    firsts = np.unique(labels, return_index=True)[1]
    assert len(firsts) == count == labels.max() + 1
    assert (np.diff(firsts) > 0).all()  # numbered by their first pixels
    for label in range(count):
        inside = labels == label
        assert cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)[0] == 2
        assert found.sizes[label] == inside.sum()
        np.testing.assert_allclose(found.lab[label], lab[inside].mean(axis=0, dtype=np.float64), atol=1e-9)
        np.testing.assert_allclose(found.rgb[label], rgb[inside].mean(axis=0) / 255, atol=1e-12)
        np.testing.assert_allclose(found.centres[label], (np.argwhere(inside).mean(axis=0) + 0.5) / shape, atol=1e-12)
        edges = inside[0].any(), inside[-1].any(), inside[:, 0].any(), inside[:, -1].any()
        np.testing.assert_array_equal(found.borders[:, label], edges)
        assert found.border[label] == any(edges)
        around = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        touching = np.isin(np.arange(count), labels[around & ~inside])
        np.testing.assert_array_equal(found.adjacency[label], touching)


@pytest.mark.parametrize("number", [50, 100, 250, 400])
def test_there_are_about_as_many_as_were_wanted(number):
    for shape in ((225, 300), (300, 201)):
        steep = pixels(*shape)  # far more colourful than photographs
        assert 0.8 * number < len(superpixels(steep, number).sizes) < 1.4 * number
        assert 0.85 * number < len(superpixels(np.full_like(steep, 70), number).sizes) < 1.15 * number


def test_none_lies_on_both_sides_of_an_edge():
    rgb = image_of(disc(150, 200, (70, 110), 40))
    for colour in superpixels(rgb, 150).rgb * 255:
        assert min(np.abs(colour - GROUND).max(), np.abs(colour - OBJECT).max()) < 1


def test_compactness_makes_them_regular():
    rgb = pixels(120, 160)
    loose, firm = (superpixels(rgb, 100, compactness=compactness) for compactness in (2, 200))

    def boundary(found: Superpixels) -> int:
        return int((found.labels[1:] != found.labels[:-1]).sum() + (found.labels[:, 1:] != found.labels[:, :-1]).sum())

    assert boundary(loose) > 1.3 * boundary(firm)


def test_the_same_image_gives_the_same_superpixels_and_stays_as_it_is():
    rgb = pixels(120, 161)
    lab = lab_of(rgb)
    before = lab.copy()
    first, second = segment(rgb, lab, 90), segment(rgb[:, ::-1][:, ::-1], np.asfortranarray(lab), 90)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(lab, before)


def test_clusters_against_a_plain_transcription():
    lab = lab_of(pixels(44, 60, seed=3))
    interval = 44 * 60 / 24
    clusters = _clustered(np.ascontiguousarray(lab.transpose(2, 0, 1)), 4, 6, interval**0.5, 15.0)
    expected = _transcription(lab, 4, 6, interval**0.5, 15.0)
    assert (clusters == expected).mean() > 0.995  # float32 there, float64 here: a few ties fall otherwise
    assert (expected != _transcription(lab, 4, 6, interval**0.5, 15.0, iterations=1)).mean() > 0.02


def _transcription(lab, rows, columns, interval, compactness, iterations=ITERATIONS):
    """Algorithm 1 of the paper in float64, from the cells of a grid."""
    height, width = lab.shape[:2]
    y, x = np.mgrid[:height, :width]
    labels = (y * rows // height) * columns + x * columns // width
    points = np.dstack([lab.astype(np.float64), y, x])
    for _ in range(iterations):
        seeds = [points[labels == seed].mean(axis=0) for seed in range(rows * columns)]
        nearest = np.full((height, width), np.inf)
        for seed, (light, a, b, seed_y, seed_x) in enumerate(seeds):
            reach = int(np.ceil(interval))
            window = (np.abs(y - round(seed_y)) <= reach) & (np.abs(x - round(seed_x)) <= reach)
            colour = ((lab - (light, a, b)) ** 2).sum(axis=2)
            far = colour + ((y - seed_y) ** 2 + (x - seed_x) ** 2) * (compactness / interval) ** 2
            closer = window & (far < nearest)
            nearest[closer], labels[closer] = far[closer], seed
    return labels


def test_pieces_are_parted_and_crumbs_join_what_comes_before_them():
    clusters = np.array(
        [
            [5, 5, 7, 7, 5],
            [5, 5, 7, 2, 5],
            [9, 5, 7, 7, 5],
        ],
        np.int32,
    )
    labels, count = _connected(clusters, 2)
    assert count == 3
    np.testing.assert_array_equal(labels, [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [0, 0, 1, 1, 2]])
    labels, count = _connected(clusters, 1)
    assert count == 5
    np.testing.assert_array_equal(labels, [[0, 0, 1, 1, 2], [0, 0, 1, 3, 2], [4, 0, 1, 1, 2]])


def test_a_crumb_in_the_first_corner_stays():
    labels, count = _connected(np.array([[1, 0, 0], [0, 0, 0]], np.int32), 3)
    assert count == 2
    np.testing.assert_array_equal(labels, [[0, 1, 1], [1, 1, 1]])


def test_distances_of_all_pairs():
    points = np.random.default_rng(0).normal(size=(23, 3))
    expected = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(distances(points), expected, atol=1e-12)


def test_two_steps_in_a_row_of_five():
    row = np.eye(5, k=1) + np.eye(5, k=-1) > 0
    np.testing.assert_array_equal(within_two_steps(row), row | (np.eye(5, k=2) + np.eye(5, k=-2) > 0))


@pytest.mark.parametrize(("shape", "number"), [((3, 4), 0), ((0, 4), 5)])
def test_what_cannot_be_divided_is_refused(shape, number):
    rgb = np.zeros((*shape, 3), np.uint8)
    with pytest.raises(ValueError, match=f"{number} of an image of {shape[0]} x {shape[1]} pixels"):
        segment(rgb, rgb.astype(np.float32), number)
