"""The decoder of `pipelines.decode.fused` with its flags, without a beton around it: the unit of all comparisons."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import simplejpeg

_thread = threading.local()


def largest_bytes(jpegs: Sequence[bytes]) -> int:
    """Return the bytes of the largest decoded image."""
    return max(height * width * 3 for height, width in map(size_of, jpegs))


def size_of(jpeg: bytes) -> tuple[int, int]:
    """Return (height, width) in pixels; raises ValueError for what is no JPEG."""
    height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
    return height, width


def decode(jpeg: bytes, buffer_bytes: int) -> np.ndarray:
    """Decode to uint8 [H, W, 3] in this thread's buffer, valid until this thread decodes again.

    Args:
        jpeg: the file.
        buffer_bytes: what the buffer must hold at least; the same in every call spares new buffers.
    """
    buffer = getattr(_thread, "buffer", None)
    if buffer is None or len(buffer) < buffer_bytes:
        buffer = _thread.buffer = bytearray(buffer_bytes)
    return simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=False, fastupsample=False, buffer=buffer)
