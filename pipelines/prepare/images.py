"""One image file to what a beton stores of it: its own JPEG bytes, exact pixels, or a smaller JPEG."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from PIL import Image, UnidentifiedImageError

from pipelines.beton import JPEG, MAX_PAGE_SIZE, MAX_SIDE, RAW
from pipelines.prepare import jpeg

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF")
# ImageNet has one honest image of 70 megapixels, scans reach 300; Pillow warns at 89. Above this (1.6 GB of
# pixels) a file is taken for a decompression bomb.
MAX_PIXELS = 1 << 29

Orientation = Image.Transpose
# EXIF orientation to what makes it upright (Exif 2.32, 4.6.4, tag 0x0112).
_UPRIGHT = {
    2: Orientation.FLIP_LEFT_RIGHT,
    3: Orientation.ROTATE_180,
    4: Orientation.FLIP_TOP_BOTTOM,
    5: Orientation.TRANSPOSE,
    6: Orientation.ROTATE_270,
    7: Orientation.TRANSVERSE,
    8: Orientation.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """How images are stored."""

    page_size: int
    """Bytes of a page, the most that one image may take."""
    max_side: int | None = None
    """Images whose longer side exceeds this are made smaller (antialiased) and stored as JPEG; others not."""
    quality: int = 90
    """JPEG quality of what `max_side` makes smaller."""
    exif: Literal["upright", "ignore"] = "ignore"
    """`ignore` leaves a turned image as torchvision's loader reads it; `upright` stores its upright pixels."""
    verify: Literal["full", "header"] = "header"
    """`header` looks whether a JPEG is whole, which finds every cut; `full` decodes it, which finds damage too."""


class Rejected(ValueError):
    """An image that is not stored. The message is "kind: detail" or "kind"; summaries count kinds."""


class Stored(NamedTuple):
    """What the sample table says of one image (mode, width, height) and its payload."""

    mode: int
    width: int
    height: int
    payload: bytes


def store(data: bytes, treatment: Treatment) -> Stored:
    """Decide what is stored of an image file; raises `Rejected` with the reason where nothing can be.

    A JPEG of one or three components keeps its bytes. CMYK is stored as the pixels of Pillow's
    `convert("RGB")` (other decoders give other pixels or none), and so is every other format, and a turned
    JPEG in exact pixels.
    """
    if not data:
        raise Rejected("empty file")
    if data[:2] != b"\xff\xd8":
        return _store_pixels(data, treatment, orientation=None)
    try:
        header = jpeg.read_header(data)
        _check_size(header.width, header.height)
        if header.precision != 8:
            raise Rejected(f"more than 8 bits per channel: {header.precision} bits")
        jpeg.check_whole(data, header)
        if treatment.verify == "full" and header.common:
            jpeg.check_decodes(data)
    except Rejected:
        raise
    except ValueError as error:
        raise Rejected(_reason(str(error))) from None
    orientation = header.orientation if treatment.exif == "upright" else 1
    as_it_is = header.common and header.components in (1, 3) and orientation == 1
    if as_it_is and not _is_larger(header.width, header.height, treatment):
        _check_page(len(data), "the file takes", treatment)
        return Stored(JPEG, header.width, header.height, data)
    return _store_pixels(data, treatment, orientation=orientation)


def _store_pixels(data: bytes, treatment: Treatment, *, orientation: int | None) -> Stored:
    """Decode with Pillow and store pixels or a JPEG made of them; `orientation` None is looked up in the
    file.
    """
    with _deliberate_pillow():
        try:
            return _decode_and_store(data, treatment, orientation)
        except Rejected:
            raise
        except UnidentifiedImageError:
            raise Rejected("not a JPEG, PNG, BMP, WebP or GIF") from None
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise Rejected(_reason(str(error))) from None
        except (
            IndexError,
            KeyError,
            TypeError,
            AttributeError,
            MemoryError,
            OverflowError,
            EOFError,
        ) as error:
            # What Pillow's plugins raise on some broken files instead of an OSError.
            raise Rejected(f"damaged: {error!r}") from None


def _decode_and_store(data: bytes, treatment: Treatment, orientation: int | None) -> Stored:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(image.width, image.height)
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise Rejected(f"animated: {getattr(image, 'n_frames', 0)} frames")
        if image.mode[0] in "IF" or (image.format == "PNG" and data[24] > 8):  # byte 24: bit depth, PNG 11.2.2
            raise Rejected("more than 8 bits per channel")
        if orientation is None:
            orientation = _orientation(image) if treatment.exif == "upright" else 1
        larger = _is_larger(image.width, image.height, treatment)
        remade = larger or (treatment.max_side is not None and orientation != 1)
        if not remade:
            _check_page(3 * image.width * image.height, "its pixels take", treatment)
        if image.format == "PNG":
            with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
                again.verify()  # decoding alone does not look at the checksums of pixel data
        image.load()
        pixels = _without_alpha(image)
    if larger and treatment.max_side is not None:
        scale = treatment.max_side / max(pixels.size)
        size = (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale)))
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    if orientation in _UPRIGHT:
        pixels = pixels.transpose(_UPRIGHT[orientation])
    if not remade:
        return Stored(RAW, pixels.width, pixels.height, pixels.convert("RGB").tobytes())
    file = io.BytesIO()
    pixels.save(file, "JPEG", quality=treatment.quality)
    _check_page(file.tell(), "it takes", treatment)
    return Stored(JPEG, pixels.width, pixels.height, file.getvalue())


def _without_alpha(image: Image.Image) -> Image.Image:
    """Give a gray or RGB image; transparency that shows is refused, since no background would be the right
    one.
    """
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A").getextrema()
        if alpha != (255, 255):
            raise Rejected(f"transparent: alpha from {alpha[0]} to {alpha[1]}")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # whatever a broken EXIF block raises, the image is read as it stands
        return 1
    return value if value in _UPRIGHT else 1


def _is_larger(width: int, height: int, treatment: Treatment) -> bool:
    return treatment.max_side is not None and max(width, height) > treatment.max_side


def _check_size(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise Rejected(f"too large: {width} x {height} pixels, the format keeps sides up to {MAX_SIDE:,}")
    if width * height > MAX_PIXELS:
        raise Rejected(f"too large: {width} x {height} pixels, more than {MAX_PIXELS:,}")


def _check_page(size: int, what: str, treatment: Treatment) -> None:
    if size <= treatment.page_size:
        return
    needed = 1 << (size - 1).bit_length()
    mend = f"--page-size {needed >> 20}MiB or --max-side" if needed <= MAX_PAGE_SIZE else "--max-side"
    page = treatment.page_size >> 20
    raise Rejected(f"does not fit a page: {what} {size:,} bytes, a page has {page} MiB; use {mend}")


def _reason(message: str) -> str:
    cut = ("truncated", "premature end", "not enough image data", "unexpected end")
    kind = "truncated" if any(word in message.lower() for word in cut) else "damaged"
    return message if message.startswith(kind) else f"{kind}: {message}"


@contextlib.contextmanager
def _deliberate_pillow() -> Iterator[None]:
    """Lift Pillow's limit on pixels (ours is checked instead) and keep its warnings about metadata to
    itself.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
