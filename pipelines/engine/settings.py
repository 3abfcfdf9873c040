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


def settings_of(recipe: ViewsConfig, *, photometric: bool = True, output: Output = "uint8") -> np.ndarray:
    """Return `SETTINGS` [1].

    Args:
        recipe: interpolation, jitter mode and fill are taken from it.
        photometric: False stops after the background: no jitter, grayscale, blur or solarize.
        output: uint8 grey levels, or normalised as `pipelines.ops.normalize` does.

    Raises:
        ValueError: a jitter strength that the engine's fixed-point factors cannot hold.
    """
    for name in ("brightness", "contrast", "saturation"):
        if (strength := getattr(recipe.photometric, name)) > STRONGEST:
            raise ValueError(
                f"photometric.{name}={strength:g} is more than the fused backend renders (at most {STRONGEST:g}):"
                " lower it, or take backend=reference"
            )
    settings = np.zeros(1, SETTINGS)
    settings["interpolation"] = recipe.interpolation == "bilinear"
    settings["jitter"] = recipe.photometric.jitter == "torchvision"
    settings["photometric"] = photometric
    settings["output"] = OUTPUTS.index(output)
    settings["fill"] = recipe.background.fill
    settings["orders"] = views.JITTER_ORDERS
    settings["scale"], settings["shift"] = (part.numpy() for part in scale_and_shift(torch.device("cpu")))
    return settings
