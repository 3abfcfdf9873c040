"""One file of a folder or of an archive, here or behind a URL, read as a whole."""

from __future__ import annotations

import errno
import os
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from typing import NamedTuple

from pipelines.prepare import remote

MAX_FILE_BYTES = 1 << 30
WHOLE_FILE = -1
_MAX_OPEN = 8


class Source(NamedTuple):
    """One file that may be an image: `size` bytes at `offset` of `container`, or the file `container/name`.

    `container` is a path or a URL; `label` its class, -1 for none; `method` the zip compression (0 or 8);
    `stamp` the time of its last change, ns (of a URL: a number that changes with the file).
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
        return f"{self.container}{'/' if self.offset == WHOLE_FILE else ':'}{self.name}"


def has_suffix(archive: str, *suffixes: str) -> bool:
    """Say whether the name of an archive ends so, in letters of any case, before the query of a presigned URL."""
    return remote.without_query(archive).lower().endswith(suffixes)


class SourceReader:
    """Read sources; keeps the last few archives open.

    Args:
        copies: copy an archive behind a URL to a temporary file when it is first wanted, and keep it: for those who
            want all members of a few archives. Otherwise members are read by ranges.
    """

    def __init__(self, *, copies: bool = False) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()
        self._copies = copies

    def read(self, source: Source) -> bytes:
        """Give the whole file; OSError where it cannot be read, ValueError where it is cut, damaged, changed or
        huge.
        """
        if source.size > MAX_FILE_BYTES:
            raise ValueError(f"it has {source.size:,} bytes, more than any image")
        if source.offset == WHOLE_FILE:
            data = _read_file(source)
            if len(data) != source.size:
                raise ValueError("it changed while it was being converted")
            return data
        offset = source.offset
        if has_suffix(source.container, ".zip"):
            # The local header's name and extra field lie before the data (APPNOTE 4.3.7).
            header = self.read_range(source.container, offset, 30)
            offset += 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        data = self.read_range(source.container, offset, source.size)
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

    def read_range(self, container: str, offset: int, size: int) -> bytes:
        """Read `size` bytes of an archive, fewer where it ends; a plain OSError where the archive cannot be read."""
        try:
            if remote.is_url(container) and not self._copies:
                return remote.read_range(container, offset, size)
            return os.pread(self.descriptor(container), size, offset)
        except (FileNotFoundError, PermissionError) as error:  # the archive's: not one image's to be rejected for
            raise OSError(f"{container}: {error.strerror}" if error.strerror else str(error)) from None

    def descriptor(self, container: str) -> int:
        """Open an archive, or take it from those that are open; without copies others push it out again."""
        if container in self._open:
            self._open.move_to_end(container)
        else:
            self._open[container] = _copied(container) if remote.is_url(container) else os.open(container, os.O_RDONLY)
            if len(self._open) > _MAX_OPEN and not self._copies:
                os.close(self._open.popitem(last=False)[1])
        return self._open[container]

    def close(self) -> None:
        """Close the archives."""
        while self._open:
            os.close(self._open.popitem()[1])


def _read_file(source: Source) -> bytes:
    if remote.is_url(source.container):
        return remote.read(f"{source.container}/{source.name}")
    with open(os.path.join(source.container, source.name), "rb", buffering=0) as file:
        return file.read()


def _copied(url: str) -> int:
    """Copy a file to a temporary one, which has no name any more; gives its descriptor."""
    (described,) = remote.describe([url])
    try:
        with tempfile.TemporaryFile() as file:
            remote.fetch(described, file)
            return os.dup(file.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            f"{tempfile.gettempdir()}: {error.strerror}, where {url} was being copied to; what is finished is kept: "
            "make room there or name another folder by TMPDIR, and run the same command again"
        ) from None
