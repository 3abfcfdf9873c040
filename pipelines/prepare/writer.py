"""Write a beton: where each payload goes, and the tables around them. The format stands in
`pipelines.beton`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipelines.beton import (
    ALLOCATION,
    FIELD,
    FORMAT_VERSION,
    HEADER,
    IMAGE_ID,
    INT_ID,
    JPEG,
    MAX_PAGE_SIZE,
    MIN_PAGE_SIZE,
    RAW,
    classes_path,
    sample_dtype,
)
from pipelines.prepare.jpeg import read_header

DEFAULT_PAGE_SIZE = 1 << 23
SAMPLE = sample_dtype([IMAGE_ID, INT_ID])
# One row per image while the payload is being written; its order is the image index.
ROW = np.dtype(
    [
        ("mode", "u1"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("label", "<i8"),
        ("pointer", "<u8"),
        ("size", "<u8"),
    ]
)


def fitting_page_size(largest_payload: int, minimum: int = DEFAULT_PAGE_SIZE) -> int:
    """Give the smallest page of at least `minimum` bytes that holds the largest payload.

    Raises ValueError where `minimum` is no power of two from 2 MiB to 2 GiB.
    """
    if minimum.bit_count() != 1 or not MIN_PAGE_SIZE <= minimum <= MAX_PAGE_SIZE:
        raise ValueError(f"page size {minimum:,}: not a power of two from 2MiB to 2048MiB, for instance 8MiB")
    return min(max(minimum, 1 << max(largest_payload - 1, 0).bit_length()), MAX_PAGE_SIZE)


def payload_start(num_images: int, page_size: int) -> int:
    """Give the first page boundary after the tables of at most `num_images` images."""
    tables = HEADER.itemsize + 2 * FIELD.itemsize + num_images * SAMPLE.itemsize
    return -(-tables // page_size) * page_size


def place(position: int, sizes: Iterable[int], page_size: int) -> tuple[list[int], int]:
    """Place payloads one after the other from `position`, each within one page; the pointers, and the new
    end.

    The place of a payload depends on the sizes before it and nothing else, so the bytes of a beton do not
    depend on who wrote which part of it.
    """
    pointers = []
    for size in sizes:
        left = page_size - position % page_size
        if size > left:
            position += left
        pointers.append(position)
        position += size
    return pointers, position


def write_fully(descriptor: int, data: bytes | memoryview, position: int) -> None:
    """Write all of `data` at `position`; OSError where the disk is full."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written


def write_tables(descriptor: int, rows: np.ndarray, *, page_size: int, end: int) -> None:
    """Complete a file whose payload is written up to `end`: sample table, allocation table, header, fsync.

    `rows` are `ROW`s in final order. Field descriptors are FFCV's: `image` (type 2) and `label` (type 1),
    whose 1,024 argument bytes are zero.
    """
    header = np.zeros(1, HEADER)
    header["version"], header["num_fields"], header["page_size"] = FORMAT_VERSION, 2, page_size
    # FFCV reads the table from here to the end of the file.
    table = -(-end // 8) * 8
    header["num_samples"], header["allocation_table"] = len(rows), table
    fields = np.zeros(2, FIELD)
    fields["type_id"], fields["name"] = (IMAGE_ID, INT_ID), (b"image", b"label")
    samples = np.zeros(len(rows), SAMPLE)
    for name in ("mode", "width", "height", "pointer"):
        samples["f0"][name] = rows[name]
    samples["f1"] = rows["label"]
    allocations = np.zeros(len(rows), ALLOCATION)
    allocations["sample"], allocations["pointer"] = np.arange(len(rows)), rows["pointer"]
    allocations["size"] = rows["size"]
    write_fully(descriptor, allocations.tobytes(), table)
    os.ftruncate(descriptor, table + allocations.nbytes)
    write_fully(descriptor, header.tobytes() + fields.tobytes() + samples.tobytes(), 0)
    os.fsync(descriptor)


def put_into_place(temporary: Path, path: Path) -> None:
    """Rename a complete, synced file and make the rename last through a power cut."""
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str, *, temporary: Path | None = None) -> None:
    """Put a text file into place, complete or not at all; until then it is `temporary`, by default .PATH.partial."""
    temporary = temporary or path.with_name(f".{path.name}.partial")
    try:
        # Names of files may be anything but UTF-8; they come back as they were.
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        put_into_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_beton(
    path: str | Path,
    images: Sequence[bytes | np.ndarray],
    labels: Sequence[int],
    *,
    page_size: int = DEFAULT_PAGE_SIZE,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write a small beton from memory: JPEG files (bytes, taken as they are) and pixels (uint8 [H, W, 3]).

    Raises ValueError where an image is neither. Large data sets go through `pipelines.prepare.convert`.
    """
    path = Path(path)
    payloads = [image if isinstance(image, bytes) else image.tobytes() for image in images]
    rows = np.zeros(len(images), ROW)
    for row, image, label in zip(rows, images, labels, strict=True):
        if isinstance(image, bytes):
            jpeg = read_header(image)
            shape = (jpeg.height, jpeg.width, 3)
        else:
            shape = image.shape
        if len(shape) != 3 or shape[2] != 3 or (not isinstance(image, bytes) and image.dtype != np.uint8):
            raise ValueError(f"{path}: an image of shape {shape} is not uint8 [H, W, 3]")
        row["mode"], row["label"] = JPEG if isinstance(image, bytes) else RAW, label
        row["height"], row["width"] = shape[:2]
    rows["size"] = [len(payload) for payload in payloads]
    page_size = fitting_page_size(max((len(payload) for payload in payloads), default=0), page_size)
    pointers, end = place(payload_start(len(rows), page_size), map(len, payloads), page_size)
    rows["pointer"] = pointers
    temporary = path.with_name(f".{path.name}.partial")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for payload, pointer in zip(payloads, pointers, strict=True):
            write_fully(descriptor, payload, pointer)
        write_tables(descriptor, rows, page_size=page_size, end=end)
        put_into_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    if class_names is not None:
        write_text(classes_path(path), "".join(f"{name}\n" for name in class_names))
