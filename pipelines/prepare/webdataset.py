"""WebDataset's layout of a tar: files of one sample follow each other and share their name up to the first dot.

`000017.jpg`, `000017.cls` (the class number in ASCII), `000017.json`, ... The order of the archives and of their
members is the order of the images (https://github.com/webdataset/webdataset, "The WebDataset Format").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from pipelines.prepare.listing import Found
from pipelines.prepare.reading import Source

LABEL = ".cls"
# Beside an image they say that a tar is laid out so.
SIDECARS = (LABEL, ".json", ".txt")
# Those that cannot be stored are listed as rejected, not passed over in silence.
IMAGES = (
    ".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2", ".heic", ".avif",
)  # fmt: skip


def key(path: str) -> str:
    """Give what the files of one sample share: the path up to the first dot of the file's name."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def is_laid_out(found: Iterable[Found]) -> bool:
    """Say whether archives are laid out so as far as some of their files tell for all: one label does.

    Captions do not, since class folders may follow.
    """
    return any(f.path.endswith(LABEL) for f in found)


def samples(found: Iterable[Found], read: Callable[[Source], bytes]) -> Iterator[Source | None]:
    """Yield the images with their labels, -1 where a sample has none, in order; None for each file passed over.

    Args:
        found: files in the order of the archive.
        read: reads one, for the labels.

    Raises ValueError where a .cls file is no class number, or lies apart from what it is the label of.
    """
    for _, group in groupby(found, lambda f: (f.container, key(f.path))):
        files = list(group)
        labels = [_label(as_source(f, -1), read) for f in files if f.path.lower().endswith(LABEL)]
        if labels and all(f.path.lower().endswith(SIDECARS) for f in files):
            # Else the image, elsewhere in the tar, would silently be without a label.
            raise ValueError(
                f"{files[0].container}: no image lies beside {files[0].path}; a sample's files must follow each other: "
                "make the tar with --sort=name"
            )
        for f in files:
            if f.path.lower().endswith(IMAGES):
                yield as_source(f, labels[0] if labels else -1)
            elif not f.path.lower().endswith(LABEL):
                yield None


def as_source(found: Found, label: int) -> Source:
    """Give a file its label."""
    return Source(found.container, found.path, found.offset, found.size, label, found.method, found.crc, found.stamp)


def _label(source: Source, read: Callable[[Source], bytes]) -> int:
    data = read(source) if source.size <= 32 else b"more than 32 bytes"
    # Not all that `int` takes, such as 1_0.
    label = int(data) if re.fullmatch(rb"\s*(-1|[0-9]+)\s*", data) else -2
    if not -1 <= label < 1 << 63:
        raise ValueError(f"{source.describe()}: {data!r} is no class number (0, 1, ... in ASCII); mend the tar")
    return label
