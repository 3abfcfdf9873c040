"""The cut follows the object's edge, is always the same, and survives maps that say nothing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from objects import disc, image_of

from saliency.cut import cut


def rough_map(inside: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(np.roll(inside, (4, -5), (0, 1)).astype(np.float32), (0, 0), 6)


def test_a_rough_map_is_cut_along_the_object():
    inside = disc(90, 120, (45, 60), 25)
    rough = rough_map(inside)
    found = cut(image_of(inside, noise=6), rough) > 0
    assert ((rough > 0.5) != inside).sum() > 300
    assert (found != inside).sum() < 30


def test_the_same_image_gives_the_same_mask_whatever_was_cut_before():
    inside = disc(60, 80, (30, 40), 15)
    image, rough = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8), rough_map(inside)
    first = cut(image, rough)
    cut(image_of(inside), rough)
    np.testing.assert_array_equal(cut(image, rough), first)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_map_of_one_value_is_its_own_mask(value):
    image = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(cut(image, np.full((20, 30), value, np.float32)), np.full((20, 30), value))


def test_a_small_picture_keeps_what_a_large_one_would():
    """A faint cross of thin arms: at 40 pixels OpenCV's own weight of an edge cuts most of it away (IoU 0.36)."""
    y, x = np.abs(np.mgrid[:160, :160] - 80)
    cross = ((x < 6) | (y < 6)) & (np.maximum(x, y) < 60)
    noise = np.random.default_rng(0).normal(0, 25, (160, 160, 3))
    image = (110 + 30 * cross[..., None] + noise).clip(0, 255).astype(np.uint8)
    rough = cv2.GaussianBlur(cross.astype(np.float32), (0, 0), 5)
    small = [cv2.resize(each, (40, 40), interpolation=cv2.INTER_AREA) for each in (image, rough, cross * 1.0)]
    found, inside = cut(small[0], small[1].astype(np.float32)) > 0, small[2] > 0.5
    assert (found & inside).sum() / (found | inside).sum() > 0.8
