"""An image as the priors see it."""

from __future__ import annotations

import numpy as np
import pytest
from making import pixels

from saliency.priors.scene import Scene, stretched


@pytest.mark.parametrize(
    ("shape", "working"),
    [((333, 500), (200, 300)), ((1200, 10), (300, 2)), ((2000, 1), (300, 1)), ((40, 60), (40, 60))],
)
def test_large_images_are_shrunk_and_maps_grow_back(shape, working):
    image = pixels(*shape)
    scene = Scene(image)
    assert scene.rgb.shape == scene.lab.shape == (*working, 3)
    assert (scene.rgb.dtype, scene.lab.dtype) == (np.uint8, np.float32)
    full = scene.full_size(np.ones(working, np.float32))
    np.testing.assert_array_equal(full, np.ones(shape, np.float32))


def test_lab_is_in_the_units_of_cie():
    colours = np.array([[[255, 255, 255], [119, 119, 119], [255, 0, 0], [0, 0, 255]]], np.uint8)
    known = [[100, 0, 0], [50.03, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]  # sRGB under D65
    np.testing.assert_allclose(Scene(colours).lab[0], known, atol=0.3)


def test_superpixels_are_made_once():
    scene = Scene(pixels(60, 80), number=50)
    assert scene.superpixels is scene.superpixels
    assert len(Scene(pixels(60, 80), number=90).superpixels.sizes) > len(scene.superpixels.sizes)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match=r"is uint8 \[H, W, 3\]"):
        Scene(image)


def test_stretching():
    np.testing.assert_array_equal(stretched(np.array([3.0, 5.0, 4.0])), [0, 1, 0.5])
    np.testing.assert_array_equal(stretched(np.array([3.0, 3.0])), [0, 0])
