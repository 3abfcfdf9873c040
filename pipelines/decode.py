"""JPEG bytes to pixels: the reference by Pillow, the fused path by libjpeg-turbo into a reused buffer."""

from __future__ import annotations

import io
import threading
import warnings

import numpy as np
import simplejpeg
from PIL import Image

from pipelines.shards import AnyBeton

_thread = threading.local()


class CorruptImageError(ValueError):
    """A stored image does not decode; the message names its index and file, and the mend."""


def reference(beton: AnyBeton, index: int) -> np.ndarray:
    """Decode with Pillow, as torchvision's image folder does.

    Returns:
        uint8 [H, W, 3], owned by the caller.

    Raises:
        CorruptImageError: the image does not decode.
    """
    if not beton.is_jpeg(index):
        return np.array(beton.pixels(index))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF; the beton's orientation is settled at conversion
            image = np.array(Image.open(io.BytesIO(beton.jpeg(index))).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise corrupt(beton, index, error) from error
    return _of_listed_size(beton, index, image)


def fused(beton: AnyBeton, index: int) -> np.ndarray:
    """Decode with libjpeg-turbo (accurate DCT, smooth upsampling: the same pixels as the reference).

    Returns:
        uint8 [H, W, 3], valid until this thread decodes again.

    Raises:
        CorruptImageError: the image does not decode.
    """
    if not beton.is_jpeg(index):
        return beton.pixels(index).copy()  # torch refuses to look at the file's own, read-only pages
    size = int(beton.heights[index]) * int(beton.widths[index]) * 3
    buffer = getattr(_thread, "buffer", None)
    if buffer is None or len(buffer) < size:
        buffer = _thread.buffer = bytearray(size)
    try:
        # strict: a warning of the decoder (truncation, damage) is an error, never silently gray or stale pixels
        image = simplejpeg.decode_jpeg(beton.jpeg(index), "RGB", fastdct=False, fastupsample=False, buffer=buffer)
    except ValueError as error:
        raise corrupt(beton, index, error) from error
    return _of_listed_size(beton, index, image)


def header_checked(beton: AnyBeton, index: int) -> memoryview:
    """Return a stored JPEG whose header says what the beton does, for decoders that know nothing of a beton.

    Raises:
        CorruptImageError: it is no JPEG, or of another size.
    """
    data = beton.jpeg(index)
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise corrupt(beton, index, error) from error
    _check_size(beton, index, height, width)
    return data


def _of_listed_size(beton: AnyBeton, index: int, image: np.ndarray) -> np.ndarray:
    _check_size(beton, index, *image.shape[:2])
    return image


def _check_size(beton: AnyBeton, index: int, height: int, width: int) -> None:
    """Raise where an image is not of the size that the beton lists, for which boxes were drawn: that is damage."""
    listed = int(beton.heights[index]), int(beton.widths[index])
    if (height, width) != listed:
        raise corrupt(beton, index, f"it is {height} x {width} pixels, listed as {listed[0]} x {listed[1]}")


def corrupt(beton: AnyBeton, index: int, reason: object) -> CorruptImageError:
    """Return the error that names a sample that does not decode."""
    return CorruptImageError(
        f"image {index} of {beton.path} does not decode ({reason}): run `relic data check {beton.path}` to list all"
        " such images, or train with on_corrupt=skip (backend fused)"
    )
