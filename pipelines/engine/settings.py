"""What the engine must know of a recipe, as the C++ struct `Settings` lays it out."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch

from pipelines import views
from pipelines.config import ViewsConfig
from pipelines.ops.normalize import scale_and_shift

Output = Literal["uint8", "bfloat16", "float32"]
OUTPUTS: tuple[str, ...] = get_args(Output)
ITEMS = {"uint8": np.uint8, "bfloat16": np.uint16, "float32": np.float32}
"""numpy's type of one sample of each output: it has no bfloat16, so its bits are written."""

SETTINGS = np.dtype(
    [
        ("interpolation", np.int32),
        ("jitter", np.int32),
        ("photometric", np.int32),
        ("output", np.int32),
        ("fill", np.int32, 3),
        ("orders", np.uint8, (24, 4)),
        ("scale", np.float32, 3),
        ("shift", np.float32, 3),
    ]
)
STRONGEST = 7.0
"""Largest jitter strength: factors are fixed-point numbers below 8."""
LARGEST_VIEW, MOST_VIEWS = 8192, 64
"""Largest side of a view, and most views of an image."""


def settings_of(recipe: ViewsConfig, *, photometric: bool = True, output: Output = "uint8") -> np.ndarray:
    """Return `SETTINGS` [1].

    Args:
        recipe: interpolation, jitter mode and fill are taken from it.
        photometric: False stops after the background: no jitter, grayscale, blur or solarize.
        output: uint8 grey levels, or normalised as `pipelines.ops.normalize` does.

    Raises:
        ValueError: a value of the recipe that the engine cannot render; it names the field.
    """
    _check(recipe)
    settings = np.zeros(1, SETTINGS)
    settings["interpolation"] = recipe.interpolation == "bilinear"
    settings["jitter"] = recipe.photometric.jitter == "torchvision"
    settings["photometric"] = photometric
    settings["output"] = OUTPUTS.index(output)
    settings["fill"] = recipe.background.fill
    settings["orders"] = views.JITTER_ORDERS
    settings["scale"], settings["shift"] = (part.numpy() for part in scale_and_shift(torch.device("cpu")))
    return settings


def _check(recipe: ViewsConfig) -> None:
    for name in ("brightness", "contrast", "saturation"):
        _within(f"photometric.{name}", getattr(recipe.photometric, name), 0, STRONGEST)
    _within("photometric.hue", recipe.photometric.hue, 0, 1)
    for level in recipe.background.fill:
        _within("background.fill", level, 0, 255)
    for name in ("large", "small"):
        _within(f"{name}.size", getattr(recipe, name).size, 1, LARGEST_VIEW)
    _within("large.count + small.count", recipe.large.count + recipe.small.count, 1, MOST_VIEWS)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # a NaN is not
        raise ValueError(
            f"{name}={value:g} is not within {low:g} and {high:g}, which the fused backend renders: change it"
        )
