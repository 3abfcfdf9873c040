"""Many betons read as one data set.

`relic data convert` of a large source makes shards, each a beton of its own, and last a manifest under the name that
the user gave: `train.beton` is then JSON, {"format": "relicv2 shards", "version": 1, "shards": [{"file", "images",
"bytes", "fingerprint"}, ...]}, and `train-00000.beton` and so on lie beside it. Images are numbered through the shards
in their order. Stock FFCV reads each shard, not the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipelines.beton import Beton, read_class_names
from saliency.shards import Column, is_manifest, locate, most_open, read_manifest, save_manifest, starts_of

FORMAT = "relicv2 shards"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What a manifest says of one shard."""

    file: str
    """Its name, beside the manifest."""
    images: int
    bytes: int
    """Size of the file."""
    fingerprint: str
    """`Beton.fingerprint` of it."""


def describe_shard(path: str | Path) -> Shard:
    """Open a finished shard and say what the manifest is to say of it; raises what `Beton` raises."""
    path = Path(path)
    with Beton(path) as beton:
        return Shard(
            file=path.name, images=beton.num_images, bytes=path.stat().st_size, fingerprint=beton.fingerprint()
        )


def write_manifest(path: str | Path, shards: Sequence[Shard], **facts: Any) -> None:
    """Make finished shards, which lie in the folder of `path`, one data set: atomically, and the last thing written.

    `facts` (values that JSON can hold) are kept for people; no reader needs them.
    """
    save_manifest(path, FORMAT, [asdict(shard) for shard in shards], **facts)


def read_shards(path: str | Path) -> list[Shard]:
    """Read a manifest; ValueError where it is none, or damaged."""
    fields = list(Shard.__annotations__)
    content = read_manifest(path, FORMAT, fields=fields, mend=f"make it again by `relic data convert SRC {path}`")
    return [Shard(**{name: shard[name] for name in fields}) for shard in content["shards"]]


class ShardedBeton:
    """Read the shards of a manifest as one beton; the interface is that of `Beton`.

    Opening reads the manifest and looks at the size of each shard. A shard is opened when an image of it is first
    wanted, checked against its fingerprint then, once per process, and closed again when `most_open()` others have been
    wanted since. Safe to share between threads; pickles by path.

    Raises:
        FileNotFoundError, ValueError: no manifest; a shard that is missing, truncated or another than it was, now or
            when it is opened.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.shards = read_shards(self.path)
        self.files = [self.path.with_name(shard.file) for shard in self.shards]
        for shard, file in zip(self.shards, self.files, strict=True):
            self._check_size(shard, file)
        self.starts = starts_of([shard.images for shard in self.shards])
        self.num_images = self.starts[-1]
        self._checked = np.zeros(len(self.shards), np.bool_)
        self._shard = lru_cache(maxsize=most_open())(self._open)
        self.labels = Column(self.starts, lambda number: self._shard(number).labels.part(0))
        self.heights = Column(self.starts, lambda number: self._shard(number).heights.part(0))
        self.widths = Column(self.starts, lambda number: self._shard(number).widths.part(0))
        self.payload_sizes = Column(self.starts, lambda number: self._shard(number).payload_sizes.part(0))

    def _check_size(self, shard: Shard, file: Path) -> None:
        try:
            size = file.stat().st_size
        except FileNotFoundError:
            raise FileNotFoundError(f"{file}: no such file, a shard of {self.path}; {self._mend}") from None
        if size != shard.bytes:
            raise ValueError(
                f"{file}: a shard of {self.path} that has {size:,} bytes, not {shard.bytes:,} (truncated or changed);"
                f" {self._mend}"
            )

    @property
    def _mend(self) -> str:
        return f"copy it again, or convert to {self.path} again"

    def _open(self, number: int) -> Beton:
        shard, file = self.shards[number], self.files[number]
        self._check_size(shard, file)
        if self._checked[number]:
            return Beton(file, checked=True)
        beton = Beton(file)
        if beton.num_images != shard.images or beton.fingerprint() != shard.fingerprint:
            raise ValueError(f"{file}: other images than when {self.path} was made of it; {self._mend}")
        self._checked[number] = beton.is_in_order
        return beton

    @cached_property
    def class_names(self) -> list[str] | None:
        """The classes, from the file `PATH.classes.txt`; None where there is none."""
        return read_class_names(self.path)

    @property
    def page_size(self) -> int:
        """The largest page of any shard, in bytes."""
        return max(self._shard(number).page_size for number in range(len(self.shards)))

    def __len__(self) -> int:
        return self.num_images

    def _at(self, index: int) -> tuple[Beton, int]:
        number, place = locate(self.starts, index)
        return self._shard(number), place

    def is_jpeg(self, index: int) -> bool:
        """Say whether image `index` is stored as a JPEG file (`jpeg`) rather than as pixels (`pixels`)."""
        beton, place = self._at(index)
        return beton.is_jpeg(place)

    def jpeg(self, index: int) -> memoryview:
        """Give the JPEG file of image `index` without copying it; ValueError where it is stored as pixels."""
        beton, place = self._at(index)
        return beton.jpeg(place)

    def pixels(self, index: int) -> np.ndarray:
        """Give image `index` as uint8 [H, W, 3], read-only, not copied; ValueError where it is stored as a JPEG."""
        beton, place = self._at(index)
        return beton.pixels(place)

    def fingerprint(self) -> str:
        """Hash the shards' fingerprints in order (SHA-256, hex): what `Beton.fingerprint` tells apart, and where one
        shard ends. Nothing but the manifest is read.
        """
        digest = hashlib.sha256(b"relic shards 1")
        for shard in self.shards:
            digest.update(shard.fingerprint.encode("ascii"))
        return digest.hexdigest()

    def close(self) -> None:
        """Close all shards; views that are still held keep their memory alive until they go."""
        self._shard.cache_clear()

    def __enter__(self) -> ShardedBeton:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[ShardedBeton], tuple[Path]]:
        return ShardedBeton, (self.path,)


AnyBeton = Beton | ShardedBeton


def open_beton(path: str | Path) -> AnyBeton:
    """Open a data set, one file or many shards; raises what `Beton` and `ShardedBeton` raise."""
    return ShardedBeton(path) if is_manifest(path) else Beton(path)
