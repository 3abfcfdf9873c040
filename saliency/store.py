"""The mask store: one 128 x 128 bit mask per image of a beton, in a file beside it, read by memory map.

A file is: header (4,096 bytes), N absent flags (one byte each) padded to 4,096, then N x 2,048 bytes, each
mask's bits row by row, the leftmost pixel in the highest bit.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

SIDE = 128
MASK_BYTES = SIDE * SIDE // 8
MAGIC = b"RELICMSK"
VERSION = 1
HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("side", "<u4"),
        ("num_images", "<u8"),
        ("fingerprint", "S128"),
        ("reserved", "u1", (4096 - 152,)),
    ]
)
BLOCK = HEADER.itemsize


def _masks_offset(num_images: int) -> int:
    return BLOCK + -(-num_images // BLOCK) * BLOCK


class MaskStore:
    """Read a mask store. Safe to share between threads; pickles by path.

    Attributes: `path`; `num_images`; `fingerprint` of the beton whose images the masks describe; `absent`
    bool [N], True where an image has no mask. Raises FileNotFoundError, or ValueError where the file is no
    complete store.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such mask store; make it by `relic masks infer FILE.beton`")
        with open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < BLOCK:
                raise ValueError(f"{self.path}: not a mask store ({size} bytes are less than its header)")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = np.frombuffer(self._map, HEADER, 1)[0]
        if header["magic"] != MAGIC:
            raise ValueError(f"{self.path}: not a mask store (it begins with {bytes(self._map[:8])!r})")
        if header["version"] != VERSION or header["side"] != SIDE:
            raise ValueError(
                f"{self.path}: a mask store of version {header['version']}, side {header['side']}, where "
                f"{VERSION} and {SIDE} are read; make it again by `relic masks infer FILE.beton`"
            )
        self.num_images = int(header["num_images"])
        self.fingerprint = header["fingerprint"].decode("ascii")
        offset = _masks_offset(self.num_images)
        if size != offset + self.num_images * MASK_BYTES:
            raise ValueError(
                f"{self.path}: truncated ({size:,} of {offset + self.num_images * MASK_BYTES:,} bytes); "
                "copy it or make it again by `relic masks infer FILE.beton`"
            )
        self.absent = np.frombuffer(self._map, np.bool_, self.num_images, BLOCK)
        packed = np.frombuffer(self._map, np.uint8, self.num_images * MASK_BYTES, offset)
        self._packed = packed.reshape(self.num_images, MASK_BYTES)

    def __len__(self) -> int:
        return self.num_images

    def mask(self, index: int) -> np.ndarray:
        """Give the mask of one image, bool [128, 128], True = salient; all False where it is absent."""
        return np.unpackbits(self._packed[index]).view(np.bool_).reshape(SIDE, SIDE)

    def masks(self, indices: np.ndarray | list[int]) -> np.ndarray:
        """Give the masks of several images, bool [n, 128, 128]."""
        packed = self._packed[np.asarray(indices, np.int64)]
        return np.unpackbits(packed, axis=1).view(np.bool_).reshape(-1, SIDE, SIDE)

    def check(self, fingerprint: str, num_images: int, beton: str | Path = "the beton") -> None:
        """Raise ValueError unless the masks were made for the beton with this fingerprint and number of
        images.
        """
        if self.num_images != num_images:
            reason = f"holds {self.num_images:,} masks, but {beton} has {num_images:,} images"
        elif self.fingerprint != fingerprint:
            reason = f"was made for fingerprint {self.fingerprint[:12]}, but {beton} has {fingerprint[:12]}"
        else:
            return
        raise ValueError(f"{self.path}: {reason}; make it again by `relic masks infer FILE.beton`")

    def close(self) -> None:
        """Unmap the file; arrays that are still held keep the memory alive until they go."""
        self.absent, self._packed = np.zeros(0, np.bool_), np.zeros((0, MASK_BYTES), np.uint8)
        try:
            self._map.close()
        except BufferError:
            return

    def __enter__(self) -> MaskStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[MaskStore], tuple[Path]]:
        return MaskStore, (self.path,)


class MaskStoreWriter:
    """Write a mask store under a temporary name in the target folder; `finish` makes it appear, complete.

    As a context manager it finishes on a clean exit and leaves nothing behind after an exception. Images
    that were never written are absent.
    """

    def __init__(self, path: str | Path, num_images: int, fingerprint: str):
        if not fingerprint.isascii() or len(fingerprint) > HEADER["fingerprint"].itemsize:
            raise ValueError(f"{path}: fingerprint {fingerprint!r} is no hash of at most 128 ASCII characters")
        self.path = Path(path)
        self._num_images = num_images
        self._absent = np.ones(num_images, np.bool_)
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".partial", dir=self.path.parent)
        self._file, self._temporary = os.fdopen(handle, "r+b"), Path(name)
        header = np.zeros(1, HEADER)
        header["magic"], header["version"], header["side"] = MAGIC, VERSION, SIDE
        header["num_images"], header["fingerprint"] = num_images, fingerprint.encode("ascii")
        self._file.write(header.tobytes())
        self._file.truncate(_masks_offset(num_images) + num_images * MASK_BYTES)

    def write(self, index: int, mask: np.ndarray | None) -> None:
        """Put the mask of image `index`, bool [128, 128]; None marks it absent."""
        if not 0 <= index < self._num_images:
            raise IndexError(f"{self.path}: image {index} is not among {self._num_images}")
        packed = np.zeros(MASK_BYTES, np.uint8)
        if mask is not None:
            if mask.shape != (SIDE, SIDE) or mask.dtype != np.bool_:
                found = f"{mask.dtype} {mask.shape}"
                raise ValueError(f"{self.path}: mask of image {index} is {found}, not bool ({SIDE}, {SIDE})")
            packed = np.packbits(mask)
        self._absent[index] = mask is None
        self._file.seek(_masks_offset(self._num_images) + index * MASK_BYTES)
        self._file.write(packed.tobytes())

    def finish(self) -> None:
        """Make the store appear under its name, complete and on disk."""
        self._file.seek(BLOCK)
        self._file.write(self._absent.tobytes())
        self._file.flush()
        # mkstemp makes private files; the store is as readable as any other file the user makes.
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(self._file.fileno(), 0o666 & ~umask)
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)

    def discard(self) -> None:
        """Remove what was written; without effect after `finish`."""
        if not self._file.closed:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> MaskStoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file.closed:
            return
        if kind is None:
            self.finish()
        else:
            self.discard()
