"""The jitter references against what they claim to be: torchvision's operations, and the official code's."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as V2
from view_cases import draw_picture, table_row, to_reference, unresized

from pipelines.ops import color
from pipelines.views import BRIGHTNESS, CONTRAST, HUE, JITTER_ORDERS, SATURATION

PICTURES = ("photograph", "noise", "grayscale", "saturated", "ramp")
ARITHMETIC = 0.5
"""What the engine's four fractional bits may add up to over four operations that amplify, in grey levels."""

# ---- torchvision's mode -----------------------------------------------------------------------------------

ADJUST = {
    BRIGHTNESS: ("brightness", V2.adjust_brightness),
    CONTRAST: ("contrast", V2.adjust_contrast),
    SATURATION: ("saturation", V2.adjust_saturation),
    HUE: ("hue", V2.adjust_hue),
}


@pytest.mark.parametrize("operation", ADJUST, ids=lambda operation: ADJUST[operation][0])
@pytest.mark.parametrize("picture", PICTURES)
def test_each_operation_is_torchvisions(operation, picture):
    name, adjust = ADJUST[operation]
    view = to_reference(draw_picture(picture, 40, 50))
    for strength in (-0.5, -0.1, 0.0, 0.03, 0.5) if operation == HUE else (0.0, 0.6, 1.0, 1.4, 2.0):
        row = table_row(**{"brightness": 1, name: strength})
        ours = color.reference_jitter(view, row, "torchvision")
        torch.testing.assert_close(ours, adjust(view, strength), atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", range(24))
def test_the_order_is_followed(order):
    factors = {"brightness": 1.3, "contrast": 0.7, "saturation": 1.2, "hue": -0.08}
    view = to_reference(draw_picture("photograph", 30, 30))
    ours = color.reference_jitter(view, table_row(order=order, **factors), "torchvision")
    theirs = view
    for operation in JITTER_ORDERS[order]:
        name, adjust = ADJUST[int(operation)]
        theirs = adjust(theirs, factors[name])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_grayscale_is_torchvisions():
    view = to_reference(draw_picture("noise", 30, 30))
    theirs = V2.rgb_to_grayscale(view, num_output_channels=3)
    torch.testing.assert_close(color.reference_grayscale(view), theirs, atol=1e-5, rtol=0)


# ---- the official mode: relicv2's augmentations transcribed, one pixel at a time where it is in HSV -----------


def official_brightness(view: np.ndarray, delta: float) -> np.ndarray:
    return view + delta


def official_contrast(view: np.ndarray, factor: float) -> np.ndarray:
    mean = view.mean(axis=(0, 1), keepdims=True)
    return (view - mean) * factor + mean


def official_saturation(view: np.ndarray, factor: float) -> np.ndarray:
    def pixel(red: float, green: float, blue: float) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        return colorsys.hsv_to_rgb(hue, min(max(saturation * factor, 0.0), 1.0), value)

    return np.array([[pixel(*rgb) for rgb in line] for line in view.tolist()])


def official_hue(view: np.ndarray, delta: float) -> np.ndarray:
    def pixel(red: float, green: float, blue: float) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        return colorsys.hsv_to_rgb((hue + delta) % 1.0, saturation, value)

    return np.array([[pixel(*rgb) for rgb in line] for line in view.tolist()])


OFFICIAL = {
    BRIGHTNESS: ("brightness", official_brightness),
    CONTRAST: ("contrast", official_contrast),
    SATURATION: ("saturation", official_saturation),
    HUE: ("hue", official_hue),
}


def by_official_code(picture: np.ndarray, row: np.void) -> np.ndarray:
    """float64 [H, W, 3] in [0, 1]."""
    view = picture / 255
    for operation in JITTER_ORDERS[row["order"]]:
        name, apply = OFFICIAL[int(operation)]
        view = np.clip(apply(view, float(row[name])), 0, 1)
    return view


def assert_official(picture: np.ndarray, row: np.void) -> None:
    expected = by_official_code(picture, row)
    reference = color.reference_jitter(to_reference(picture), row, "relicv2").permute(1, 2, 0).numpy()
    np.testing.assert_allclose(reference, expected, atol=1e-5)
    np.testing.assert_allclose(unresized(picture, row), expected * 255, atol=0.5 + ARITHMETIC)


@pytest.mark.parametrize("picture", PICTURES)
def test_each_operation_is_the_official_one(picture):
    image = draw_picture(picture, 13, 13)
    for brightness in (-0.4, 0.1, 0.4):
        assert_official(image, table_row(brightness=brightness))
    for contrast in (0.6, 1.4):
        assert_official(image, table_row(contrast=contrast))
    for saturation in (0.0, 0.8, 1.2, 4.0):
        assert_official(image, table_row(saturation=saturation))
    for hue in (-0.5, -0.1, 0.05, 0.1):
        assert_official(image, table_row(hue=hue))


@pytest.mark.parametrize("order", range(24))
def test_the_official_operations_follow_the_order(order):
    for sign in (-1, 1):
        row = table_row(
            order=order,
            brightness=0.3 * sign,
            contrast=1 + 0.4 * sign,
            saturation=1 - 0.2 * sign,
            hue=0.1 * sign,
        )
        assert_official(draw_picture("photograph", 12, 12), row)


def test_the_two_modes_differ():
    view = to_reference(draw_picture("photograph", 20, 20))
    for name, strength in (("contrast", 1.4), ("saturation", 1.2)):
        official = color.reference_jitter(view, table_row(**{name: strength}), "relicv2")
        torchvision = color.reference_jitter(view, table_row(**{"brightness": 1, name: strength}), "torchvision")
        assert (official - torchvision).abs().max() > 0.01
