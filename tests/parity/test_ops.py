"""Each operation's fused face against its reference, and the references against torchvision.

Photometric faces are compared before the rounding at the end of a view, so that the bars can be tight: where
only the order of float32 operations differs, 0.001 grey levels are an error in the arithmetic.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as V2
from view_cases import BOXES, PICTURES, SHAPES, box, draw_picture, square, table_row, to_levels, to_reference

from pipelines.ops import background, blur, color, solarize
from pipelines.views import BRIGHTNESS, CONTRAST, HUE, REMOVE, SATURATION, SWAP

MODES = ("relicv2", "torchvision")
ARITHMETIC = 1e-3
"""Largest difference in grey levels between two float32 evaluations of one formula."""


# ---- colour -----------------------------------------------------------------------------------------------

FIELDS = {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation", HUE: "hue"}


def strengths(operation: int, mode: str) -> tuple[float, ...]:
    """Return the recipes' extremes, values beyond them, and a step that is hardly there."""
    if operation == HUE:
        return (-0.5, -0.1, 1e-3, 0.1, 0.5)
    if operation == BRIGHTNESS and mode == "relicv2":
        return (-1.0, -0.4, 1e-3, 0.4, 1.0)
    return (0.0, 0.6, 1.001, 1.4, 3.0)


def assert_jitter(agreement, picture: np.ndarray, row: np.void, mode: str, name: str) -> None:
    fused = picture.astype(np.float32)
    color.fused(fused, row, mode)
    view = color.reference_jitter(to_reference(picture), row, mode)
    if row["gray"]:
        view = color.reference_grayscale(view)
    reference = to_levels(view)
    assert fused.min() >= 0
    assert fused.max() <= 255
    agreement.hold(name, fused, reference, row)
    assert np.abs(fused - reference).max() <= ARITHMETIC, row


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", FIELDS, ids=FIELDS.get)
def test_jitter_operation(agreement, mode, operation):
    for picture, strength in product(PICTURES, strengths(operation, mode)):
        neutral = {"brightness": 0 if mode == "relicv2" else 1}
        row = table_row(**{**neutral, FIELDS[operation]: strength})
        assert_jitter(agreement, draw_picture(picture, 40, 40), row, mode, f"{FIELDS[operation]}, {mode}")


def strong_row(order: int, mode: str, sign: int, **fields) -> np.void:
    return table_row(
        order=order,
        brightness=sign * 0.4 + (mode == "torchvision"),
        contrast=1 + sign * 0.4,
        saturation=1 - sign * 0.2,
        hue=sign * 0.1,
        **fields,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", range(24))
def test_jitter_order(agreement, mode, order):
    for picture, sign in product(("photograph", "noise", "saturated"), (-1, 1)):
        row = strong_row(order, mode, sign)
        assert_jitter(agreement, draw_picture(picture, 32, 32), row, mode, f"24 orders, {mode}")


@pytest.mark.parametrize("mode", MODES)
def test_jitter_orders_differ(mode):
    """The comparison above would pass if both faces ignored the order."""
    picture = to_reference(draw_picture("photograph", 16, 16))
    views = [color.reference_jitter(picture, strong_row(order, mode, 1), mode).numpy() for order in range(24)]
    assert len({view.tobytes() for view in views}) == 24


@pytest.mark.parametrize("mode", MODES)
def test_grayscale_follows_jitter(agreement, mode):
    for picture, jitter in product(PICTURES, (table_row(brightness=mode == "torchvision"), strong_row(7, mode, 1))):
        jitter["gray"] = True
        assert_jitter(agreement, draw_picture(picture, 40, 40), jitter, mode, "grayscale, alone and after jitter")


@pytest.mark.realdata
@pytest.mark.parametrize("mode", MODES)
def test_jitter_of_photographs(agreement, small_views, mode):
    rng = np.random.default_rng(1)
    for number, view in enumerate(small_views):
        row = table_row(
            order=number % 24,
            brightness=rng.uniform(-0.4, 0.4) + (mode == "torchvision"),
            contrast=rng.uniform(0.6, 1.4),
            saturation=rng.uniform(0.8, 1.2),
            hue=rng.uniform(-0.1, 0.1),
            gray=number % 5 == 0,
        )
        assert_jitter(agreement, view, row, mode, f"jitter, {mode}, photographs")


# ---- blur -------------------------------------------------------------------------------------------------

BLUR_SIZES = (224, 96, 48, 39, 20, 19, 1)


def assert_blur(agreement, picture: np.ndarray, sigma: float, name: str) -> None:
    fused = blur.fused(picture.astype(np.float32), sigma)
    reference = to_levels(blur.reference(to_reference(picture), sigma))
    agreement.hold(name, fused, reference, f"sigma {sigma}")


def test_blur_radius_is_the_official_one():
    assert {size: blur.radius(size) for size in BLUR_SIZES} == {
        224: 11,
        96: 4,
        48: 2,
        39: 1,
        20: 1,
        19: 0,
        1: 0,
    }


@pytest.mark.parametrize("size", BLUR_SIZES)
def test_blur(agreement, size):
    sigmas = (0.0, 1e-3, 0.1, 0.3, 0.7, 1.0, 1.5, 2.0, 5.0)
    for picture, sigma in product(("photograph", "noise", "saturated"), sigmas):
        assert_blur(agreement, draw_picture(picture, size, size), sigma, f"blur, {size} pixels")


@pytest.mark.realdata
def test_blur_of_photographs(agreement, photographs, small_views):
    rng = np.random.default_rng(2)
    large_views = [square(photograph, 224) for photograph in photographs[:40]]
    for view in (*large_views, *small_views):
        assert_blur(agreement, view, rng.uniform(0.1, 2.0), f"blur, {len(view)} pixels, photographs")


@pytest.mark.parametrize("size", [224, 96, 48, 20])
@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0])
def test_blur_reference_is_torchvision(size, sigma):
    view = to_reference(draw_picture("noise", size, size))
    taps = 2 * blur.radius(size) + 1
    theirs = V2.gaussian_blur(view, [taps, taps], [sigma, sigma])
    torch.testing.assert_close(blur.reference(view, sigma), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_keeps_a_flat_view_and_does_not_wrap(sigma):
    flat = np.full((96, 96, 3), 200, np.float32)
    np.testing.assert_allclose(blur.fused(flat.copy(), sigma), 200, atol=1e-3)
    corner = np.zeros((96, 96, 3), np.float32)
    corner[0, 0] = 255
    blurred = blur.fused(corner, sigma)
    assert blurred[-5:].max() == blurred[:, -5:].max() == 0


# ---- solarize ---------------------------------------------------------------------------------------------


def assert_solarize(agreement, picture: np.ndarray, name: str) -> None:
    fused = solarize.fused(picture.astype(np.float32))
    reference = to_levels(solarize.reference(to_reference(picture)))
    agreement.hold(name, fused, reference)
    assert np.abs(fused - reference).max() <= ARITHMETIC


@pytest.mark.parametrize("picture", PICTURES)
def test_solarize(agreement, picture):
    image = draw_picture(picture, 40, 40)
    assert_solarize(agreement, image, "solarize")
    theirs = V2.solarize(to_reference(image), 0.5)
    torch.testing.assert_close(solarize.reference(to_reference(image)), theirs, atol=1e-6, rtol=0)


@pytest.mark.realdata
def test_solarize_of_photographs(agreement, small_views):
    for view in small_views:
        assert_solarize(agreement, view, "solarize, photographs")


def test_solarize_inverts_from_one_half():
    levels = torch.tensor([0.0, 0.25, 0.499, 0.5, 0.75, 1.0]).expand(3, 1, 6)
    expected = [0.0, 0.25, 0.499, 0.5, 0.25, 0.0]
    np.testing.assert_allclose(solarize.reference(levels)[0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(solarize.fused(to_levels(levels))[0, :, 0], np.array(expected) * 255, atol=1e-4)


# ---- background -------------------------------------------------------------------------------------------

FILL = np.array((128, 128, 128), np.uint8)


def blob(rng: np.random.Generator, side: int = 128) -> np.ndarray:
    """Draw a mask: an ellipse with a hole and ragged edges."""
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side
    cy, cx = rng.uniform(0.3, 0.7, 2)
    ry, rx = rng.uniform(0.1, 0.5, 2)
    distance = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 + rng.uniform(-0.2, 0.2, (side, side))
    return (distance < 1) & (distance > 0.05)


def blend_by_reference(picture, row, mask, behind, shape) -> np.ndarray:
    size = picture.shape[0]
    cover = background.reference_cover(torch.from_numpy(mask), row, size, *shape)
    if behind.ndim == 3:
        plate = background.reference_plate(torch.from_numpy(behind), size)
    else:
        plate = torch.from_numpy(behind.astype(np.float32) / 255).view(3, 1, 1)
    return to_levels(background.reference(to_reference(picture), cover, plate))


def assert_background(agreement, picture, row, mask, behind, shape, name: str) -> None:
    fused = background.fused(picture.astype(np.float32), row, mask, behind, *shape)
    reference = blend_by_reference(picture, row, mask, behind, shape)
    agreement.hold(name, fused, reference, row)
    assert np.abs(fused - reference).max() <= ARITHMETIC, row


@pytest.mark.parametrize("kind", ["remove", "swap"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_background(agreement, kind, shape):
    rng = np.random.default_rng(3)
    cases = ((48, False, (160, 160)), (96, True, (64, 90)), (20, True, (1, 1)))
    for place, (size, flip, plate_shape) in product(BOXES, cases):
        row = box(*BOXES[place](*shape), flip=flip, background=SWAP if kind == "swap" else REMOVE)
        behind = draw_picture("photograph", *plate_shape) if kind == "swap" else FILL
        picture = draw_picture("photograph", size, size)
        assert_background(agreement, picture, row, blob(rng), behind, shape, f"background, {kind}")


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["remove", "swap"])
def test_background_of_photographs(agreement, small_views, kind):
    rng = np.random.default_rng(4)
    behind = draw_picture("photograph", 160, 160) if kind == "swap" else FILL
    for number, view in enumerate(small_views):
        row = box(*rng.integers(0, 150, 2), *rng.integers(1, 200, 2), flip=number % 2)
        assert_background(agreement, view, row, blob(rng), behind, (350, 400), f"background, {kind}, photographs")


def sampled_by_torch(mask: np.ndarray, row: np.void, size: int, shape: tuple[int, int]) -> np.ndarray:
    """Transcribe the definition with grid_sample: the view's pixel centres, in the image's unit square."""
    y = (int(row["top"]) + (np.arange(size) + 0.5) * int(row["height"]) / size) / shape[0] * 2 - 1
    x = (int(row["left"]) + (np.arange(size) + 0.5) * int(row["width"]) / size) / shape[1] * 2 - 1
    if row["flip"]:
        x = x[::-1]
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1))[None]
    plane = torch.from_numpy(mask.astype(np.float64))[None, None]
    sampled = torch.nn.functional.grid_sample(plane, grid, "bilinear", "border", align_corners=False)
    return sampled[0, 0].numpy()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(150, 211), (20, 30), (1, 800), (1000, 700)], ids=str)
def test_cover_is_the_mask_sampled_where_the_view_looks(flip, shape):
    mask = blob(np.random.default_rng(5))
    for place in BOXES:
        row = box(*BOXES[place](*shape), flip=flip)
        cover = background.reference_cover(torch.from_numpy(mask), row, 48, *shape)
        np.testing.assert_allclose(cover.numpy(), sampled_by_torch(mask, row, 48, shape), atol=1e-5, err_msg=place)


def test_a_covered_view_stays_and_an_uncovered_one_goes():
    picture = draw_picture("photograph", 48, 48)
    plate = draw_picture("noise", 48, 48)
    row = box(0, 0, 100, 100)
    for behind in (FILL, plate):
        kept = background.fused(picture.astype(np.float32), row, np.ones((128, 128), bool), behind, 100, 100)
        gone = background.fused(picture.astype(np.float32), row, np.zeros((128, 128), bool), behind, 100, 100)
        np.testing.assert_allclose(kept, picture, atol=1e-3)
        np.testing.assert_allclose(gone, np.broadcast_to(behind, picture.shape), atol=1e-3)


def test_the_plate_is_not_flipped_with_the_view():
    plate = draw_picture("ramp", 30, 30)
    nothing = np.zeros((128, 128), bool)
    views = [
        background.fused(np.zeros((48, 48, 3), np.float32), box(0, 0, 9, 9, flip=flip), nothing, plate, 9, 9)
        for flip in (False, True)
    ]
    np.testing.assert_array_equal(*views)
