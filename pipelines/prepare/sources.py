"""Where images come from: listed once in final order, on disk, so that a plan takes no memory however long it is.

The plan is an SQLite file. Listing appends files as they come, SQLite sorts them (outside of memory where there are
many), and whoever converts a part reads that part of the file.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from pipelines.prepare import webdataset
from pipelines.prepare.listing import SPLITS, Found, archive_files, archives_of, class_folders, folder_files
from pipelines.prepare.reading import MAX_FILE_BYTES, Source, SourceReader

# So many KiB of the file SQLite keeps in memory, and so many of what it sorts.
_CACHE_KIB = 32768
_TABLES = f"""
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -{_CACHE_KIB};
    PRAGMA temp_store = FILE;
    ATTACH '' AS work;
    PRAGMA work.journal_mode = OFF;
    PRAGMA work.cache_size = -{_CACHE_KIB};
    CREATE TABLE work.found (number INTEGER PRIMARY KEY, container INTEGER, path BLOB, offset INTEGER, size INTEGER,
        method INTEGER, crc INTEGER, stamp INTEGER, implied BLOB);
    CREATE TABLE containers (number INTEGER PRIMARY KEY, name BLOB);
    CREATE TABLE sources (number INTEGER PRIMARY KEY, container INTEGER, name BLOB, offset INTEGER, size INTEGER,
        label INTEGER, method INTEGER, crc INTEGER, stamp INTEGER);
"""


class StoredSources(Sequence[Source]):
    """The images of a source in order, read from the plan's file when they are asked for."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection
        self._containers = _containers(connection)
        (self._count,) = connection.execute("SELECT count(*) FROM sources").fetchone()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Source]:
        return _read(self._connection, self._containers, 0, self._count)

    def __getitem__(self, number: int) -> Source:  # type: ignore[override]
        if not 0 <= number < self._count:
            raise IndexError(f"source {number} is not among {self._count}")
        return self.part(int(number), int(number) + 1)[0]

    def part(self, start: int, stop: int) -> list[Source]:
        """Give those from number `start` to before `stop`."""
        return list(_read(self._connection, self._containers, start, stop))

    def sizes(self) -> Iterator[int]:
        """Yield the size of each."""
        return (size for (size,) in self._connection.execute("SELECT size FROM sources ORDER BY number"))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be converted."""

    sources: StoredSources
    """All images in final order."""
    classes: list[str] | None
    """Names of the classes; None where there are no classes, or they have numbers only."""
    ignored: int
    """Files passed over: outside of every class folder, or beside an image (.json, .txt)."""
    bytes: int
    """Size of all sources."""
    largest: int
    """Size of the largest that may be an image."""
    key: str
    """Hash of names, sizes, labels and times of change, so that a resumed conversion notices other sources."""

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *_: object) -> None:
        self.sources.close()


def plan(
    source: str | Path, *, path: Path | None = None, skip_per_class: int = 0, per_class: int | None = None
) -> Plan:
    """List the images of a folder, a .tar, a folder or pattern of .tar files, or a .zip, here or behind a URL.

    The order is that of torchvision's `ImageFolder`: classes sorted, then folders, then names; so one tree
    gives the same beton however it is packed. Hidden files are passed over. A folder that all members of an
    archive share is dropped where class folders remain. ImageNet's tar of one tar per class is read as it
    is. Of archives in WebDataset's layout the order is their own, and labels are those of the .cls files.

    Args:
        source: a path, a pattern (`*`, `?`, `{0000..0146}`), or a URL of either.
        path: where the plan is written, None for a temporary file; `read_part` reads it from any process.
        skip_per_class: leave out so many files of each class first,
        per_class: and then keep so many (None: all). What is counted are files, whether or not they turn out to be
            images, so that two subsets never overlap.

    Raises FileNotFoundError, ValueError where the source is none of these or has no files, or OSError where the disk is
    full.
    """
    archives = archives_of(str(source))
    folders = class_folders(str(source)) if archives is None else None
    found = folder_files(str(source)) if archives is None else archive_files(archives)
    if path is not None:
        path.unlink(missing_ok=True)
    # Without SQLite's own locks, which network file systems may lack: a conversion has one of its own.
    file = "" if path is None else f"{path.absolute().as_uri()}?nolock=1"
    connection = sqlite3.connect(file, isolation_level=None, uri=True)
    try:
        connection.executescript(_TABLES)
        listed = _Listed(connection, found, is_archive=archives is not None)
        if not listed.count:
            raise ValueError(f"{source}: has no files; give a folder of images, or of class folders with images")
        ordered = _Ordered(listed, folders, skip_per_class=skip_per_class, per_class=per_class)
        connection.execute("DETACH work")
        if not ordered.count:
            raise ValueError(f"{source}: no class has more than {skip_per_class} files; lower --skip-per-class")
        return Plan(
            sources=StoredSources(connection),
            classes=ordered.classes,
            ignored=ordered.ignored,
            bytes=ordered.bytes,
            largest=ordered.largest,
            key=ordered.key,
        )
    except BaseException as error:
        connection.close()
        if path is not None:
            path.unlink(missing_ok=True)
        if isinstance(error, sqlite3.OperationalError):
            raise OSError(
                f"{source}: {error}, while its files were listed{'' if path is None else f' to {path}'}; make room "
                "there and in SQLite's temporary folder, or name another of these by SQLITE_TMPDIR"
            ) from None
        raise


def read_part(path: str | Path, start: int, stop: int) -> list[Source]:
    """Give the sources from number `start` to before `stop` of a plan that lies in a file."""
    uri = f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        return list(_read(connection, _containers(connection), start, stop))


def _containers(connection: sqlite3.Connection) -> dict[int, str]:
    return {number: _text(name) for number, name in connection.execute("SELECT number, name FROM containers")}


def _read(connection: sqlite3.Connection, containers: dict[int, str], start: int, stop: int) -> Iterator[Source]:
    rows = connection.execute(
        "SELECT container, name, offset, size, label, method, crc, stamp FROM sources"
        " WHERE number >= ? AND number < ? ORDER BY number",
        (start, stop),
    )
    for container, name, *rest in rows:
        yield Source(containers[container], _text(name), *rest)


# Names may be anything but UTF-8. Surrogates pass, so that the bytes sort as Python sorts the text.
def _blob(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogatepass")


class _Listed:
    """The files of a source, in a table as they came, and what their paths have in common."""

    def __init__(self, connection: sqlite3.Connection, found: Iterable[Found], *, is_archive: bool):
        self.connection = connection
        self.containers: dict[str, int] = {}
        self.count = self.deepest = 0
        self._has_labels = self._has_sidecars = self._has_implied = False
        self._common: list[str] | None = None
        connection.execute("BEGIN")
        rows = self._rows(found, is_archive=is_archive)
        connection.executemany("INSERT INTO work.found VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        names = ((number, _blob(name)) for name, number in self.containers.items())
        connection.executemany("INSERT INTO containers VALUES (?, ?)", names)
        connection.execute("COMMIT")
        # An archive's shared leading folder is dropped; a folder is taken as it stands.
        self.dropped = self._shared_folders() if is_archive else 0
        self.has_classes = self._has_implied or self.deepest - self.dropped > 1
        self.is_webdataset = self._has_labels or (self._has_sidecars and not self.has_classes)
        connection.create_function("place", 2, self._place, deterministic=True)

    def _rows(self, found: Iterable[Found], *, is_archive: bool) -> Iterator[tuple[Any, ...]]:
        for self.count, f in enumerate(found, 1):
            parts = f.path.split("/")
            if len(parts) > self.deepest:
                self.deepest = len(parts)
            if self._common is None:
                self._common = parts
            elif parts[: len(self._common)] != self._common:
                pairs = zip(self._common, parts, strict=False)
                self._common = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
            if is_archive and f.path.endswith(webdataset.SIDECARS):
                self._has_sidecars = True
                self._has_labels = self._has_labels or f.path.endswith(webdataset.LABEL)
            self._has_implied = self._has_implied or f.implied is not None
            container = self.containers.setdefault(f.container, len(self.containers))
            implied = None if f.implied is None else _blob(f.implied)
            yield self.count, container, _blob(f.path), f.offset, f.size, f.method, f.crc, f.stamp, implied

    def _shared_folders(self) -> int:
        """Count the leading folders that all paths share, leaving one folder to each path unless it names a
        split.
        """
        common, dropped = self._common or [], 0
        while dropped < len(common):
            # The deepest path counts: a README beside the class folders is no class.
            rest = self.deepest - dropped - 1
            if rest < 1 or (rest < 2 and common[dropped].lower() not in SPLITS):
                break
            dropped += 1
        return dropped

    def _place(self, path: bytes, implied: bytes | None) -> bytes:
        """Give what files are sorted by: class, folders, name; those outside of every class come first."""
        *above, name = path.split(b"/")[self.dropped :]
        group = above[0] if above else implied
        return b"\0".join((group or b"", b"/".join(above[1:]), name))

    def found(self, *, in_order: bool) -> Iterator[Found]:
        """Yield the files, sorted or as they were listed."""
        names = list(self.containers)
        order = "place(path, implied), number" if in_order else "number"
        rows = self.connection.execute(
            f"SELECT container, path, offset, size, method, crc, stamp, implied FROM work.found ORDER BY {order}"
        )
        for container, path, offset, size, method, crc, stamp, implied in rows:
            group = None if implied is None else _text(implied)
            yield Found(names[container], _text(path), offset, size, method, crc, stamp, group)


class _Ordered:
    """The files in final order, with their labels, in their table; and what they come to."""

    def __init__(self, listed: _Listed, folders: list[str] | None, *, skip_per_class: int, per_class: int | None):
        self.classes: list[str] | None = None
        self.count = self.ignored = self.bytes = self.largest = 0
        self._digest = hashlib.sha256()
        with closing(SourceReader()) as reader:
            if listed.is_webdataset:
                sources = webdataset.samples(listed.found(in_order=False), reader.read)
            elif listed.has_classes:
                self.classes = list(folders or ())
                sources = _labelled(listed, self.classes)
            else:
                sources = (webdataset.as_source(f, -1) for f in listed.found(in_order=True))
            kept = _subset(self._present(sources), skip_per_class=skip_per_class, per_class=per_class)
            rows = self._rows(kept, listed.containers)
            listed.connection.execute("BEGIN")
            listed.connection.executemany("INSERT INTO sources VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            listed.connection.execute("COMMIT")
        self._digest.update(repr(self.classes).encode("utf-8", "surrogatepass"))
        self.key = self._digest.hexdigest()

    def _present(self, sources: Iterable[Source | None]) -> Iterator[Source]:
        for source in sources:
            if source is None:
                self.ignored += 1
            else:
                yield source

    def _rows(self, sources: Iterable[Source], containers: dict[str, int]) -> Iterator[tuple[Any, ...]]:
        for source in sources:
            self._digest.update(repr(tuple(source)).encode("utf-8", "surrogatepass"))
            self.bytes += source.size
            if source.size <= MAX_FILE_BYTES:
                self.largest = max(self.largest, source.size)
            yield self.count, containers[source.container], _blob(source.name), *source[2:]
            self.count += 1


def _labelled(listed: _Listed, classes: list[str]) -> Iterator[Source | None]:
    """Yield the files of class folders with their labels, None for those outside of every class.

    `classes` are the names known before, sorted: like torchvision a folder counts its classes without images too. An
    archive's are appended as they come, which is sorted.
    """
    label = {name: number for number, name in enumerate(classes)}
    for f in listed.found(in_order=True):
        *above, _ = f.path.split("/")[listed.dropped :]
        group = above[0] if above else f.implied
        if group is None:
            yield None
            continue
        if group not in label:
            label[group] = len(classes)
            classes.append(group)
        yield webdataset.as_source(f, label[group])


def _subset(sources: Iterable[Source], *, skip_per_class: int, per_class: int | None) -> Iterator[Source]:
    seen: dict[int, int] = {}
    for source in sources:
        place = seen.get(source.label, 0)
        seen[source.label] = place + 1
        if place >= skip_per_class and (per_class is None or place < skip_per_class + per_class):
            yield source


def chunks(sources: Iterable[Source], *, max_bytes: int, max_images: int) -> list[range]:
    """Cut the plan into ranges of at most about `max_bytes` of payload, as far as suffixes and sizes tell."""
    cuts, start, weight, count = [], 0, 0, 0
    for count, source in enumerate(sources, 1):
        # Anything but a JPEG is stored as pixels, commonly about eight times its size.
        jpeg = source.name.lower().endswith((".jpg", ".jpeg"))
        weight += source.size if jpeg else 8 * source.size
        if weight >= max_bytes or count - start >= max_images:
            cuts.append(range(start, count))
            start, weight = count, 0
    if start < count:
        cuts.append(range(start, count))
    return cuts
