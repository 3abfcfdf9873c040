"""The fused crop and resize against its reference, and both against torchvision."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as V1
from view_cases import BOXES, PICTURES, SHAPES, box, by_engine, draw_picture

from pipelines.ops import geometry

FILTERS = ("bicubic", "bilinear")


def assert_geometry(agreement, picture: str, image: np.ndarray, row: np.void, size: int, interpolation: str) -> None:
    fused = by_engine(image, row, size, interpolation=interpolation)
    reference = geometry.reference(torch.from_numpy(image), row, size, interpolation).numpy()
    assert fused.dtype == reference.dtype == np.uint8
    agreement.hold(f"{interpolation}, {picture}", fused, reference, (row, size))
    # Both round at the end, and the engine's fixed-point weights are off by less than half a level.
    assert np.abs(fused.astype(int) - reference).max() <= 1, (row, size)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_geometry_of_odd_shapes(agreement, interpolation, shape):
    """One pixel, one row, one column, very long; boxes that touch every border; up and down."""
    for number, (picture, place) in enumerate(product(("photograph", "grayscale", "saturated"), BOXES)):
        image = draw_picture(picture, *shape)
        for size in (1, 20, 48):
            row = box(*BOXES[place](*shape), flip=number % 2)
            assert_geometry(agreement, picture, image, row, size, interpolation)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("picture", PICTURES)
def test_geometry_up_and_down(agreement, interpolation, picture):
    for side in (30, 96, 224, 480):
        image = draw_picture(picture, side + 7, side + 11)
        assert_geometry(agreement, picture, image, box(3, 5, side, side, flip=True), 96, interpolation)


@given(data=st.data(), interpolation=st.sampled_from(FILTERS), flip=st.booleans(), size=st.integers(1, 60))
def test_geometry_of_any_box(data, interpolation, flip, size):
    height, width = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 120))
    high, wide = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    row = box(data.draw(st.integers(0, height - high)), data.draw(st.integers(0, width - wide)), high, wide, flip=flip)
    image = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)
    fused = by_engine(image, row, size, interpolation=interpolation).astype(int)
    reference = geometry.reference(torch.from_numpy(image), row, size, interpolation).numpy()
    assert np.abs(fused - reference).max() <= 1


@pytest.mark.realdata
@pytest.mark.parametrize("interpolation", FILTERS)
def test_geometry_of_photographs(agreement, photographs, interpolation):
    rng = np.random.default_rng(0)
    for number, image in enumerate(photographs):
        height, width, _ = image.shape
        high, wide = (int(rng.integers(side // 4, side + 1)) for side in (height, width))
        row = box(rng.integers(0, height - high + 1), rng.integers(0, width - wide + 1), high, wide, flip=number % 2)
        assert_geometry(agreement, "photographs", image, row, 224 if number % 2 else 96, interpolation)


TORCHVISION_FILTERS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("side", [25, 96, 333])
def test_geometry_reference_is_torchvision_in_float(interpolation, side):
    """torchvision's functional transforms of tensors cast to float32, resize, clamp, round."""
    image = torch.from_numpy(draw_picture("noise", side + 20, side + 9))
    ours = geometry.reference(image, box(13, 4, side, side - 3), 64, interpolation)
    theirs = V1.resized_crop(
        image.permute(2, 0, 1),
        13,
        4,
        side,
        side - 3,
        [64, 64],
        TORCHVISION_FILTERS[interpolation],
        antialias=True,
    )
    np.testing.assert_array_equal(ours.numpy(), theirs.permute(1, 2, 0).numpy())


def test_flip_mirrors_the_view():
    image = draw_picture("photograph", 60, 80)
    for face in (
        lambda row: by_engine(image, row, 32),
        lambda row: geometry.reference(torch.from_numpy(image), row, 32, "bicubic").numpy(),
    ):
        upright, mirrored = (face(box(5, 6, 40, 50, flip=flip)) for flip in (False, True))
        np.testing.assert_array_equal(mirrored, upright[:, ::-1])
        assert (mirrored != upright).any()
