"""The CRF's filter against a Gaussian, its mean field against a transcription, and what its terms are for."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest
from objects import disc, image_of

from saliency.crf import CrfConfig, _bilateral_grid, filtered, grid_of, smoothed

ONE_CELL = 1 / 6 + 1 / 2 + 1 / 6  # variance of splatting, blurring and slicing, cells²


def test_the_filter_is_a_gaussian_of_about_one_cell():
    at = np.linspace(0, 12, 481, dtype=np.float32)
    points = np.stack([at, np.zeros_like(at)], axis=1)
    middle = np.zeros((481, 1), np.float32)
    middle[240] = 1  # at a cell
    found = filtered(grid_of(points), middle)[:, 0]
    gaussian = np.exp(-((at - 6) ** 2) / (2 * ONE_CELL)) * found[240]
    np.testing.assert_allclose(found, gaussian, atol=0.12 * found[240])
    assert (found > 0).sum() == pytest.approx(4 / 12 * 481, abs=2)  # nothing beyond two cells


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_filter_against_a_transcription(dimensions):
    rng = np.random.default_rng(dimensions)
    points = rng.uniform(0, 3, (40, dimensions)).astype(np.float32)
    values = rng.random((40, 2), np.float32)
    cells: dict[tuple[int, ...], np.ndarray] = {}
    origin = points.min(axis=0)

    def corners(point):
        place = point - origin
        base = np.floor(place).astype(int)
        for step in itertools.product((0, 1), repeat=dimensions):
            share = [part if up else 1 - part for part, up in zip(place - base, step, strict=True)]
            yield tuple(base + step), math.prod(share)

    for point, value in zip(points, values, strict=True):
        for cell, weight in corners(point):
            cells[cell] = cells.get(cell, np.zeros(2)) + weight * value
    expected = np.zeros((40, 2))
    for number, point in enumerate(points):
        for cell, weight in corners(point):
            for move in itertools.product((-1, 0, 1), repeat=dimensions):
                near = cells.get(tuple(np.add(cell, move)), np.zeros(2))
                expected[number] += weight * math.prod(0.5 if step == 0 else 0.25 for step in move) * near
    np.testing.assert_allclose(filtered(grid_of(points), values), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(24, 31), (1, 1), (1, 9), (17, 2)])
def test_the_mean_field_against_its_equations(shape):
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (*shape, 3), np.uint8)
    start = rng.random(shape, np.float32)
    config = CrfConfig(steps=3)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32) * np.array([1, 1.5, 1.5], np.float32)
    colours, both = grid_of(lab.reshape(-1, 3) / 10), _bilateral_grid(lab, config)
    sure = np.clip(start, 0.03, 0.97)
    label = start.astype(np.float64)
    for _ in range(3):
        logit = np.log(sure / (1 - sure))
        flat = label.reshape(-1, 1).astype(np.float32)
        inside = filtered(colours, flat)[:, 0] / flat.sum() + 1e-7
        outside = filtered(colours, 1 - flat)[:, 0] / (1 - flat).sum() + 1e-7
        logit = logit + 0.5 * np.clip(np.log(inside / outside), -4, 4).reshape(shape)
        mass = filtered(both, np.ones_like(flat))
        logit = logit + 2 * (2 * (filtered(both, flat) / mass).reshape(shape) - 1)
        logit = logit + 2 * (2 * cv2.GaussianBlur(label, (0, 0), 2.0) - 1)
        label = 1 / (1 + np.exp(-logit))
    np.testing.assert_allclose(smoothed(rgb, start, config), label, atol=2e-4)


def test_a_rough_map_follows_the_edges_of_the_image():
    inside = disc(90, 120, (45, 60), 25)
    image = image_of(inside, noise=4)
    rough = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 8) * 0.9
    wrong = [(each > 0.5) != inside for each in (rough, smoothed(image, rough))]
    assert wrong[1].sum() < 0.35 * wrong[0].sum()


def test_the_colour_model_finds_more_of_what_looks_like_the_object():
    known, other = disc(90, 120, (45, 30), 18), disc(90, 120, (45, 90), 18)
    image = image_of(known | other, noise=3)
    map_ = np.where(known, 0.9, np.where(other, 0.35, 0.1)).astype(np.float32)
    without = smoothed(image, map_, CrfConfig(model_weight=0, bilateral_weight=0))
    with_model = smoothed(image, map_, CrfConfig(model_weight=1, bilateral_weight=0))
    assert without[other].mean() < 0.4
    assert with_model[other].mean() > 0.8
    assert with_model[~(known | other)].mean() < 0.1


def test_terms_of_weight_nothing_change_nothing():
    start = np.linspace(0.1, 0.9, 60, dtype=np.float32).reshape(6, 10)
    image = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    none = CrfConfig(smooth_weight=0, bilateral_weight=0, model_weight=0)
    np.testing.assert_allclose(smoothed(image, start, none), start, atol=1e-6)
