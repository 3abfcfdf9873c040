"""What is stored of each kind of image file, and what is not and why."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from making import decoded, encoded, pixels, with_orientation
from PIL import Image, ImageOps

from pipelines.beton import JPEG, RAW
from pipelines.prepare.images import Rejected, Stored, Treatment, store
from pipelines.prepare.jpeg import check_decodes, check_whole, read_header

MIB = 1 << 20
AS_IT_IS = Treatment(page_size=8 * MIB, verify="full")
PHOTO = encoded(60, 80, 1)


def array(stored: Stored) -> np.ndarray:
    assert stored.mode == RAW
    return np.frombuffer(stored.payload, np.uint8).reshape(stored.height, stored.width, 3)


def reason(data: bytes, treatment: Treatment = AS_IT_IS) -> str:
    with pytest.raises(Rejected) as error:
        store(data, treatment)
    assert "\n" not in str(error.value)
    return str(error.value)


def difference(data: bytes, image: Image.Image) -> float:
    """Return the mean distance in gray; JPEG halves the resolution of colour."""
    gray = Image.open(io.BytesIO(data)).convert("L")
    return float(np.abs(np.asarray(gray, np.int16) - np.asarray(image.convert("L"), np.int16)).mean())


@pytest.mark.parametrize("verify", ["full", "header"])
@pytest.mark.parametrize(
    "data",
    [
        PHOTO,
        encoded(60, 80, 1, mode="L"),
        encoded(60, 80, 1, progressive=True),
        encoded(60, 80, 1, restart_marker_blocks=2),
        encoded(1, 1),
        PHOTO + b"anything after the end",
        PHOTO + bytes(100),
        encoded(60, 80, 1, progressive=True) + bytes(100),
    ],
    ids=["rgb", "gray", "progressive", "restarts", "one pixel", "tail", "zeros", "progressive zeros"],
)
def test_jpegs_keep_their_bytes(data: bytes, verify) -> None:
    stored = store(data, replace(AS_IT_IS, verify=verify))
    height, width = decoded(data).shape[:2]
    assert stored == Stored(JPEG, width, height, data)


@pytest.mark.parametrize(
    ("mode", "file_format", "save"),
    [
        ("RGB", "PNG", {}),
        ("L", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("RGB", "BMP", {}),
        ("L", "BMP", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "WEBP", {"quality": 80}),
        ("P", "GIF", {}),
        ("L", "GIF", {}),
    ],
)
def test_other_formats_are_stored_as_the_pixels_torchvision_reads(mode: str, file_format: str, save) -> None:
    data = encoded(19, 23, 2, mode=mode, file_format=file_format, **save)
    np.testing.assert_array_equal(array(store(data, AS_IT_IS)), decoded(data))


def test_cmyk_is_stored_as_pillow_converts_it() -> None:
    data = encoded(24, 32, 3, mode="CMYK")
    assert read_header(data).components == 4
    np.testing.assert_array_equal(array(store(data, AS_IT_IS)), decoded(data))


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_turned_photographs_are_stored_upright_or_ignored(orientation: int, file_format: str) -> None:
    data = encoded(20, 30, 4, file_format=file_format, exif=with_orientation(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright is not None
    np.testing.assert_array_equal(
        array(store(data, replace(AS_IT_IS, exif="upright"))), np.asarray(upright.convert("RGB"))
    )
    ignored = store(data, AS_IT_IS)
    if file_format == "JPEG":
        assert ignored == Stored(JPEG, 30, 20, data)
    else:
        np.testing.assert_array_equal(array(ignored), decoded(data))


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_in_both_byte_orders(order: str) -> None:
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "LHHHLHH", 8, 1, 0x0112, 3, 1, 6, 0)
    assert read_header(_with_exif(tiff)).orientation == 6


@pytest.mark.parametrize(
    "tiff",
    [
        b"",
        b"XX*\0" + bytes(20),
        b"II*\0\xff\xff\xff\xff",
        b"II*\0" + struct.pack("<LH", 8, 500),
        b"II*\0" + struct.pack("<LHHHLHH", 8, 1, 0x0112, 3, 1, 9, 0),
        b"II*\0" + struct.pack("<LHHHLHH", 8, 1, 0x0112, 2, 1, 6, 0),
    ],
)
def test_broken_exif_is_orientation_1(tiff: bytes) -> None:
    data = _with_exif(tiff)
    assert read_header(data).orientation == 1
    assert store(data, AS_IT_IS).payload == data


def _with_exif(tiff: bytes) -> bytes:
    block = b"Exif\0\0" + tiff
    return PHOTO[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + PHOTO[2:]


@pytest.mark.parametrize("verify", ["full", "header"])
def test_a_cut_jpeg_is_rejected_wherever_it_is_cut(verify) -> None:
    photo = encoded(24, 24, 1, quality=50)
    for end in range(len(photo)):
        treatment = replace(AS_IT_IS, verify=verify)
        assert reason(photo[:end], treatment).startswith(("truncated", "empty", "not a JPEG"))
        assert reason(photo[:end] + bytes(len(photo) - end), treatment)


@pytest.mark.parametrize("verify", ["full", "header"])
def test_a_cut_jpeg_with_a_thumbnail_is_rejected(verify) -> None:
    """The thumbnail in the EXIF block ends with an end-of-image marker of its own."""
    thumbnail = encoded(16, 16, 5)
    data = _with_exif(thumbnail)
    for end in (data.index(thumbnail) + len(thumbnail), len(data) - 2):
        assert reason(data[:end], replace(AS_IT_IS, verify=verify)).startswith("truncated")


def test_a_cut_progressive_jpeg_is_rejected_between_its_scans() -> None:
    data = encoded(60, 80, 1, progressive=True)
    scans = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xda"]
    assert len(scans) > 3
    for scan in scans[1:]:
        assert reason(data[:scan], replace(AS_IT_IS, verify="header")).startswith("truncated")


def test_damage_in_the_middle_is_found_by_full_verification_only() -> None:
    data = bytearray(encoded(120, 160, 6, quality=95))
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    assert store(bytes(data), replace(AS_IT_IS, verify="header")).mode == JPEG
    assert reason(bytes(data)).startswith(("damaged", "truncated"))
    with pytest.raises(ValueError, match="Corrupt JPEG data"):
        check_decodes(bytes(data))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (b"hello", "not a JPEG, PNG, BMP, WebP or GIF"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\xff\xd8" + b"hello world", "damaged: no marker where one must stand"),
        (encoded(9, 9, file_format="TIFF"), "not a JPEG, PNG, BMP, WebP or GIF"),
        (encoded(60, 80, 1, file_format="PNG")[:-200], "truncated"),
        (encoded(60, 80, 1, file_format="WEBP")[:-200], "damaged"),
        (encoded(60, 80, 1, mode="L", file_format="GIF")[:-2000], "truncated"),
    ],
    ids=["empty", "text", "stub", "no marker", "tiff", "png", "webp", "gif"],
)
def test_what_is_no_whole_image_is_rejected(data: bytes, expected: str) -> None:
    assert reason(data).startswith(expected)


def test_a_damaged_png_is_rejected() -> None:
    data = bytearray(encoded(60, 80, 1, file_format="PNG"))
    data[len(data) // 2] ^= 0xFF
    assert reason(bytes(data)).startswith(("damaged", "truncated"))


def test_sixteen_bits_are_rejected() -> None:
    gray = io.BytesIO()
    Image.fromarray(np.arange(100, dtype=np.uint16).reshape(10, 10) * 600).save(gray, "PNG")
    assert reason(gray.getvalue()) == "more than 8 bits per channel"
    # Pillow reads a 16-bit colour PNG as 8 bits without a word.
    rgb = _png(4, 4, depth=16, colour=2, rows=(b"\0" + bytes(24)) * 4)
    assert Image.open(io.BytesIO(rgb)).mode == "RGB"
    assert reason(rgb) == "more than 8 bits per channel"
    twelve = bytearray(PHOTO)
    twelve[twelve.index(b"\xff\xc0") + 4] = 12
    assert reason(bytes(twelve)).startswith("more than 8 bits")


def _png(width: int, height: int, *, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))

    header = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_transparency_that_shows_is_rejected() -> None:
    rgba = np.dstack([pixels(8, 8), np.full((8, 8), 255, np.uint8)])
    rgba[3, 4, 3] = 254
    for mode in ("RGBA", "LA"):
        file = io.BytesIO()
        Image.fromarray(rgba).convert(mode).save(file, "PNG")
        assert reason(file.getvalue()) == "transparent: alpha from 254 to 255"
    used = int(np.asarray(Image.open(io.BytesIO(encoded(8, 8, mode="P", file_format="PNG")))).max())
    assert reason(encoded(8, 8, mode="P", file_format="PNG", transparency=used)).startswith("transparent")
    assert store(encoded(8, 8, mode="P", file_format="PNG", transparency=used + 1), AS_IT_IS).mode == RAW
    gif = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(gif, "GIF", transparency=0)
    assert reason(gif.getvalue()).startswith("transparent")


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_animations_are_rejected(file_format: str) -> None:
    frames = [Image.fromarray(pixels(12, 12, seed)) for seed in range(3)]
    file = io.BytesIO()
    frames[0].save(file, file_format, save_all=True, append_images=frames[1:])
    assert reason(file.getvalue()) == "animated: 3 frames"


def test_a_camera_file_of_several_jpegs_is_a_jpeg() -> None:
    """Phones append a preview or depth map (MPO); the first picture is the photograph."""
    frames = [Image.fromarray(pixels(20, 30, seed)) for seed in range(2)]
    file = io.BytesIO()
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:])
    assert store(file.getvalue(), AS_IT_IS).payload == file.getvalue()
    smaller = store(file.getvalue(), replace(AS_IT_IS, max_side=10))
    assert (smaller.mode, smaller.width, smaller.height) == (JPEG, 10, 7)


def test_what_does_not_fit_a_page_names_the_mend() -> None:
    data = encoded(600, 700, 1, file_format="PNG", compress_level=1)
    treatment = replace(AS_IT_IS, page_size=MIB)
    assert reason(data, treatment) == (
        "does not fit a page: its pixels take 1,260,000 bytes, a page has 1 MiB; use --page-size 2MiB or --max-side"
    )
    assert store(data, replace(treatment, page_size=2 * MIB)).mode == RAW
    assert store(data, replace(treatment, max_side=500)).mode == JPEG
    assert reason(encoded(9, 9) + bytes(2 * MIB), treatment).startswith("does not fit a page: the file takes")


def test_sides_and_areas_beyond_the_format() -> None:
    assert "65,535" in reason(_png(65536, 1, depth=1, colour=0, rows=b"\0" + bytes(8192)))
    wide = _png(65535, 1, depth=1, colour=0, rows=b"\0" + bytes(8192))
    assert store(wide, AS_IT_IS).width == 65535
    bomb = bytearray(PHOTO)
    frame = bomb.index(b"\xff\xc0") + 5
    bomb[frame : frame + 4] = b"\xff\xff\xff\xff"
    assert reason(bytes(bomb)).startswith("too large: 65535 x 65535 pixels")


def test_an_honest_large_image_is_no_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    """ImageNet has an image of 9,331 pixels and 70 megapixels; Pillow warns at 89 and refuses 179 megapixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encoded(30, 30, file_format="PNG")
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))
    assert store(data, AS_IT_IS).height == 30
    assert Image.MAX_IMAGE_PIXELS == 100


def test_max_side_makes_larger_images_smaller_and_no_others() -> None:
    treatment = replace(AS_IT_IS, max_side=40, quality=95)
    stored = store(PHOTO, treatment)
    assert (stored.mode, stored.width, stored.height) == (JPEG, 40, 30)
    assert difference(stored.payload, Image.fromarray(decoded(PHOTO)).resize((40, 30), Image.Resampling.LANCZOS)) < 2
    assert store(PHOTO, replace(treatment, max_side=80)).payload == PHOTO
    gray = store(encoded(60, 80, 1, mode="L"), treatment)
    assert read_header(gray.payload).components == 1
    assert store(encoded(30, 40, 1, file_format="PNG"), treatment).mode == RAW
    assert len(store(PHOTO, replace(treatment, quality=20)).payload) < len(stored.payload)
    thin = store(encoded(1, 300, 1), treatment)
    assert (thin.width, thin.height) == (40, 1)


def test_max_side_is_antialiased() -> None:
    """A one-pixel checkerboard becomes flat gray; without antialiasing it stays black and white."""
    board = np.indices((256, 256)).sum(0) % 2 * np.uint8(255)
    file = io.BytesIO()
    Image.fromarray(board.astype(np.uint8)).save(file, "PNG")
    small = decoded(store(file.getvalue(), replace(AS_IT_IS, max_side=64)).payload)
    assert 120 < small.min() <= small.max() < 136


def test_max_side_turns_photographs_upright_as_jpeg() -> None:
    data = encoded(20, 30, 4, exif=with_orientation(6))
    for max_side, width, height in ((15, 10, 15), (100, 20, 30)):
        stored = store(data, replace(AS_IT_IS, max_side=max_side, quality=95, exif="upright"))
        assert (stored.mode, stored.width, stored.height) == (JPEG, width, height)
        assert read_header(stored.payload).orientation == 1
        upright = Image.fromarray(np.rot90(decoded(data), -1)).resize((width, height), Image.Resampling.LANCZOS)
        assert difference(stored.payload, upright) < 2


def test_headers_agree_with_pillow() -> None:
    header = read_header(encoded(33, 44, mode="L"))
    assert (header.height, header.width, header.components, header.precision) == (33, 44, 1, 8)
    assert header.common
    with pytest.raises(ValueError, match="end-of-image"):
        check_whole(PHOTO[:-2], read_header(PHOTO))
    lossless = bytearray(PHOTO)
    lossless[lossless.index(b"\xff\xc0") + 1] = 0xC3
    assert not read_header(bytes(lossless)).common
