"""The beton: FFCV 1.0.2's file of images and labels, read by memory map. The writer is
`pipelines.prepare.writer`.

A file is: header (24 bytes), one descriptor per field (1,041 bytes each), the sample table (one aligned row
per sample), the payload in pages of a power of two, all payload of one sample within one page, and last the
allocation table (sample, pointer, size), which alone knows how long each payload is.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from saliency.shards import BLOCK_IMAGES, Column

FORMAT_VERSION = 2
MIN_PAGE_SIZE = 1 << 21
MAX_PAGE_SIZE = 1 << 31  # the header keeps the page size in 32 bits
MAX_SIDE = (1 << 16) - 1  # the sample table keeps width and height in 16 bits
JPEG, RAW = 0, 1

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("allocation_table", "<u8"),
    ]
)
FIELD = np.dtype([("type_id", "u1"), ("name", "S16"), ("arguments", "u1", (1024,))])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])

FLOAT_ID, INT_ID, IMAGE_ID = 0, 1, 2
_SPAN = np.dtype([("pointer", "<u8"), ("size", "<u8")])
# What each of FFCV's own field types puts into the sample table: 3 bytes, 4 ndarray, 5 JSON, 6 torch tensor.
_COLUMNS: dict[int, Any] = {
    FLOAT_ID: "<f8",
    INT_ID: "<i8",
    IMAGE_ID: IMAGE,
    3: _SPAN,
    4: "<u8",
    5: _SPAN,
    6: "<u8",
}


def sample_dtype(type_ids: list[int]) -> np.dtype:
    """Give the row of the sample table for fields of these types, columns f0, f1, ... aligned as FFCV
    aligns them.
    """
    return np.dtype([(f"f{i}", _COLUMNS[type_id]) for i, type_id in enumerate(type_ids)], align=True)


def classes_path(beton: str | Path) -> Path:
    """Name the text file beside a beton that holds one class name per line."""
    return Path(f"{beton}.classes.txt")


def read_class_names(path: str | Path) -> list[str] | None:
    """Read the class names that lie beside a beton; None where there are none."""
    classes = classes_path(path)
    if not classes.is_file():
        return None
    return classes.read_text(encoding="utf-8", errors="surrogateescape").removesuffix("\n").split("\n")


class Beton:
    """Read a beton, ours or one that FFCV's `DatasetWriter` wrote: the first image field and the first int
    field.

    The file is mapped, not read, and its tables stay in it: opening goes through them once, and keeps no byte per
    image (8 where the file's allocations are not in the order of the images, as FFCV's workers leave them). Safe to
    share between threads; pickles by path. `pipelines.shards.open_beton` opens this or many of these as one.

    Attributes: `path`, `files` (this one); `num_images`; `page_size`; `labels`, int64 per image, -1 = unlabeled
    (everywhere where the file has no int field); `heights`, `widths`, pixels; `payload_sizes`, bytes, each a
    `saliency.shards.Column`; `class_names`, from the file `PATH.classes.txt`, None where there is none; `is_in_order`,
    whether allocations are in the order of the images.

    Args:
        path: the file.
        checked: this process has opened the file before, whole and in order: its tables are not gone through again.

    Raises FileNotFoundError where there is no file, ValueError where it is no beton, or an interrupted,
    truncated or damaged one, or has no image field.
    """

    def __init__(self, path: str | Path, *, checked: bool = False):
        self.path = Path(path)
        self.files = [self.path]
        if not self.path.is_file():
            what = "is a folder, not a beton" if self.path.is_dir() else "no such file"
            raise FileNotFoundError(f"{self.path}: {what}; make a beton by `relic data convert SRC OUT.beton`")
        with open(self.path, "rb") as file:
            self._file_size = os.fstat(file.fileno()).st_size
            if self._file_size < HEADER.itemsize:
                raise ValueError(f"{self.path}: not a beton ({self._file_size} bytes are less than its header)")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._map_tables(checked=checked)
            if not checked:
                self._check_payloads()
        except ValueError:
            self.close()
            raise
        self._fingerprint: str | None = None

    def _map_tables(self, *, checked: bool) -> None:
        header = self._array(HEADER, 1, 0)[0]
        if header["version"] != FORMAT_VERSION or int(header["page_size"]).bit_count() != 1:
            raise ValueError(f"{self.path}: not a beton (its header is not that of FFCV's format {FORMAT_VERSION})")
        if header["allocation_table"] == 0:
            raise ValueError(f"{self.path}: its writing was interrupted (no allocation table); convert it again")
        self.page_size = int(header["page_size"])
        self.num_images = int(header["num_samples"])

        fields = self._array(FIELD, int(header["num_fields"]), HEADER.itemsize)
        type_ids = [int(type_id) for type_id in fields["type_id"]]
        unknown = [i for i in type_ids if i not in _COLUMNS]
        if unknown:
            raise ValueError(f"{self.path}: has a custom field (type {unknown[0]}), whose size only its author knows")
        if IMAGE_ID not in type_ids:
            raise ValueError(f"{self.path}: has no image field, only the types {type_ids}")
        rows = self._array(sample_dtype(type_ids), self.num_images, HEADER.itemsize + fields.nbytes)
        image = rows[f"f{type_ids.index(IMAGE_ID)}"]
        self._modes, self._pointers = image["mode"], image["pointer"]
        self.heights, self.widths = Column.of(image["height"]), Column.of(image["width"])
        if INT_ID in type_ids:
            self.labels = Column.of(rows[f"f{type_ids.index(INT_ID)}"])
        else:
            self.labels = Column.of(np.broadcast_to(np.int64(-1), self.num_images))

        table = int(header["allocation_table"])
        allocations = self._array(ALLOCATION, max(self._file_size - table, 0) // ALLOCATION.itemsize, table)
        if len(allocations) < self.num_images:
            raise ValueError(f"{self.path}: truncated (its allocation table lacks images); copy or convert it again")
        self.is_in_order = checked or self._are_in_order(allocations)
        self._sizes = allocations["size"] if self.is_in_order else self._found_sizes(allocations)
        self.payload_sizes = Column.of(self._sizes)

    def _are_in_order(self, allocations: np.ndarray) -> bool:
        """Say whether the allocations are those of the images, one each, in their order: as our writer leaves them."""
        pointers = allocations["pointer"]
        return len(allocations) == self.num_images and all(
            np.array_equal(pointers[block], self._pointers[block]) for block in self._blocks()
        )

    def _found_sizes(self, allocations: np.ndarray) -> np.ndarray:
        # FFCV's workers append their allocations in the order in which they finish, and an empty field of the same
        # sample (a BytesField, say) points where the next one begins: of equal pointers the largest is the image.
        allocations = allocations[np.lexsort((allocations["size"], allocations["pointer"]))]
        starts = allocations["pointer"].astype(np.int64)
        pointers = self._pointers.astype(np.int64)
        place = np.maximum(np.searchsorted(starts, pointers, side="right") - 1, 0)
        if (starts[place] != pointers).any():
            raise ValueError(f"{self.path}: truncated (its allocation table lacks images); copy or convert it again")
        return allocations["size"].astype(np.int64)[place]

    def _check_payloads(self) -> None:
        end, heights, widths = np.uint64(self._file_size), self.heights.part(0), self.widths.part(0)
        for block in self._blocks():
            sizes = self._sizes[block].astype(np.uint64)
            if ((sizes > end) | (self._pointers[block] > end - sizes)).any():
                raise ValueError(f"{self.path}: damaged (an image lies beyond the end of the file); convert it again")
            raw = self._modes[block] == RAW
            pixels = heights[block][raw].astype(np.uint64) * widths[block][raw]
            if (sizes[raw] != 3 * pixels).any():
                raise ValueError(
                    f"{self.path}: damaged (a raw image has not height x width x 3 bytes); convert it again"
                )

    def _blocks(self) -> Iterator[slice]:
        """Yield the images a bounded number at a time."""
        for first in range(0, self.num_images, BLOCK_IMAGES):
            yield slice(first, min(first + BLOCK_IMAGES, self.num_images))

    def _array(self, dtype: np.dtype, count: int, offset: int) -> np.ndarray:
        if offset + count * dtype.itemsize > self._file_size:
            raise ValueError(
                f"{self.path}: truncated (its tables go beyond its {self._file_size} bytes); copy or convert it again"
            )
        return np.frombuffer(self._map, dtype, count, offset)

    @cached_property
    def class_names(self) -> list[str] | None:
        """The classes, from the file `PATH.classes.txt`; None where there is none."""
        return read_class_names(self.path)

    def __len__(self) -> int:
        return self.num_images

    def is_jpeg(self, index: int) -> bool:
        """Say whether image `index` is stored as a JPEG file (`jpeg`) rather than as pixels (`pixels`)."""
        return bool(self._modes[index] != RAW)

    def _payload(self, index: int) -> memoryview:
        pointer = int(self._pointers[index])
        return memoryview(self._map)[pointer : pointer + int(self._sizes[index])]

    def jpeg(self, index: int) -> memoryview:
        """Give the JPEG file of image `index` without copying it; ValueError where it is stored as pixels."""
        if not self.is_jpeg(index):
            raise ValueError(f"{self.path}: image {index} is stored as pixels; read it with `pixels`")
        return self._payload(index)

    def pixels(self, index: int) -> np.ndarray:
        """Give image `index` as uint8 [H, W, 3], read-only, not copied; ValueError where it is stored as a
        JPEG.
        """
        if self.is_jpeg(index):
            raise ValueError(f"{self.path}: image {index} is stored as a JPEG; read it with `jpeg`")
        shape = (int(self.heights[index]), int(self.widths[index]), 3)
        return np.frombuffer(self._payload(index), np.uint8).reshape(shape)

    def fingerprint(self) -> str:
        """Hash the sample table (SHA-256, hex): labels, shapes, modes and payload sizes in order.

        Neither the file's name nor its page size enters, so a moved or repaged beton keeps its masks.
        """
        if self._fingerprint is None:
            if len(self._sizes) != self.num_images:
                raise ValueError(f"{self.path}: is closed")
            digest = hashlib.sha256(b"relic sample table 1")
            for column, dtype in (
                (self.labels.part(0), "<i8"),
                (self.heights.part(0), "<u4"),
                (self.widths.part(0), "<u4"),
                (self._modes == RAW, "u1"),
                (self._sizes, "<u8"),
            ):
                for block in self._blocks():
                    digest.update(column[block].astype(dtype).tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def close(self) -> None:
        """Unmap the file; views that are still held keep the memory alive until they go."""
        self._modes = self._pointers = self._sizes = np.zeros(0, np.int64)
        self.labels = self.heights = self.widths = self.payload_sizes = Column.of(self._sizes)
        try:
            self._map.close()
        except BufferError:
            return

    def __enter__(self) -> Beton:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Beton], tuple[Path]]:
        return Beton, (self.path,)
