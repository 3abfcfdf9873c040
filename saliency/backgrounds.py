"""Background plates: photographs whose salient object is filled in from around it, small, for `background.mode=swap`.

A plate must not carry its own object into other images' views. So the object's pixels, mask and margin, get the weight
0 before anything is averaged: shrinking and filling then cannot spread them, however the filter is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from saliency.store import SIDE, AnyMaskStore


@dataclass(frozen=True, kw_only=True)
class PlatesConfig:
    """Which plates are made."""

    count: int = 1024
    """Most plates; a data set with fewer donors gives fewer."""
    side: int = 160
    """Height and width in pixels; a view stretches its plate over itself."""
    margin: float = 0.04
    """Width around the mask that is filled too, as a share of the image's side: masks miss edges and JPEG spreads
    colours."""
    largest_share: float = 0.3
    """Largest share of the image that may be filled: beyond it a plate is more filling than photograph."""
    seed: int = 0
    """Seed of the choice of donors."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.side < 8:
            raise ValueError(f"count={self.count}, side={self.side}: give at least 1 plate of 8 pixels")
        if not 0 <= self.margin < 0.5 or not 0 < self.largest_share < 1:
            raise ValueError(
                f"margin={self.margin:g}, largest_share={self.largest_share:g}: give a margin in [0, 0.5), a share in"
                " (0, 1)"
            )


def make_plates(
    masks: AnyMaskStore,
    read: Callable[[int], np.ndarray],
    config: PlatesConfig,
    on_progress: Callable[[int], None] = lambda number: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Make plates of images that lie evenly over the data set, in memory for the plates alone.

    The images are divided into `count` stretches. Each gives one plate: from a seeded place in it on, the first image
    that has a mask, whose mask with its margin is small enough, and that decodes. So every part of a data set that
    is sorted by class gives its share, without a look at labels.

    Args:
        masks: of these images.
        read: index → uint8 RGB [H, W, 3]; ValueError where the image is damaged, which passes it over.
        config: which plates.
        on_progress: called with the number of stretches just done.

    Returns:
        uint8 [P, side, side, 3], P up to `count`, and int64 [P], the donors' indices. The same for the same arguments.

    Raises:
        ValueError: no image gave a plate.
    """
    stretches = min(config.count, masks.num_images)
    edges = np.linspace(0, masks.num_images, stretches + 1).astype(np.int64)
    starts = np.random.default_rng(config.seed).random(stretches)
    plates, donors = [], []
    for first, last, start in zip(edges[:-1], edges[1:], starts, strict=True):
        made = _first_plate(masks, read, config, int(first), int(last), float(start))
        if made is not None:
            donors.append(made[0])
            plates.append(made[1])
        on_progress(1)
    if not plates:
        raise ValueError(
            f"{masks.path}: none of its {masks.num_images:,} images gives a plate (it needs a mask that, with its"
            f" margin, covers at most {config.largest_share:.0%}): allow a larger share"
        )
    return np.stack(plates), np.array(donors, np.int64)


def _first_plate(
    masks: AnyMaskStore, read: Callable[[int], np.ndarray], config: PlatesConfig, first: int, last: int, start: float
) -> tuple[int, np.ndarray] | None:
    """Return the first donor of a stretch and its plate; the search begins at `start` of it and goes around."""
    length = last - first
    for step in range(length):
        index = first + (int(start * length) + step) % length
        if masks.absent[index]:
            continue
        covered = dilated(masks.mask(index), config.margin)
        if covered.mean() > config.largest_share:
            continue
        try:
            image = read(index)
        except ValueError:
            continue
        return index, plate(image, covered, config.side)
    return None


def dilated(mask: np.ndarray, margin: float) -> np.ndarray:
    """Widen a bool mask [128, 128] by a share of the image's side, and by one cell at least.

    A cell is salient where the most of it is, so that the object can reach into the next one.
    """
    radius = max(round(margin * SIDE), 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), disc) > 0


def plate(image: np.ndarray, covered: np.ndarray, side: int) -> np.ndarray:
    """Shrink an image to a plate and fill what is covered from around it.

    Args:
        image: uint8 RGB [H, W, 3].
        covered: bool [h, w] over the whole image, True = not to be seen in the plate; not all True.
        side: of the plate.

    Returns:
        uint8 [side, side, 3]. No pixel that `covered` touches has any influence on it.
    """
    height, width = image.shape[:2]
    # Every cell that a pixel touches counts: enlarging and shrinking linearly leave 0 only where all of them are 0.
    seen = (_resized(covered.astype(np.float32)[..., None], height, width) == 0).astype(np.float32)
    filled = _push_pull(_resized(image * seen, side, side), _resized(seen, side, side))
    return np.clip(np.round(filled), 0, 255).astype(np.uint8)


def _push_pull(colors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fill in what has little weight from ever coarser pictures (Gortler et al., The Lumigraph, SIGGRAPH 1996, 3.4).

    Args:
        colors: float32 [H, W, 3], each pixel's colour times its weight.
        weight: float32 [H, W, 1] in [0, 1], not 0 everywhere.

    Returns:
        float32 [H, W, 3], colours.
    """
    height, width = weight.shape[:2]
    if height == width == 1 or weight.min() >= 1:
        return colors / weight
    half = (height + 1) // 2, (width + 1) // 2
    summed = 4 * _resized(weight, *half)  # of the four pixels below; one that is known suffices
    enough = np.minimum(summed, 1)
    coarse = _push_pull(4 * _resized(colors, *half) * enough / np.maximum(summed, 1e-30), enough)
    return colors + (1 - weight) * _resized(coarse, height, width)


def _resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize float32 [h, w, channels], averaging along an axis that shrinks, linearly along one that grows."""
    channels = picture.shape[2]
    for shape in ((picture.shape[0], width), (height, width)):
        shrinks = shape[0] < picture.shape[0] or shape[1] < picture.shape[1]
        filter_ = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        picture = cv2.resize(picture, shape[::-1], interpolation=filter_).reshape(*shape, channels)
    return picture
