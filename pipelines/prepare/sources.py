"""Where images come from: a folder, a tar, many tars, a zip; listed once in final order, read by position."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

MAX_FILE_BYTES = 1 << 30
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
# train-00017, imagenet_0003, 000017: a shard's number. n01440764 is none.
_SHARD = re.compile(r"(.*[-_.])?\d+")
_WHOLE_FILE = -1
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAX_OPEN = 8


class Source(NamedTuple):
    """One file that may be an image: `size` bytes at `offset` of `container`, or the file `container/name`.

    `label` is its class, -1 for none; `method` the zip compression (0 or 8); `stamp` the time of its last
    change, ns.
    """

    container: str
    name: str
    offset: int
    size: int
    label: int
    method: int
    crc: int
    stamp: int

    def describe(self) -> str:
        """Name the source for people: its path, or archive and member."""
        return f"{self.container}{'/' if self.offset == _WHOLE_FILE else ':'}{self.name}"


class Plan(NamedTuple):
    """All sources in final order; the class names, None where there are no classes; how many files were
    passed over because they lie outside of every class folder.
    """

    sources: list[Source]
    classes: list[str] | None
    ignored: int

    def key(self) -> str:
        """Hash names, sizes, labels and times of change, so that a resumed conversion notices other
        sources.
        """
        digest = hashlib.sha256(repr(self.classes).encode())
        for source in self.sources:
            digest.update(repr(tuple(source)).encode())
        return digest.hexdigest()

    def subset(self, *, skip_per_class: int, per_class: int | None) -> Plan:
        """Keep `per_class` sources of each class (None: all) after skipping `skip_per_class`, in order.

        What is counted are files, whether or not they turn out to be images, so that two subsets never
        overlap.
        """
        seen: dict[int, int] = {}
        kept = []
        for source in self.sources:
            place = seen.get(source.label, 0)
            seen[source.label] = place + 1
            if place >= skip_per_class and (per_class is None or place < skip_per_class + per_class):
                kept.append(source)
        return self._replace(sources=kept)


class _Found(NamedTuple):
    """A file before its class is known; `implied` is the class that its archive's name suggests."""

    container: str
    path: str
    offset: int
    size: int
    method: int
    crc: int
    stamp: int
    implied: str | None


def plan(source: str | Path) -> Plan:
    """List the images of a folder, a .tar, a folder or glob of .tar files, or a .zip.

    The order is that of torchvision's `ImageFolder`: classes sorted, then folders, then names; so one tree
    gives the same beton however it is packed. Hidden files are passed over. A folder that all members of an
    archive share is dropped where class folders remain. ImageNet's tar of one tar per class is read as it
    is.

    Raises FileNotFoundError, or ValueError where the source is none of these or has no files.
    """
    path = Path(source)
    if path.is_dir():
        tars = sorted(p for p in path.iterdir() if p.suffix == ".tar")
        found = _archive_files(tars, path) if tars else None
        result = _classify(found) if found is not None else _plan_folder(path)
    elif path.is_file() and path.suffix.lower() in (".tar", ".zip"):
        result = _classify(_archive_files([path], path))
    elif path.is_file():
        raise ValueError(f"{source}: not a folder, .tar or .zip; unpack it, or decompress a compressed tar first")
    elif tars := sorted(Path(p) for p in glob.glob(str(source))):
        if other := [p for p in tars if p.suffix.lower() not in (".tar", ".zip") or not p.is_file()]:
            raise ValueError(f"{other[0]}: found by {source}, but not a .tar file; narrow the pattern")
        result = _classify(_archive_files(tars, path))
    else:
        raise FileNotFoundError(f"{source}: no such folder, .tar or .zip, and no file fits it as a pattern")
    if not result.sources:
        raise ValueError(f"{source}: has no files; give a folder of images, or of class folders with images")
    return result


def _plan_folder(root: Path) -> Plan:
    found = list(_walk(root))
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
    splits = [name for name in folders if name.lower() in SPLITS]
    if splits and len(splits) == len(folders):
        raise ValueError(f"{root}: holds splits ({', '.join(splits)}), not classes; give one: {root / splits[0]}")
    return _classify(found, folders=folders)


def _walk(root: Path) -> Iterator[_Found]:
    """Yield the regular files below `root`, following links to folders but no loops."""
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while pending:
        folder, above = pending.pop()
        here = os.stat(os.path.join(root, folder))
        if (here.st_dev, here.st_ino) in above:
            continue
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir():
                    pending.append((path, (*above, (here.st_dev, here.st_ino))))
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:  # a broken link is a file that cannot be read, not one that is not there
                    status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) or entry.is_symlink():
                    yield _Found(str(root), path, _WHOLE_FILE, status.st_size, 0, -1, status.st_mtime_ns, None)


def _archive_files(archives: list[Path], source: Path) -> list[_Found]:
    # A flat tar among several names its class, unless its name is a shard's number.
    per_class = len(archives) > 1 and not any(_SHARD.fullmatch(archive.stem) for archive in archives)
    found: list[_Found] = []
    for archive in archives:
        if archive.suffix.lower() == ".zip":
            found += _zip_files(archive)
        else:
            found += _tar_files(archive, archive.stem if per_class else None)
    if any(f.path.endswith(".cls") for f in found):
        raise ValueError(f"{source}: has .cls labels (WebDataset), which are not read; unpack it into class folders")
    return [f for f in found if not any(p.startswith(".") or p == "__MACOSX" for p in f.path.split("/"))]


def _tar_files(path: Path, implied: str | None) -> list[_Found]:
    stamp = path.stat().st_mtime_ns
    found: list[_Found] = []
    try:
        with tarfile.open(path, "r:") as outer:
            for member in outer:
                if not member.isreg():
                    continue
                if not member.name.endswith(".tar"):
                    found.append(_tar_member(path, member, stamp, implied))
                    continue
                inner_class, end = PurePosixPath(member.name).stem, member.offset_data + member.size
                with open(path, "rb") as file:
                    file.seek(member.offset_data)
                    with tarfile.open(fileobj=file, mode="r:") as inner:
                        for deeper in inner:
                            # Without its closing zeros an inner tar runs on into the outer one.
                            if deeper.offset_data + deeper.size > end:
                                break
                            if deeper.isreg():
                                found.append(_tar_member(path, deeper, stamp, inner_class))
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a readable, uncompressed tar ({error}); decompress or copy it again") from None
    return found


def _tar_member(path: Path, member: tarfile.TarInfo, stamp: int, implied: str | None) -> _Found:
    if member.issparse():
        raise ValueError(f"{path}: {member.name} is a sparse member, which is not read; make the tar without --sparse")
    name = str(PurePosixPath(member.name))
    return _Found(str(path), name, member.offset_data, member.size, 0, -1, stamp, implied)


def _zip_files(path: Path) -> list[_Found]:
    stamp = path.stat().st_mtime_ns
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                if member.flag_bits & 1 or member.compress_type not in _ZIP_METHODS:
                    what = f"{member.filename} is encrypted, or neither stored nor deflated"
                    raise ValueError(f"{path}: {what}; unpack the zip into a folder")
                found.append(
                    _Found(
                        container=str(path),
                        path=str(PurePosixPath(member.filename)),
                        offset=member.header_offset,
                        size=member.compress_size,
                        method=member.compress_type,
                        crc=member.CRC,
                        stamp=stamp,
                        implied=None,
                    )
                )
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a readable zip ({error}); copy it again") from None
    return found


def _classify(found: list[_Found], *, folders: list[str] | None = None) -> Plan:
    """Give every file its class and sort them. An archive's (`folders` None) shared leading folder is
    dropped; a folder is taken as it stands, and like torchvision counts class folders without images.
    """
    dropped = _shared_folder([f.path.split("/") for f in found]) if folders is None else 0
    named: list[tuple[str | None, str, str, _Found]] = []
    for f in found:
        *above, name = f.path.split("/")[dropped:]
        group = above[0] if above else f.implied
        named.append((group, "/".join(above[1:]), name, f))
    names = sorted({group for group, *_ in named if group is not None})
    if not names:
        named.sort(key=lambda n: n[1:3])
        return Plan([_source(f, -1) for *_, f in named], None, 0)
    names = sorted({*names, *(folders or ())})
    inside = sorted((n for n in named if n[0] is not None), key=lambda n: n[:3])
    label = {name: index for index, name in enumerate(names)}
    return Plan([_source(f, label[group]) for group, *_, f in inside if group], names, len(named) - len(inside))


def _shared_folder(paths: list[list[str]]) -> int:
    """Count the leading folders that all paths share, leaving one folder to each path unless it names a
    split.
    """
    dropped = 0
    while len({tuple(path[: dropped + 1]) for path in paths}) == 1:
        # The deepest path counts: a README beside the class folders is no class.
        rest = max(len(path) for path in paths) - dropped - 1
        if rest < 1 or (rest < 2 and paths[0][dropped].lower() not in SPLITS):
            break
        dropped += 1
    return dropped


def _source(found: _Found, label: int) -> Source:
    return Source(found.container, found.path, found.offset, found.size, label, found.method, found.crc, found.stamp)


class SourceReader:
    """Read sources; keeps the last few archives open."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, source: Source) -> bytes:
        """Give the whole file; OSError where it cannot be read, ValueError where it is cut, damaged, changed or
        huge.
        """
        if source.size > MAX_FILE_BYTES:
            raise ValueError(f"it has {source.size:,} bytes, more than any image")
        if source.offset == _WHOLE_FILE:
            with open(os.path.join(source.container, source.name), "rb", buffering=0) as file:
                data = file.read()
            if len(data) != source.size:
                raise ValueError("it changed while it was being converted")
            return data
        descriptor = self._descriptor(source.container)
        offset = source.offset
        if source.container.lower().endswith(".zip"):
            # The local header's name and extra field lie before the data (APPNOTE 4.3.7).
            header = os.pread(descriptor, 30, offset)
            offset += 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        data = os.pread(descriptor, source.size, offset)
        if len(data) != source.size:
            raise ValueError("the archive ends within it")
        if source.method == zipfile.ZIP_DEFLATED:
            inflate = zlib.decompressobj(-15)
            try:
                data = inflate.decompress(data, MAX_FILE_BYTES)
            except zlib.error as error:
                raise ValueError(f"the archive is damaged ({error})") from None
            if inflate.unconsumed_tail:
                raise ValueError(f"it unfolds to more than {MAX_FILE_BYTES:,} bytes, more than any image")
        if source.crc >= 0 and zlib.crc32(data) != source.crc:
            raise ValueError("the archive is damaged (checksum)")
        return data

    def _descriptor(self, container: str) -> int:
        if container in self._open:
            self._open.move_to_end(container)
        else:
            self._open[container] = os.open(container, os.O_RDONLY)
            if len(self._open) > _MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
        return self._open[container]

    def close(self) -> None:
        """Close the archives."""
        while self._open:
            os.close(self._open.popitem()[1])


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
