"""The mask store: one 128 x 128 bit mask per image of a beton, in a file beside it, read by memory map.

A file is: header (4,096 bytes), a flag per image (one byte: 0 where it has a mask, else why it has none) padded to
4,096, then N x 2,048 bytes, each mask's bits row by row, the leftmost pixel in the highest bit.

A data set of many shards has a store for each, and one manifest of them under the name of the whole:
`train.masks` is then JSON, {"format": "relicv2 mask shards", "version": 1, "fingerprint": that of the data set,
"shards": [{"file", "images", "fingerprint"}, ...]}, and `train-00000.masks` and so on lie beside it.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import numpy as np

from saliency.lock import open_locked
from saliency.shards import (
    Column,
    by_part,
    is_manifest,
    locate,
    most_open,
    read_manifest,
    save_manifest,
    starts_of,
)

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
        ("maker", "S256"),
        ("reserved", "u1", (4096 - 408,)),
    ]
)
BLOCK = HEADER.itemsize
SHARDS_FORMAT = "relicv2 mask shards"

# Flags of an image. The last is never in a finished store.
HAS_MASK, NO_MASK, EMPTY, TOO_SMALL, TOO_LARGE, DAMAGED, NOT_MADE = 0, 1, 2, 3, 4, 5, 255
REASONS = {
    NO_MASK: "none was made",
    EMPTY: "empty",
    TOO_SMALL: "under 1 %",
    TOO_LARGE: "over 90 %",
    DAMAGED: "does not decode",
}
"""Flag -> why an image has no mask."""
# Masks are made at 20 to 100 images/s per core, and a disk may take 0.1 s to say that they are on it.
COMMIT_SECONDS = 5.0
_SALIENT_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


def _masks_offset(num_images: int) -> int:
    return BLOCK + -(-num_images // BLOCK) * BLOCK


class MaskStore:
    """Read a mask store. Safe to share between threads; pickles by path.

    Attributes: `path`; `num_images`; `fingerprint` of the beton whose images the masks describe; `maker`, what made
    them, in words (empty in older files); `flags`, uint8 [N], a key of `REASONS` where an image has no mask, else 0;
    `absent`, a bool `Column`, True where it has none. Raises FileNotFoundError, or ValueError where the file is no
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
        self.fingerprint, self.maker = header["fingerprint"].decode("ascii"), header["maker"].decode("ascii")
        offset = _masks_offset(self.num_images)
        if size != offset + self.num_images * MASK_BYTES:
            raise ValueError(
                f"{self.path}: truncated ({size:,} of {offset + self.num_images * MASK_BYTES:,} bytes); "
                "copy it or make it again by `relic masks infer FILE.beton`"
            )
        self.flags = np.frombuffer(self._map, np.uint8, self.num_images, BLOCK)
        self.absent = Column.of(self.flags, np.bool_)
        packed = np.frombuffer(self._map, np.uint8, self.num_images * MASK_BYTES, offset)
        self._packed = packed.reshape(self.num_images, MASK_BYTES)

    def __len__(self) -> int:
        return self.num_images

    def mask(self, index: int) -> np.ndarray:
        """Give the mask of one image, bool [128, 128], True = salient; all False where it is absent."""
        return np.unpackbits(self._packed[index]).view(np.bool_).reshape(SIDE, SIDE)

    def masks(self, indices: np.ndarray | list[int]) -> np.ndarray:
        """Give the masks of several images, bool [n, 128, 128]."""
        return _unpacked(self.packed(indices))

    def packed(self, indices: np.ndarray | list[int]) -> np.ndarray:
        """Give the masks of several images as they are stored, uint8 [n, 2048]: eight pixels a byte, in rows."""
        return self._packed[np.asarray(indices, np.int64)]

    def areas(self, start: int, stop: int) -> np.ndarray:
        """Count the salient pixels, of 16,384, in the masks of images `start` to before `stop`, int64 [n]."""
        return _SALIENT_BITS[self._packed[start:stop]].sum(axis=1, dtype=np.int64)

    def check(self, fingerprint: str, num_images: int, beton: str | Path = "the beton") -> None:
        """Raise ValueError unless the masks were made for the beton with this fingerprint and number of
        images.
        """
        _check(self, fingerprint, num_images, beton)

    def close(self) -> None:
        """Unmap the file; arrays that are still held keep the memory alive until they go."""
        self.flags, self._packed = np.zeros(0, np.uint8), np.zeros((0, MASK_BYTES), np.uint8)
        self.absent = Column.of(self.flags, np.bool_)
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


class ShardedMaskStore:
    """Read the mask stores of a manifest as one; the interface is that of `MaskStore` but for `flags` and `areas`.

    A store is opened when a mask of it is first wanted, and closed again when `saliency.shards.most_open()` others have
    been wanted since. Raises FileNotFoundError, or ValueError where the file is no manifest, or, now or when it is
    opened, a store of it is missing, damaged or another than it was.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        content = read_manifest(
            self.path,
            SHARDS_FORMAT,
            fields=["fingerprint"],
            facts=["fingerprint"],
            mend="make it again by `relic masks infer FILE.beton`",
        )
        self.fingerprint = str(content["fingerprint"])
        self._shards = content["shards"]
        self._starts = starts_of([shard["images"] for shard in self._shards])
        self.num_images = self._starts[-1]
        missing = [file for number in range(len(self._shards)) if not (file := self._file(number)).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{missing[0]}: no such file, a shard of {self.path} ({len(missing)} are missing); copy them or make"
                " them again by `relic masks infer FILE.beton`"
            )
        self._store = lru_cache(maxsize=most_open())(self._open)
        self.absent = Column(self._starts, lambda number: self._store(number).absent.part(0), np.bool_)

    @property
    def maker(self) -> str:
        """What made the masks of the first shard, in words."""
        return self._store(0).maker if self._shards else ""

    def _file(self, number: int) -> Path:
        return self.path.with_name(self._shards[number]["file"])

    def _open(self, number: int) -> MaskStore:
        store, shard = MaskStore(self._file(number)), self._shards[number]
        store.check(shard["fingerprint"], shard["images"], f"its shard in {self.path}")
        return store

    def __len__(self) -> int:
        return self.num_images

    def mask(self, index: int) -> np.ndarray:
        """Give the mask of one image, bool [128, 128], True = salient; all False where it is absent."""
        number, place = locate(self._starts, index)
        return self._store(number).mask(place)

    def masks(self, indices: np.ndarray | list[int]) -> np.ndarray:
        """Give the masks of several images, bool [n, 128, 128]."""
        return _unpacked(self.packed(indices))

    def packed(self, indices: np.ndarray | list[int]) -> np.ndarray:
        """Give the masks of several images as they are stored, uint8 [n, 2048]: eight pixels a byte, in rows."""
        out = np.empty((len(indices), MASK_BYTES), np.uint8)
        for number, places, in_shard in by_part(np.asarray(self._starts), np.asarray(indices, np.int64)):
            out[places] = self._store(number).packed(in_shard)
        return out

    def check(self, fingerprint: str, num_images: int, beton: str | Path = "the beton") -> None:
        """Raise ValueError unless the masks were made for the data set with this fingerprint and number of images."""
        _check(self, fingerprint, num_images, beton)

    def close(self) -> None:
        """Close all stores; arrays that are still held keep their memory alive until they go."""
        self._store.cache_clear()

    def __enter__(self) -> ShardedMaskStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[ShardedMaskStore], tuple[Path]]:
        return ShardedMaskStore, (self.path,)


AnyMaskStore = MaskStore | ShardedMaskStore


def open_masks(path: str | Path) -> AnyMaskStore:
    """Open masks, one store or many shards; raises what `MaskStore` and `ShardedMaskStore` raise."""
    return ShardedMaskStore(path) if is_manifest(path) else MaskStore(path)


def write_manifest(path: str | Path, fingerprint: str, stores: Sequence[str | Path]) -> None:
    """Make finished stores, which lie in the folder of `path`, the masks of one data set: atomically.

    Args:
        path: the manifest to write.
        fingerprint: of the whole data set.
        stores: one per shard of the data set, in their order.
    """
    shards = []
    for name in stores:
        with MaskStore(name) as store:
            shards.append({"file": store.path.name, "images": len(store), "fingerprint": store.fingerprint})
    save_manifest(path, SHARDS_FORMAT, shards, fingerprint=fingerprint)


def _unpacked(packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed, axis=1).view(np.bool_).reshape(-1, SIDE, SIDE)


def _check(store: AnyMaskStore, fingerprint: str, num_images: int, beton: str | Path) -> None:
    if store.num_images != num_images:
        reason = f"holds {store.num_images:,} masks, but {beton} has {num_images:,} images"
    elif store.fingerprint != fingerprint:
        reason = f"was made for fingerprint {store.fingerprint[:12]}, but {beton} has {fingerprint[:12]}"
    else:
        return
    raise ValueError(f"{store.path}: {reason}; make it again by `relic masks infer FILE.beton`")


def partial_path(path: str | Path) -> Path:
    """Name the file that a store is until it is complete."""
    return Path(f"{path}.partial")


class MaskStoreWriter:
    """Write a mask store as `PATH.partial`, for this process alone; `finish` makes it appear, complete.

    What an earlier writer of the same images and maker left unfinished is continued. As a context manager it finishes
    on a clean exit; after an exception it keeps what is written. Images that were never written are absent.

    Attributes: `path`; `flags`, uint8 [N] as in `MaskStore`, `NOT_MADE` where an image was not written yet; `other`,
    what was thrown away, in words, because it was of other images or another maker (None: nothing). Raises OSError
    where another process writes it.
    """

    def __init__(self, path: str | Path, num_images: int, fingerprint: str, maker: str = ""):
        for name, text in (("fingerprint", fingerprint), ("maker", maker)):
            if not text.isascii() or len(text) > HEADER[name].itemsize:
                raise ValueError(f"{path}: {name} {text!r} has not at most {HEADER[name].itemsize} ASCII characters")
        self.path, self._num_images = Path(path), num_images
        self._partial, self._masks = partial_path(path), _masks_offset(num_images)
        header = np.zeros(1, HEADER)
        header["magic"], header["version"], header["side"] = MAGIC, VERSION, SIDE
        header["num_images"], header["fingerprint"] = num_images, fingerprint.encode("ascii")
        header["maker"] = maker.encode("ascii")
        self._uncommitted: list[tuple[int, int]] = []
        self._committed = time.monotonic()
        self._file = os.fdopen(open_locked(self._partial), "r+b", buffering=0)
        try:
            self.other = self._continue(header)
        except OSError:
            self._file.close()
            raise

    def _continue(self, header: np.ndarray) -> str | None:
        """Take over the file where it is the same store, else begin it; return what was another."""
        found = self._file.read(BLOCK)
        if found == header.tobytes():  # written last, so that all is there
            self.flags = np.frombuffer(self._file.read(self._num_images), np.uint8).copy()
            return None
        self.flags = np.full(self._num_images, NOT_MADE, np.uint8)
        self._file.truncate(0)
        self._file.truncate(self._masks + self._num_images * MASK_BYTES)
        self._write_at(BLOCK, self.flags.tobytes())
        os.fsync(self._file.fileno())
        self._write_at(0, header.tobytes())
        if len(found) < BLOCK or found[: len(MAGIC)] != MAGIC:
            return None
        return np.frombuffer(found, HEADER, 1)[0]["maker"].decode("ascii") or "unknown"

    def _write_at(self, position: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, position)
            view, position = view[written:], position + written

    def write(self, index: int, mask: np.ndarray | None) -> None:
        """Put the mask of image `index`, bool [128, 128]; None marks it absent."""
        packed = np.zeros(MASK_BYTES, np.uint8)
        if mask is not None:
            if mask.shape != (SIDE, SIDE) or mask.dtype != np.bool_:
                found = f"{mask.dtype} {mask.shape}"
                raise ValueError(f"{self.path}: mask of image {index} is {found}, not bool ({SIDE}, {SIDE})")
            packed = np.packbits(mask)
        self.write_packed(index, packed[None], np.array([NO_MASK if mask is None else HAS_MASK], np.uint8))

    def write_packed(self, start: int, packed: np.ndarray, flags: np.ndarray) -> None:
        """Put the masks of consecutive images.

        Args:
            start: the first.
            packed: uint8 [n, 2048], bits as in the file; zeros where there is no mask.
            flags: uint8 [n].
        """
        stop = start + len(flags)
        if not 0 <= start < stop <= self._num_images:
            raise IndexError(f"{self.path}: image {stop - 1} is not among {self._num_images}")
        self._write_at(self._masks + start * MASK_BYTES, packed.tobytes())
        self.flags[start:stop] = flags
        self._uncommitted.append((start, stop))
        if time.monotonic() - self._committed >= COMMIT_SECONDS:
            self._commit()

    def _commit(self) -> None:
        """Set the flags of what was written, once it is on the disk: a power cut must not keep them alone."""
        os.fsync(self._file.fileno())
        for start, stop in self._uncommitted:
            self._write_at(BLOCK + start, self.flags[start:stop].tobytes())
        self._uncommitted.clear()
        self._committed = time.monotonic()

    def finish(self) -> None:
        """Make the store appear under its name, complete and on disk."""
        self._commit()
        self.flags[self.flags == NOT_MADE] = NO_MASK
        self._write_at(BLOCK, self.flags.tobytes())
        os.fsync(self._file.fileno())
        os.replace(self._partial, self.path)
        self._file.close()
        folder = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def close(self) -> None:
        """Keep what was written for the next writer, if anything was; without effect after `finish`."""
        if self._file.closed:
            return
        if (self.flags == NOT_MADE).all():
            self._partial.unlink(missing_ok=True)
        else:
            self._commit()
        self._file.close()

    def __enter__(self) -> MaskStoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._file.closed:
            self.finish()
        self.close()
