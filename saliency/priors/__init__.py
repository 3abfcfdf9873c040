"""Saliency priors: what stands out in an image, with no labels and no learning.

Each is a module with a function of a prepared image (`Scene`) → saliency float32 [h, w] in [0, 1]. A new prior is one
module here and one line in PRIORS.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from saliency.priors import dsr, hs, mbd, mc, rbd
from saliency.priors.scene import SUPERPIXELS, WORKING_SIDE, Scene

Prior = Callable[[Scene], np.ndarray]

PRIORS: dict[str, Prior] = {
    "rbd": rbd.of_scene,
    "mc": mc.of_scene,
    "dsr": dsr.of_scene,
    "hs": hs.of_scene,
    "mbd": mbd.of_scene,
}
DEFAULT = ("rbd", "mc", "dsr", "hs", "mbd")


def find_priors(names: str | Sequence[str]) -> dict[str, Prior]:
    """Return the priors of those names, given as a sequence or with commas between.

    Raises:
        ValueError: there is none of that name (tells the nearest), a name stands there twice, or there are no names.
    """
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    for name in names:
        if name not in PRIORS:
            nearest = difflib.get_close_matches(name, PRIORS, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown saliency prior {name!r}: did you mean {nearest!r}? (known: {', '.join(PRIORS)})")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"saliency priors {', '.join(names)!r}: give each once, for instance {','.join(DEFAULT)}")
    return {name: PRIORS[name] for name in names}


def saliency(
    image: np.ndarray, priors: str | Sequence[str] = DEFAULT, *, side: int = WORKING_SIDE, number: int = SUPERPIXELS
) -> np.ndarray:
    """Map the saliency of an image: the mean of some priors, its threshold moved to one half.

    Args:
        image: uint8 RGB [H, W, 3].
        priors: names in PRIORS.
        side: pixels; a larger image is shrunk to that first.
        number: of superpixels, about.

    Returns:
        float32 [H, W] in [0, 1]; all 0 for an image of one colour.

    Raises:
        ValueError: not uint8 [H, W, 3], or without pixels; unknown priors.
    """
    scene = Scene(image, side, number)
    return scene.full_size(levelled(mean(scene, find_priors(priors))))


def mean(scene: Scene, priors: dict[str, Prior]) -> np.ndarray:
    """Average the maps of some priors: float32 [h, w]."""
    return sum(prior(scene) for prior in priors.values()) / np.float32(len(priors))  # type: ignore[return-value]


def levelled(saliency: np.ndarray) -> np.ndarray:
    """Move a map's own threshold (Otsu) to one half, so that one threshold serves all images.

    Otsu's threshold follows the map and has no constant to tune; the other usual choice, twice the mean, lies above
    every value of the map where the object covers more than half of the image.

    Args:
        saliency: float32 [h, w] in [0, 1].

    Returns:
        float32 [h, w]: 0 stays 0, the threshold becomes 0.5, the largest value 1, straight lines between; all 0 for a
        map without contrast.
    """
    levels = np.round(saliency * 255).astype(np.uint8)
    if np.ptp(levels) <= 1:  # one level is rounding
        return np.zeros_like(saliency)
    threshold = (cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)[0] + 0.5) / 255
    # the largest level lies above the threshold, the map's largest value perhaps half a level below it
    points = np.array([0, threshold, max(float(saliency.max()), threshold + 0.5 / 255)], np.float32)
    return np.interp(saliency, points, (0, 0.5, 1)).astype(np.float32)
