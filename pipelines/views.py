"""Draw the views: every random number of every view of a batch, before any pixel moves."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from pipelines import rng
from pipelines.config import CropConfig, ViewsConfig

KEEP, REMOVE, SWAP = 0, 1, 2
BACKGROUNDS = {"remove": REMOVE, "swap": SWAP}

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
JITTER_ORDERS = np.array(list(permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE))), np.uint8)
"""uint8 [24, 4]: row `order` of the table names the sequence in which the four jitter operations run."""

ROW = np.dtype(
    [
        ("top", np.int32),
        ("left", np.int32),
        ("height", np.int32),
        ("width", np.int32),
        ("flip", np.bool_),
        ("order", np.uint8),
        ("brightness", np.float32),
        ("contrast", np.float32),
        ("saturation", np.float32),
        ("hue", np.float32),
        ("gray", np.bool_),
        ("blur_sigma", np.float32),
        ("solarize", np.bool_),
        ("background", np.uint8),
        ("plate", np.uint32),
    ],
    align=True,
)
"""One view of one image. The meaning of every field, which all backends are held to:

top, left, height, width   integer crop box in the stored image
flip                       mirror left-right after the resize
order                      row of JITTER_ORDERS
brightness                 relicv2: added, in units of full scale (off: 0). torchvision: factor (off: 1)
contrast                   factor about the channel's mean (relicv2) or the mean gray (torchvision); off: 1
saturation                 factor on S of HSV (relicv2) or away from gray (torchvision); off: 1
hue                        shift in turns of the colour circle; off: 0
gray                       replace by luma (.2989 .5870 .1140)
blur_sigma                 Gaussian sigma in pixels of the view; off: 0
solarize                   invert values of one half and above
background                 KEEP, REMOVE (constant fill) or SWAP (plate)
plate                      random word; the plate is `plate % number of plates`
"""

# Counter fields. Adding one never shifts the draws of the others.
_AREA, _RATIO, _POSITION, _FLIP, _JITTER, _STRENGTH, _GRAY, _BLUR, _SOLARIZE, _BACKGROUND = range(10)
_BLOCKS = {
    _AREA: 3,
    _RATIO: 3,
    **dict.fromkeys((_POSITION, _FLIP, _JITTER, _STRENGTH, _GRAY, _BLUR, _SOLARIZE, _BACKGROUND), 1),
}
"""Field -> blocks of four numbers per view."""
_CROP_ATTEMPTS = 10  # torchvision's RandomResizedCrop gives up after ten boxes that do not fit


def draw(
    recipe: ViewsConfig,
    *,
    seed: int,
    epoch: int,
    indices: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
) -> np.ndarray:
    """Draw all views of a batch.

    Args:
        recipe: what to draw.
        seed: seed of the run, in [0, 2**64).
        epoch: number of the pass.
        indices: int64 [batch], positions of the images in the data set.
        heights: int [batch], sides of the stored images in pixels.
        widths: int [batch].

    Returns:
        `ROW` [batch, large.count + small.count], large views first.
    """
    counts = (recipe.large.count, recipe.small.count)
    table = np.zeros((len(indices), sum(counts)), ROW)
    views = np.arange(sum(counts))

    drawn = rng.uniform(seed=seed, epoch=epoch, index=np.asarray(indices)[:, None], view=views, blocks=_BLOCKS)
    heights, widths = np.asarray(heights, np.int64)[:, None], np.asarray(widths, np.int64)[:, None]
    first = 0
    for crop in (recipe.large, recipe.small):
        span = slice(first, first + crop.count)
        boxes = (
            _center_boxes(crop, heights, widths)
            if crop.placement == "center"
            else _random_boxes(crop, heights, widths, *(drawn[field][:, span] for field in (_AREA, _RATIO, _POSITION)))
        )
        for name, value in zip(("top", "left", "height", "width"), boxes, strict=True):
            table[name][:, span] = value
        first += crop.count

    _draw_photometric(table, recipe, views, drawn)
    background = drawn[_BACKGROUND]
    is_large = views < recipe.large.count
    chosen = (background[..., 0] < recipe.background.chance) & is_large
    table["background"] = np.where(chosen, BACKGROUNDS[recipe.background.mode], KEEP)
    table["plate"] = np.where(chosen, (background[..., 1] * 2.0**32).astype(np.uint32), 0)
    return table


def _draw_photometric(table: np.ndarray, recipe: ViewsConfig, views: np.ndarray, drawn: dict[int, np.ndarray]) -> None:
    photometric = recipe.photometric
    is_even = views % 2  # views count from one: the first is odd
    table["flip"] = drawn[_FLIP][..., 0] < photometric.flip

    jitter, strength = drawn[_JITTER], 2.0 * drawn[_STRENGTH] - 1.0
    jittered = jitter[..., 0] < photometric.jitter_chance
    table["order"] = np.where(jittered, (jitter[..., 1] * len(JITTER_ORDERS)).astype(np.uint8), 0)
    brightness_off = 0.0 if photometric.jitter == "relicv2" else 1.0
    for column, (name, largest, off) in enumerate(
        (
            ("brightness", photometric.brightness, brightness_off),
            ("contrast", photometric.contrast, 1.0),
            ("saturation", photometric.saturation, 1.0),
            ("hue", photometric.hue, 0.0),
        )
    ):
        table[name] = off + np.where(jittered, largest * strength[..., column], 0.0)

    table["gray"] = drawn[_GRAY][..., 0] < photometric.grayscale
    blur = drawn[_BLUR]
    smallest, largest = photometric.blur_sigma
    blurred = blur[..., 0] < np.asarray(photometric.blur)[is_even]
    table["blur_sigma"] = np.where(blurred, smallest + (largest - smallest) * blur[..., 1], 0.0)
    table["solarize"] = drawn[_SOLARIZE][..., 0] < np.asarray(photometric.solarize)[is_even]


def _random_boxes(
    crop: CropConfig,
    heights: np.ndarray,
    widths: np.ndarray,
    area: np.ndarray,
    ratio: np.ndarray,
    position: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """torchvision's RandomResizedCrop, all attempts at once: the first box that fits, else the central fallback."""
    smallest, largest = crop.area
    log_low, log_high = np.log(crop.ratio)
    areas = (heights * widths)[..., None] * (smallest + (largest - smallest) * area[..., :_CROP_ATTEMPTS])
    ratios = np.exp(log_low + (log_high - log_low) * ratio[..., :_CROP_ATTEMPTS])
    box_widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    box_heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    fits = (box_widths > 0) & (box_widths <= widths[..., None])
    fits &= (box_heights > 0) & (box_heights <= heights[..., None])
    first = fits.argmax(-1)[..., None]
    width = np.take_along_axis(box_widths, first, -1)[..., 0]
    height = np.take_along_axis(box_heights, first, -1)[..., 0]

    some_fit = fits.any(-1)
    fallback_height, fallback_width = _fallback_box(crop, heights, widths)
    height = np.where(some_fit, height, fallback_height)
    width = np.where(some_fit, width, fallback_width)
    top = np.where(some_fit, position[..., 0] * (heights - height + 1), (heights - height) // 2)
    left = np.where(some_fit, position[..., 1] * (widths - width + 1), (widths - width) // 2)
    return top.astype(np.int64), left.astype(np.int64), height, width


def _fallback_box(crop: CropConfig, heights: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest central box of an allowed ratio."""
    narrowest, widest = crop.ratio
    image_ratio = widths / heights
    height = np.where(image_ratio < narrowest, np.rint(widths / narrowest).astype(np.int64), heights)
    width = np.where(image_ratio > widest, np.rint(heights * widest).astype(np.int64), widths)
    return np.clip(height, 1, heights), np.clip(width, 1, widths)


def _center_boxes(crop: CropConfig, heights: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, ...]:
    side = np.maximum(np.rint(crop.center_share * np.minimum(heights, widths)).astype(np.int64), 1)
    return (heights - side) // 2, (widths - side) // 2, side, side
