"""Each operation of the engine against its reference, and the references against torchvision.

The engine is given a view that needs no resizing and a row with one operation. Both sides round to uint8 at the end,
and the engine keeps 1/16 grey level between operations: so one operation may differ by one level, where the exact value
lies near a half, and a chain that amplifies by a little more.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as V2
from view_cases import (
    BOXES,
    PICTURES,
    SHAPES,
    box,
    by_engine,
    draw_picture,
    square,
    table_row,
    to_bytes,
    to_reference,
    unresized,
)

from pipelines.backends import reference
from pipelines.config import ViewsConfig
from pipelines.ops import background, blur, color, solarize
from pipelines.ops.normalize import scale_and_shift
from pipelines.views import BRIGHTNESS, CONTRAST, HUE, REMOVE, SATURATION, SWAP

MODES = ("relicv2", "torchvision")
ONE_OPERATION, CHAIN = 1, 2
"""Largest difference in grey levels after one operation, and after a whole jitter of the recipes' strengths."""


def largest_difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


# ---- colour -----------------------------------------------------------------------------------------------

FIELDS = {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation", HUE: "hue"}


def strengths(operation: int, mode: str) -> tuple[float, ...]:
    """Return the recipes' extremes, values beyond them, and a step that is hardly there."""
    if operation == HUE:
        return (-0.5, -0.1, 1e-3, 0.1, 0.5)
    if operation == BRIGHTNESS and mode == "relicv2":
        return (-1.0, -0.4, 1e-3, 0.4, 1.0)
    return (0.0, 0.6, 1.001, 1.4, 3.0)


def assert_jitter(agreement, picture: np.ndarray, row: np.void, mode: str, name: str, bar: int = CHAIN) -> None:
    fused = unresized(picture, row, jitter=mode)
    view = color.reference_jitter(to_reference(picture), row, mode)
    if row["gray"]:
        view = color.reference_grayscale(view)
    truth = to_bytes(view)
    agreement.hold(name, fused, truth, row)
    assert largest_difference(fused, truth) <= bar, row


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", FIELDS, ids=FIELDS.get)
def test_jitter_operation(agreement, mode, operation):
    for picture, strength in product(PICTURES, strengths(operation, mode)):
        neutral = {"brightness": 0 if mode == "relicv2" else 1}
        row = table_row(**{**neutral, FIELDS[operation]: strength})
        name = f"{FIELDS[operation]}, {mode}"
        assert_jitter(agreement, draw_picture(picture, 40, 40), row, mode, name, ONE_OPERATION)


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
    fused = unresized(picture, table_row(blur_sigma=sigma))
    truth = to_bytes(blur.reference(to_reference(picture), sigma))
    agreement.hold(name, fused, truth, f"sigma {sigma}")


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
    flat = np.full((96, 96, 3), 200, np.uint8)
    np.testing.assert_array_equal(unresized(flat, table_row(blur_sigma=sigma)), flat)
    corner = np.zeros((96, 96, 3), np.uint8)
    corner[0, 0] = 255
    blurred = unresized(corner, table_row(blur_sigma=sigma))
    assert blurred[0, 0].min() > 0
    assert blurred[-5:].max() == blurred[:, -5:].max() == 0


# ---- solarize ---------------------------------------------------------------------------------------------


def assert_solarize(agreement, picture: np.ndarray, name: str) -> None:
    fused = unresized(picture, table_row(solarize=True))
    truth = to_bytes(solarize.reference(to_reference(picture)))
    agreement.hold(name, fused, truth)
    np.testing.assert_array_equal(fused, truth)  # a uint8 view is never at one half: nothing is rounded


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
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(
        unresized(every, table_row(solarize=True)), np.minimum(every, 255 - every.astype(int))
    )


# ---- background -------------------------------------------------------------------------------------------

FILL = np.array((128, 128, 128), np.uint8)


def blob(rng: np.random.Generator, side: int = 128) -> np.ndarray:
    """Draw a mask: an ellipse with a hole and ragged edges."""
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side
    cy, cx = rng.uniform(0.3, 0.7, 2)
    ry, rx = rng.uniform(0.1, 0.5, 2)
    distance = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 + rng.uniform(-0.2, 0.2, (side, side))
    return (distance < 1) & (distance > 0.05)


def assert_background(agreement, image, row, size, mask, plate, name: str) -> None:
    """Whole views, since mask and image share the box; the resize adds its own level of difference."""
    fused = by_engine(image, row, size, mask=mask, plate=plate)
    truth = reference.render_view(torch.from_numpy(image), row, size, ViewsConfig(), mask, plate).numpy()
    agreement.hold(name, fused, truth, row)
    assert largest_difference(fused, truth) <= 2, row


@pytest.mark.parametrize("kind", ["remove", "swap"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_background(agreement, kind, shape):
    rng = np.random.default_rng(3)
    image = draw_picture("photograph", *shape)
    cases = ((48, False, (160, 160)), (96, True, (64, 90)), (20, True, (1, 1)))
    for place, (size, flip, plate_shape) in product(BOXES, cases):
        row = box(*BOXES[place](*shape), flip=flip, background=SWAP if kind == "swap" else REMOVE)
        plate = draw_picture("photograph", *plate_shape) if kind == "swap" else None
        assert_background(agreement, image, row, size, blob(rng), plate, f"background, {kind}")


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["remove", "swap"])
def test_background_of_photographs(agreement, photographs, kind):
    rng = np.random.default_rng(4)
    plate = draw_picture("photograph", 160, 160) if kind == "swap" else None
    for number, image in enumerate(photographs):
        high, wide = (int(rng.integers(1, side + 1)) for side in image.shape[:2])
        top, left = rng.integers(0, image.shape[0] - high + 1), rng.integers(0, image.shape[1] - wide + 1)
        row = box(top, left, high, wide, flip=number % 2, background=SWAP if kind == "swap" else REMOVE)
        assert_background(agreement, image, row, 224, blob(rng), plate, f"background, {kind}, photographs")


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
    picture, plate = draw_picture("photograph", 48, 48), draw_picture("noise", 48, 48)
    for behind, background_of in ((None, REMOVE), (plate, SWAP)):
        row = table_row(background=background_of)
        kept = unresized(picture, row, mask=np.ones((128, 128), bool), plate=behind)
        gone = unresized(picture, row, mask=np.zeros((128, 128), bool), plate=behind)
        np.testing.assert_array_equal(kept, picture)
        np.testing.assert_array_equal(gone, np.broadcast_to(FILL, picture.shape) if behind is None else plate)


def test_the_plate_is_not_flipped_with_the_view():
    plate, picture = draw_picture("ramp", 30, 30), draw_picture("noise", 48, 48)
    nothing = np.zeros((128, 128), bool)
    views = [
        unresized(picture, table_row(flip=flip, background=SWAP), mask=nothing, plate=plate) for flip in (False, True)
    ]
    np.testing.assert_array_equal(*views)


def test_normalisation_does_not_depend_on_the_default_type_of_its_first_call():
    """Its constants are kept for the process: a float64 first call must not change what float32 views become."""
    scale_and_shift.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        constants = scale_and_shift(torch.device("cpu"))
    finally:
        torch.set_default_dtype(torch.float32)
        scale_and_shift.cache_clear()
    assert [constant.dtype for constant in constants] == [torch.float32, torch.float32]
