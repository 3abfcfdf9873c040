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
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

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


class Beton:
    """Read a beton, ours or one that FFCV's `DatasetWriter` wrote: the first image field and the first int
    field.

    The file is mapped, not read: opening costs the two tables only. Safe to share between threads; pickles
    by path.

    Attributes: `path`; `num_images`; `page_size`; `labels` int64 [N], -1 = unlabeled (everywhere where the
    file has no int field); `heights`, `widths` int64 [N], pixels; `payload_sizes` int64 [N], bytes;
    `class_names`, from the file `PATH.classes.txt`, None where there is none.

    Raises FileNotFoundError where there is no file, ValueError where it is no beton, or an interrupted,
    truncated or damaged one, or has no image field.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            what = "is a folder, not a beton" if self.path.is_dir() else "no such file"
            raise FileNotFoundError(f"{self.path}: {what}; make a beton by `relic data convert SRC OUT.beton`")
        with open(self.path, "rb") as file:
            self._file_size = os.fstat(file.fileno()).st_size
            if self._file_size < HEADER.itemsize:
                raise ValueError(f"{self.path}: not a beton ({self._file_size} bytes are less than its header)")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._read_tables()
        except ValueError:
            self.close()
            raise
        classes = classes_path(self.path)
        self.class_names: list[str] | None = None
        if classes.is_file():
            text = classes.read_text(encoding="utf-8", errors="surrogateescape")
            self.class_names = text.removesuffix("\n").split("\n")
        self._fingerprint: str | None = None

    def _read_tables(self) -> None:
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
        self._raw = image["mode"] == RAW
        self.heights = image["height"].astype(np.int64)
        self.widths = image["width"].astype(np.int64)
        self._pointers = image["pointer"].astype(np.int64)
        if INT_ID in type_ids:
            self.labels = rows[f"f{type_ids.index(INT_ID)}"].astype(np.int64)
        else:
            self.labels = np.full(self.num_images, -1, np.int64)
        self.payload_sizes = self._sizes_of(self._pointers, int(header["allocation_table"]))
        if (self.payload_sizes[self._raw] != 3 * (self.heights * self.widths)[self._raw]).any():
            raise ValueError(f"{self.path}: damaged (a raw image has not height x width x 3 bytes); convert it again")

    def _sizes_of(self, pointers: np.ndarray, table: int) -> np.ndarray:
        allocations = self._array(ALLOCATION, max(self._file_size - table, 0) // ALLOCATION.itemsize, table)
        # FFCV's workers append their allocations in the order in which they finish, and an empty field of the same
        # sample (a BytesField, say) points where the next one begins: of equal pointers the largest is the image.
        allocations = allocations[np.lexsort((allocations["size"], allocations["pointer"]))]
        starts = allocations["pointer"].astype(np.int64)
        place = np.maximum(np.searchsorted(starts, pointers, side="right") - 1, 0)
        if self.num_images and (len(starts) == 0 or (starts[place] != pointers).any()):
            raise ValueError(f"{self.path}: truncated (its allocation table lacks images); copy or convert it again")
        sizes = allocations["size"].astype(np.int64)[place]
        if (pointers + sizes > self._file_size).any():
            raise ValueError(f"{self.path}: damaged (an image lies beyond the end of the file); convert it again")
        return sizes

    def _array(self, dtype: np.dtype, count: int, offset: int) -> np.ndarray:
        if offset + count * dtype.itemsize > self._file_size:
            raise ValueError(
                f"{self.path}: truncated (its tables go beyond its {self._file_size} bytes); copy or convert it again"
            )
        return np.frombuffer(self._map, dtype, count, offset)

    def __len__(self) -> int:
        return self.num_images

    def is_jpeg(self, index: int) -> bool:
        """Say whether image `index` is stored as a JPEG file (`jpeg`) rather than as pixels (`pixels`)."""
        return not self._raw[index]

    def _payload(self, index: int) -> memoryview:
        pointer = int(self._pointers[index])
        return memoryview(self._map)[pointer : pointer + int(self.payload_sizes[index])]

    def jpeg(self, index: int) -> memoryview:
        """Give the JPEG file of image `index` without copying it; ValueError where it is stored as pixels."""
        if self._raw[index]:
            raise ValueError(f"{self.path}: image {index} is stored as pixels; read it with `pixels`")
        return self._payload(index)

    def pixels(self, index: int) -> np.ndarray:
        """Give image `index` as uint8 [H, W, 3], read-only, not copied; ValueError where it is stored as a
        JPEG.
        """
        if not self._raw[index]:
            raise ValueError(f"{self.path}: image {index} is stored as a JPEG; read it with `jpeg`")
        shape = (int(self.heights[index]), int(self.widths[index]), 3)
        return np.frombuffer(self._payload(index), np.uint8).reshape(shape)

    def fingerprint(self) -> str:
        """Hash the sample table (SHA-256, hex): labels, shapes, modes and payload sizes in order.

        Neither the file's name nor its page size enters, so a moved or repaged beton keeps its masks.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256(b"relic sample table 1")
            for column, dtype in (
                (self.labels, "<i8"),
                (self.heights, "<u4"),
                (self.widths, "<u4"),
                (self._raw, "u1"),
                (self.payload_sizes, "<u8"),
            ):
                digest.update(column.astype(dtype).tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def close(self) -> None:
        """Unmap the file; views that are still held keep the memory alive until they go."""
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
