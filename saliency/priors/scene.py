"""An image as the saliency priors see it: shrunk, without its frame, in CIE Lab, divided into superpixels; each made
once for all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import cv2
import numpy as np

from saliency.priors.frame import find_frame
from saliency.priors.superpixels import Superpixels, segment

WORKING_SIDE = 300  # pixels of the longer side; larger images are shrunk first
SUPERPIXELS = 250  # as MC has it; RBD takes about 200, and so both share one segmentation
FLAT = 1e-3  # Lab; colours nearer than that differ by rounding only


class Scene:
    """What several priors want of one image."""

    rgb: np.ndarray
    """uint8 [h, w, 3], at most `side` pixels high and wide; a frame around the picture is cut off."""
    whole: np.ndarray
    """uint8: the same with its frame."""
    lab: np.ndarray
    """float32 [h, w, 3]: CIE Lab of `rgb`, L in 0 … 100."""

    def __init__(self, image: np.ndarray, side: int = WORKING_SIDE, number: int = SUPERPIXELS) -> None:
        """Shrink an image to a working size and cut off its frame.

        Args:
            image: uint8 RGB [H, W, 3].
            side: pixels; longer sides are shrunk to that.
            number: of superpixels, about.

        Raises:
            ValueError: not uint8 [H, W, 3], or without pixels.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(
                f"an image for a saliency prior is uint8 [H, W, 3]; this one is {image.dtype} {image.shape}"
            )
        self._height, self._width = image.shape[:2]
        shrink = min(1.0, side / max(image.shape[:2]))
        size = max(1, round(self._width * shrink)), max(1, round(self._height * shrink))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if shrink < 1 else image
        self.whole = small
        self._frame = find_frame(small)
        height, width = small.shape[:2]
        inner = small[self._frame.top : height - self._frame.bottom, self._frame.left : width - self._frame.right]
        self.rgb = np.ascontiguousarray(inner)
        self.lab = cv2.cvtColor(self.rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        self._number = number

    @cached_property
    def superpixels(self) -> Superpixels:
        """The image's superpixels; made when first asked for."""
        return segment(self.rgb, self.lab, self._number)

    def framed(self, saliency: np.ndarray) -> np.ndarray:
        """Put the frame around a map float32 [h, w], at the working size; nothing of it is salient."""
        return np.pad(saliency, (self._frame[:2], self._frame[2:]))

    def full_size(self, saliency: np.ndarray) -> np.ndarray:
        """Enlarge a map float32 [h, w] to the image's own size, float32 [H, W]; its frame is not salient."""
        return cv2.resize(self.framed(saliency), (self._width, self._height), interpolation=cv2.INTER_LINEAR)


def of_image(prior: Callable[[Scene], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Map an image by one prior.

    Args:
        prior: a prepared image → float32 [h, w] in [0, 1].
        image: uint8 RGB [H, W, 3].

    Returns:
        float32 [H, W] in [0, 1]; all 0 for an image of one colour.

    Raises:
        ValueError: not uint8 [H, W, 3], or without pixels.
    """
    scene = Scene(image)
    return scene.full_size(prior(scene))


def stretched(values: np.ndarray) -> np.ndarray:
    """Stretch an array to 0 … 1; one whose values are all the same becomes 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
