"""What a conversion is asked for, and what it says of itself afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.prepare.engines import Engine
from pipelines.prepare.writer import DEFAULT_PAGE_SIZE


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What is taken from the source, how it is stored, and who does it."""

    workers: int | None = 1
    """Most processes (small data sets take fewer); None takes all CPUs of a Ray cluster. The bytes written do not
    depend on it."""
    engine: Literal["local", "ray"] = "local"
    """Where the shards are made: by processes of this machine, or on a Ray cluster whose machines see the same
    files."""
    address: str | None = None
    """HOST:PORT of the Ray cluster; None takes the one that this machine belongs to."""
    shard_size: int | None = None
    """Most bytes of source images in a shard (a tar is not cut); None makes one file."""
    max_side: int | None = None
    """Make images with a longer side smaller (antialiased), as JPEG; None copies JPEGs of any size."""
    quality: int = 90
    """JPEG quality where `max_side` makes an image smaller."""
    per_class: int | None = None
    """Take so many files of each class, in sorted order; None takes all."""
    skip_per_class: int = 0
    """Skip so many files of each class first."""
    exif: Literal["upright", "ignore"] = "ignore"
    """`upright` stores turned photographs as upright pixels; `ignore` copies them, as torchvision reads them."""
    verify: Literal["full", "header"] = "header"
    """`header` looks whether a JPEG is whole (markers, sizes, end); `full` decodes it, at a fifth of the speed."""
    page_size: int = DEFAULT_PAGE_SIZE
    """Least bytes of a page; pages grow to hold the largest source file."""
    strict: bool = False
    """Make nothing where any file is rejected."""
    overwrite: bool = False
    """Replace a beton that is there."""

    def __post_init__(self) -> None:
        self.runner()
        if self.engine == "ray" and self.shard_size is None:
            raise ValueError("engine ray spreads shards over machines: give --shard-size, for instance 4GiB")
        if self.shard_size is not None and self.shard_size < 1:
            raise ValueError(f"shard-size {self.shard_size}: give at least 1 byte, for instance 4GiB")
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"max-side {self.max_side}: give a number of pixels, for instance 512")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality}: give 1 to 100")
        if (self.per_class is not None and self.per_class < 1) or self.skip_per_class < 0:
            raise ValueError("per-class and skip-per-class: give at least 1 and 0")

    def runner(self) -> Engine:
        """Give the engine that makes the shards."""
        return Engine(kind=self.engine, workers=self.workers, address=self.address)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a conversion did. `images_per_second` counts the files that this run treated, from the first
    listing to the last byte on disk; `resumed_files` were finished by an earlier run; `shards` is 0 where one file
    was made.
    """

    out: str
    images: int
    jpegs: int
    classes: int
    rejected: dict[str, int]
    rejected_list: str | None
    ignored: int
    bytes: int
    page_size: int
    shards: int
    resumed_files: int
    seconds: float
    images_per_second: float
