"""Frames around photographs are found, and what is none is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from making import pixels
from objects import disc, image_of

from saliency.priors.frame import BLUR, SMALLEST, WIDEST, Frame, find_frame

NONE = Frame(0, 0, 0, 0)
PHOTO = 60 + pixels(100, 140, seed=3) // 2
"""Smooth noise of 60 to 187."""


def framed(image: np.ndarray, top: int, bottom: int, left: int, right: int, colour: int | tuple = 255) -> np.ndarray:
    height, width = image.shape[:2]
    whole = np.full((height + top + bottom, width + left + right, 3), colour, np.uint8)
    whole[top : top + height, left : left + width] = image
    return whole


@pytest.mark.parametrize("sides", [(5, 5, 5, 5), (1, 2, 3, 4), (20, 20, 0, 0), (0, 0, 12, 0), (0, 7, 0, 0)])
@pytest.mark.parametrize("colour", [0, 255, (20, 30, 90)])
def test_a_frame_is_found_with_the_rows_that_mix_with_it(sides, colour):
    photo = np.maximum(PHOTO, 130)  # or the third colour's blue would be in it
    found = find_frame(framed(photo, *sides, colour))
    assert found == Frame(*(width + BLUR if width else 0 for width in sides))


def test_noise_of_jpeg_within_the_frame():
    image = framed(PHOTO, 8, 8, 8, 8, 235)
    noise = np.random.default_rng(0).integers(-12, 13, image.shape)
    assert find_frame((image + noise).clip(0, 255).astype(np.uint8)) == Frame(*[8 + BLUR] * 4)


def test_a_photograph_without_one():
    assert find_frame(PHOTO) == NONE


def test_a_plain_ground_is_no_frame():
    """The object meets the plain rows with its tip only: there is no step along all of a side."""
    assert find_frame(image_of(disc(100, 140, (50, 70), 35))) == NONE
    assert find_frame(np.full((50, 60, 3), 200, np.uint8)) == NONE


def test_a_sky_is_no_frame():
    sky = PHOTO.copy()
    sky[:40] = np.linspace(250, 180, 40)[:, None, None].astype(np.uint8)  # it darkens towards the horizon
    assert find_frame(sky) == NONE


@pytest.mark.parametrize(("rows", "expected"), [(24, 26), (33, 26), (50, 0)])
def test_wider_than_a_quarter_is_a_part_of_the_picture(rows, expected):
    """100 rows of photograph below so many plain ones."""
    found = find_frame(framed(PHOTO, rows, 0, 0, 0))
    height = 100 + rows
    assert found.top == (rows + BLUR if rows < height * WIDEST else 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 4)])
def test_tiny_images(shape):
    top, bottom, left, right = find_frame(pixels(*shape))
    assert top + bottom < max(shape[0], 1)
    assert left + right < max(shape[1], 1)


@pytest.mark.parametrize("height", [3, 5, 6, 12, SMALLEST - 1, SMALLEST, 40])
def test_frames_leave_something_of_a_small_image(height):
    """White above and black below: each ends in a step, where the other begins if need be."""
    image = framed(framed(PHOTO[: height - 2], 1, 0, 0, 0, 255), 0, 1, 0, 0, 0)
    found = find_frame(image)
    assert len(image) == height
    assert found == (NONE if height < SMALLEST else Frame(1 + BLUR, 1 + BLUR, 0, 0))
