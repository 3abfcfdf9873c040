"""albumentations' functions (OpenCV on uint8 arrays), driven by the rows."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from albucore import normalize
from albumentations.augmentations.blur.functional import create_gaussian_kernel_1d
from albumentations.augmentations.geometric.functional import hflip, resize
from albumentations.augmentations.pixel import functional

from benchmarks.image_by_image import ImageByImage, array_buffers, view_by_view
from benchmarks.rows import box, jitter_steps
from benchmarks.work import Work
from pipelines.config import IMAGENET_MEAN, IMAGENET_STD
from pipelines.views import BRIGHTNESS, CONTRAST, HUE, SATURATION

ADJUST: dict[int, Any] = {
    BRIGHTNESS: functional.adjust_brightness_torchvision,
    CONTRAST: functional.adjust_contrast_torchvision,
    SATURATION: functional.adjust_saturation_torchvision,
    HUE: functional.adjust_hue_torchvision,
}
MEAN = np.array(IMAGENET_MEAN, np.float32) * 255
FACTOR = 1 / (np.array(IMAGENET_STD, np.float32) * 255)
NOTE = "OpenCV has no antialiased bicubic: area where a crop shrinks, plain bicubic where it grows"


def prepare(work: Work) -> ImageByImage:
    """Make normalised float32 views; OpenCV decodes."""
    cv2.setNumThreads(1)  # threads work on images
    jpegs = [np.frombuffer(jpeg, np.uint8) for jpeg in work.jpegs]

    def decode(index: int) -> np.ndarray:
        return cv2.imdecode(jpegs[index], cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)

    def make(image: np.ndarray, row: np.void, size: int) -> np.ndarray:
        return normalize(_view(image, row, size), MEAN, FACTOR)

    return view_by_view(work, decode, make, array_buffers(work), note=NOTE)


def _view(image: np.ndarray, row: np.void, size: int) -> np.ndarray:
    top, left, height, width = box(row)
    crop = image[top : top + height, left : left + width]
    shrinks = min(height, width) >= size
    view = resize(crop, (size, size), cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    if row["flip"]:
        view = hflip(view)
    for operation, strength in jitter_steps(row):
        view = ADJUST[operation](view, strength)
    if row["gray"]:
        view = functional.to_gray(view, 3, "weighted_average")
    if row["blur_sigma"] > 0:
        view = functional.separable_convolve(view, create_gaussian_kernel_1d(float(row["blur_sigma"])))
    return functional.solarize(view, 0.5) if row["solarize"] else view
