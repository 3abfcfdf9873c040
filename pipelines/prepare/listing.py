"""What files a source has: a folder, a tar, many tars, a zip, here or behind a URL; one after the other, unsorted."""

from __future__ import annotations

import glob
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from pipelines.prepare import remote
from pipelines.prepare.reading import WHOLE_FILE, has_suffix

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
ARCHIVES = (".tar", ".zip")
# train-00017, imagenet_0003, 000017: a shard's number. n01440764 is none.
_SHARD = re.compile(r"(.*[-_.])?\d+")
_BRACES = re.compile(r"\{([^{}]*)\}")
# ./a, a//b, a/./b: what pathlib tidies, at 5 µs a name, and few archives have.
_UNTIDY = re.compile(r"^\.?/|//|/\./|/\.?$")
# Zeros that a tar may end with: tar fills records, of 10 KiB by default.
_MOST_ZEROS = 1 << 20
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Found(NamedTuple):
    """A file before its class is known; `implied` is the class that its archive's name suggests."""

    container: str
    path: str
    offset: int
    size: int
    method: int
    crc: int
    stamp: int
    implied: str | None


# ---- what the user named --------------------------------------------------------------------------------------


def archives_of(source: str) -> list[str] | None:
    """Name the archives that a source is made of, sorted as their folders are; None where it is a folder of images.

    Raises FileNotFoundError, or ValueError where the source is neither.
    """
    if remote.is_url(source):
        return _remote_archives(source)
    path = Path(source)
    if path.is_dir():
        return [str(p) for p in sorted(path.iterdir()) if p.suffix == ".tar"] or None
    if path.is_file():
        if not has_suffix(source, *ARCHIVES):
            raise ValueError(f"{source}: not a folder, .tar or .zip; unpack it, or decompress a compressed tar first")
        return [source]
    named: list[str] = []
    for pattern in expand_braces(source):
        fitting = [str(p) for p in sorted(Path(p) for p in glob.glob(pattern))]
        if not fitting:
            missing = "" if pattern == source else f" ({pattern})"
            raise FileNotFoundError(
                f"{source}: no such folder, .tar or .zip, and no file fits it as a pattern{missing}"
            )
        named += fitting
    if other := [p for p in named if not has_suffix(p, *ARCHIVES) or not os.path.isfile(p)]:
        raise ValueError(f"{other[0]}: found by {source}, but not a .tar file; narrow the pattern")
    return named


def _remote_archives(source: str) -> list[str] | None:
    named: list[str] = []
    for pattern in expand_braces(source):
        fitting = remote.matching(pattern) if remote.is_pattern(pattern) else [pattern]
        if not fitting:
            raise FileNotFoundError(f"{source}: no file fits {pattern}")
        named += fitting
    if all(has_suffix(name, *ARCHIVES) for name in named):
        return named
    if len(named) > 1 or remote.is_pattern(source):
        other = next(name for name in named if not has_suffix(name, *ARCHIVES))
        raise ValueError(f"{other}: found by {source}, but not a .tar file; narrow the pattern")
    if remote.is_file(source):
        raise ValueError(f"{source}: not a folder, .tar or .zip; unpack it, or decompress a compressed tar first")
    _, _, files = next(remote.walk(source))
    return sorted(file.url for name, file in files if name.endswith(".tar")) or None


def expand_braces(pattern: str) -> list[str]:
    """Expand `{0000..0146}` and `{a,b}` as a shell does, leading zeros kept.

    Raises ValueError where a range counts down.
    """
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    first, dots, last = braces[1].partition("..")
    if dots and first.isdigit() and last.isdigit():
        if int(last) < int(first):
            raise ValueError(f"{pattern}: {{{braces[1]}}} counts down; give the smaller number first")
        width = len(first) if first[0] == "0" or len(first) == len(last) else 1
        choices = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = braces[1].split(",")
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [name for choice in choices for name in expand_braces(f"{before}{choice}{after}")]


# ---- folders --------------------------------------------------------------------------------------------------


def class_folders(root: str) -> list[str]:
    """Name the folders in a folder, sorted; ValueError where they are splits (train, val), not classes."""
    if remote.is_url(root):
        _, folders, _ = next(remote.walk(root))
    else:
        folders = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    folders = sorted(name for name in folders if name[0] != ".")
    splits = [name for name in folders if name.lower() in SPLITS]
    if splits and len(splits) == len(folders):
        one = f"{root.rstrip('/')}/{splits[0]}"
        raise ValueError(f"{root}: holds splits ({', '.join(splits)}), not classes; give one: {one}")
    return folders


def folder_files(root: str) -> Iterator[Found]:
    """Yield the files below a folder, hidden ones left out."""
    return _remote_walk(root.rstrip("/")) if remote.is_url(root) else _walk(root)


def _walk(root: str) -> Iterator[Found]:
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
                    yield Found(root, path, WHOLE_FILE, status.st_size, 0, -1, status.st_mtime_ns, None)


def _remote_walk(root: str) -> Iterator[Found]:
    for below, _, files in remote.walk(root):
        for name, file in files:
            path = f"{below}/{name}" if below else name
            if not any(part.startswith(".") for part in path.split("/")):
                yield Found(root, path, WHOLE_FILE, file.size, 0, -1, file.stamp, None)


# ---- archives -------------------------------------------------------------------------------------------------


def archive_files(archives: list[str]) -> Iterator[Found]:
    """Yield the files in archives, in the order of the archives and of their members, hidden ones left out."""
    # A flat tar among several names its class, unless its name is a shard's number.
    stems = [PurePosixPath(remote.without_query(archive)).stem for archive in archives]
    per_class = len(archives) > 1 and not any(_SHARD.fullmatch(stem) for stem in stems)
    for archive, stem in zip(archives, stems, strict=True):
        implied = stem if per_class else None
        found = _zip_files(archive) if has_suffix(archive, ".zip") else _tar_files(archive, implied)
        yield from without_hidden(found)


def without_hidden(found: Iterable[Found]) -> Iterator[Found]:
    """Leave out what Unix hides and what macOS adds to an archive."""
    return (f for f in found if not any(p.startswith(".") or p == "__MACOSX" for p in f.path.split("/")))


def tar_files_at(descriptor: int, container: str) -> Iterator[Found]:
    """Yield the files of a tar that is open, as those of `container`, hidden ones left out."""
    with open(os.dup(descriptor), "rb") as file:
        file.seek(0)
        yield from without_hidden(_members_of_tar(file, container, 0, None))


def _tar_files(archive: str, implied: str | None) -> Iterator[Found]:
    with closing(_opened(archive)) as file:
        yield from _members_of_tar(file, archive, _stamp(archive), implied)


def _members_of_tar(file: IO[bytes], container: str, stamp: int, implied: str | None) -> Iterator[Found]:
    """Yield the files of a tar; of a tar of tars (ImageNet's) those of the inner ones, whose names are classes."""
    try:
        for member in _members(file, None):
            if not member.name.endswith(".tar"):
                yield _tar_member(container, member, stamp, implied)
                continue
            inner_class, end = PurePosixPath(member.name).stem, member.offset_data + member.size
            file.seek(member.offset_data)  # tarfile finds its own place again
            for deeper in _members(file, end):
                yield _tar_member(container, deeper, stamp, inner_class)
    except tarfile.TarError as error:
        raise ValueError(
            f"{container}: not a readable, uncompressed tar ({error}); decompress or copy it again"
        ) from None


def _members(file: IO[bytes], end: int | None) -> Iterator[tarfile.TarInfo]:
    """Yield the files and links of a tar that begins where `file` stands, up to byte `end` where it lies in another."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] - tarfile would keep a kilobyte of each
            # Without its closing zeros an inner tar runs on into the outer one.
            if end is not None and member.offset_data + member.size > end:
                return
            if member.isreg() or member.islnk() or member.issym():
                yield member
        stopped: int = tar.offset  # type: ignore[attr-defined]
    if end is None or stopped < end:
        _check_end(file, stopped, end)


def _check_end(file: IO[bytes], stopped: int, end: int | None) -> None:
    """Raise tarfile.ReadError where a tar does not end at `stopped`: tarfile takes any block that it cannot read for
    the end.
    """
    left = (file.seek(0, os.SEEK_END) if end is None else end) - stopped
    file.seek(stopped)
    zeros = file.read(min(left, _MOST_ZEROS))
    if len(zeros) < tarfile.BLOCKSIZE or any(zeros[: tarfile.BLOCKSIZE]):
        raise tarfile.ReadError(f"no end-of-archive mark at byte {stopped:,}: cut or damaged there")
    if zeros.strip(b"\0"):
        raise tarfile.ReadError(f"more lies behind the end-of-archive mark at byte {stopped:,}")
    if left > _MOST_ZEROS:
        raise tarfile.ReadError(f"{left:,} bytes lie behind the end at byte {stopped:,}, as of an unfinished download")


def _tar_member(container: str, member: tarfile.TarInfo, stamp: int, implied: str | None) -> Found:
    if member.issparse():
        raise ValueError(
            f"{container}: {member.name} is a sparse member, which is not read; make the tar without --sparse"
        )
    if not member.isreg():
        raise ValueError(
            f"{container}: {member.name} is a link, which is not read; make the tar with --dereference "
            "--hard-dereference"
        )
    name = _tidy(member.name)
    return Found(container, name, member.offset_data, member.size, 0, -1, stamp, implied)


def _zip_files(archive: str) -> Iterator[Found]:
    stamp = _stamp(archive)
    try:
        with closing(_opened(archive)) as file, zipfile.ZipFile(file) as members:
            for member in members.infolist():
                if member.is_dir():
                    continue
                if member.flag_bits & 1 or member.compress_type not in _ZIP_METHODS:
                    what = f"{member.filename} is encrypted, or neither stored nor deflated"
                    raise ValueError(f"{archive}: {what}; unpack the zip into a folder")
                yield Found(
                    container=archive,
                    path=_tidy(member.filename),
                    offset=member.header_offset,
                    size=member.compress_size,
                    method=member.compress_type,
                    crc=member.CRC,
                    stamp=stamp,
                    implied=None,
                )
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive}: not a readable zip ({error}); copy it again") from None


def _tidy(name: str) -> str:
    return str(PurePosixPath(name)) if _UNTIDY.search(name) else name


def _opened(archive: str) -> IO[bytes]:
    return remote.open_stream(archive) if remote.is_url(archive) else open(archive, "rb")


def _stamp(archive: str) -> int:
    return remote.describe([archive])[0].stamp if remote.is_url(archive) else os.stat(archive).st_mtime_ns
