"""What a JPEG file says about itself before any pixel is decoded, and whether it is whole (ITU-T T.81,
annex B).
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

import simplejpeg

SOI, EOI, SOS, APP1 = 0xD8, 0xD9, 0xDA, 0xE1
# Frames that hold Huffman coded DCT blocks: baseline, extended, progressive. The rest (lossless,
# hierarchical, arithmetic) is nothing that GPU decoders or FFCV read.
DCT_FRAMES = (0xC0, 0xC1, 0xC2)
OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
# In entropy coded data FF is followed by a stuffed 00 or a restart marker; anything else ends the scan.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_ORIENTATION_TAG = 0x0112


class JpegHeader(NamedTuple):
    """Width and height in pixels; components 1 (gray), 3 or 4 (CMYK); bits per component; whether a common
    decoder reads the frame type; EXIF orientation 1 to 8; position of the first scan's data.
    """

    width: int
    height: int
    components: int
    precision: int
    common: bool
    orientation: int
    scan: int


def read_header(data: bytes | memoryview) -> JpegHeader:
    """Parse the segments up to the first scan; ValueError says what is missing or wrong.

    A broken EXIF block counts as orientation 1, as in every viewer.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        raise ValueError("does not begin as a JPEG")
    position, frame, orientation, end = 2, None, 1, len(data)
    while position + 4 <= end:
        if data[position] != 0xFF:
            raise ValueError(f"no marker where one must stand, at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte before a marker
            position += 1
            continue
        if marker == EOI:
            break
        if 0xD0 <= marker <= SOI or marker == 0x01:  # markers without a segment
            position += 2
            continue
        body, position = position + 4, position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if position < body or position > end:
            raise ValueError("truncated within its header")
        if marker in DCT_FRAMES or marker in OTHER_FRAMES:
            if position < body + 6:
                raise ValueError("its frame header is too short")
            frame = (*struct.unpack(">BHHB", data[body : body + 6]), marker in DCT_FRAMES)
        elif marker == APP1 and bytes(data[body : body + 6]) == b"Exif\0\0":
            orientation = _exif_orientation(bytes(data[body + 6 : position]))
        elif marker == SOS:
            if frame is None:
                raise ValueError("has a scan before any frame header")
            precision, height, width, components, common = frame
            if width == 0 or height == 0:
                raise ValueError(f"says that it is {width} x {height} pixels")
            return JpegHeader(width, height, components, precision, common, orientation, position)
    raise ValueError("truncated before its first scan")


def check_whole(data: bytes, header: JpegHeader) -> None:
    """Raise ValueError where the file ends before its end-of-image marker.

    A cut anywhere is noticed, since the marker cannot occur within entropy coded data; damage in the middle
    that leaves the end in place is not: see `check_decodes`.
    """
    if data.endswith(b"\xff\xd9") and len(data) >= header.scan + 2:
        return
    position = header.scan
    while match := _AFTER_SCAN.search(data, position):
        marker, position = data[match.start() + 1], match.end()
        if marker == EOI:
            return
        # Tables and further scan headers between the scans of a progressive file.
        position += int.from_bytes(data[position : position + 2], "big")
    raise ValueError("truncated: it has no end-of-image marker")


def check_decodes(data: bytes | memoryview) -> None:
    """Raise ValueError with the decoder's own words where libjpeg-turbo errs or warns anywhere in the file.

    All entropy coded data is read, but pixels are made at an eighth of the size (1.4 times as fast as in
    full).
    """
    simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)


def _exif_orientation(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "L", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHLH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
