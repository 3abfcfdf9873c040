"""Files behind URLs, read by ranges through fsspec; a network that stumbles is asked again."""

from __future__ import annotations

import functools
import io
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, NamedTuple, TypeVar

RETRY_SECONDS = (0.5, 2.0, 8.0)
FETCH_BYTES = 1 << 24
REQUESTS_AT_A_TIME = 16
# Answers, not accidents: asking again would give the same. The last is fsspec's of a protocol that cannot do a thing.
_FINAL = (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
# HTTP's words for the same.
_NOT_THERE = (404, 410)
_MEND = "what is finished is kept, run the same command again to continue"
# What fsspec's file systems call a file's version, or the time of its last change.
_CHANGE_MARKS = ("ETag", "etag", "mtime", "LastModified", "updated", "created")

T = TypeVar("T")


class RemoteFile(NamedTuple):
    """A file behind a URL; `stamp` is a number that changes with the file, 0 where the server gives none."""

    url: str
    size: int
    stamp: int


def is_url(source: object) -> bool:
    """Say whether a source is a URL rather than a path."""
    return "://" in str(source)


def without_query(name: str) -> str:
    """Cut what follows `?` off a URL of the web, such as a presigned one; a path or another URL stays as it is."""
    return name.partition("?")[0] if _is_web(name) else name


def is_pattern(url: str) -> bool:
    """Say whether a URL is a pattern; on the web `?` begins a query."""
    return any(sign in url for sign in ("*[" if _is_web(url) else "*[?"))


def _is_web(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


@functools.lru_cache(maxsize=64)
def _filesystem(url: str) -> tuple[Any, str]:
    """Give fsspec's file system for a URL, and what it calls the file."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ValueError(f"{url}: reading URLs needs fsspec: pip install 'relicv2[remote]'") from None
    try:
        # fsspec would remember every listing, and a data set's are large.
        return url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or "its package"
        raise ValueError(f"{url}: reading {url.partition(':')[0]}:// needs {missing}: pip install {missing}") from None
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from None


def _patiently(url: str, action: Callable[[], T]) -> T:
    """Do something on the network, again after a pause where it fails; OSError where it keeps failing."""
    for pause in (*RETRY_SECONDS, None):
        try:
            return action()
        except _FINAL as error:
            # No PermissionError: an expired token is not one bad image, and must not thin out the data.
            raise OSError(f"{url}: {error}; {_MEND}") from error
        except Exception as error:  # what a protocol's package raises when a connection breaks is its own affair
            if _is_missing(error):
                raise FileNotFoundError(f"{url}: no such file or folder") from None
            if pause is None:
                reason = error.__cause__ or str(error) or type(error).__name__
                raise OSError(f"{url}: {reason} ({len(RETRY_SECONDS) + 1} attempts); {_MEND}") from error
            time.sleep(pause)
    raise AssertionError


def _is_missing(error: Exception) -> bool:
    """Say whether a server answered that there is no such file."""
    if any(getattr(reason, "status", None) in _NOT_THERE for reason in (error, error.__cause__)):
        return True
    # fsspec's HTTP says of a broken connection, too, that there is no file.
    return isinstance(error, FileNotFoundError) and isinstance(error.__cause__, (FileNotFoundError, type(None)))


def _beside(url: str, fs: Any, path: str, name: str) -> str:
    """Give the URL of what fsspec calls `name`, knowing that it calls `url` `path`."""
    # Not `unstrip_protocol` alone, which knows no hosts (ftp, sftp, hdfs).
    url, path = url.rstrip("/"), path.rstrip("/")
    return f"{url.removesuffix(path)}{name}" if path and url.endswith(path) else fs.unstrip_protocol(name)


def _describe(url: str, info: dict[str, Any]) -> RemoteFile:
    if info.get("size") is None:
        raise ValueError(f"{url}: the server does not say how long it is; copy it to a disk first")
    mark = next((info[key] for key in _CHANGE_MARKS if key in info), 0)
    return RemoteFile(url, int(info["size"]), zlib.crc32(repr(mark).encode()) if mark else 0)


def describe(urls: Sequence[str]) -> list[RemoteFile]:
    """Say how long each file is, many at a time; FileNotFoundError where one is not there."""
    with ThreadPoolExecutor(min(max(len(urls), 1), REQUESTS_AT_A_TIME)) as pool:
        return list(pool.map(_described, urls))


def _described(url: str) -> RemoteFile:
    fs, path = _filesystem(url)
    return _describe(url, _patiently(url, lambda: fs.info(path)))


def matching(url: str) -> list[str]:
    """Give the URLs of the files that fit a pattern of `*`, `?` and `[...]`, sorted."""
    fs, path = _filesystem(url)
    return sorted(_beside(url, fs, path, name) for name in _patiently(url, lambda: fs.glob(path)))


def is_file(url: str) -> bool:
    """Say whether a URL is that of a file, not of a folder."""
    fs, path = _filesystem(url)
    return bool(_patiently(url, lambda: fs.isfile(path)))


def walk(url: str) -> Iterator[tuple[str, list[str], list[tuple[str, RemoteFile]]]]:
    """Yield (path below `url`, names of folders, (name, file) of files) of every folder, one listing at a time."""
    fs, root = _filesystem(url)
    pending = [("", root)]
    while pending:
        below, path = pending.pop()
        listing = _patiently(url, functools.partial(fs.ls, path, detail=True))
        folders, files = [], []
        for info in listing:
            name = info["name"].rstrip("/").rpartition("/")[2]
            if info["type"] == "directory":
                if info["name"].rstrip("/") != path.rstrip("/"):  # object stores list a folder's own marker
                    folders.append(name)
                    pending.append((f"{below}/{name}" if below else name, info["name"]))
            elif name:
                files.append((name, _describe(_beside(url, fs, root, info["name"]), info)))
        yield below, folders, files


class _Ranges(io.RawIOBase):
    """A file behind a URL, each piece of which is asked for again where the network stumbles."""

    def __init__(self, url: str):
        self._url, self._size, self._place = url, describe([url])[0].size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), max(self._size - self._place, 0))
        data = read_range(self._url, self._place, size)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def open_stream(url: str) -> IO[bytes]:
    """Open a file for reading from its start to its end, in large blocks."""
    return io.BufferedReader(_Ranges(url), FETCH_BYTES)


def check_readable(url: str) -> None:
    """Raise ValueError where this machine lacks what reads such URLs."""
    _filesystem(url)


def read(url: str) -> bytes:
    """Read a whole file."""
    fs, path = _filesystem(url)
    return _patiently(url, lambda: fs.cat_file(path))


def read_range(url: str, offset: int, size: int) -> bytes:
    """Read a range of a file, less of it where the file ends."""
    if size == 0:
        return b""
    fs, path = _filesystem(url)
    data = _patiently(url, lambda: fs.cat_file(path, start=offset, end=offset + size))
    if len(data) > size:
        raise OSError(f"{url}: the server does not read ranges; copy it to a disk first")
    return data


def fetch(remote: RemoteFile, file: IO[bytes]) -> None:
    """Copy a file piece by piece, so that a broken connection costs a piece; ValueError where it is cut."""
    for offset in range(0, remote.size, FETCH_BYTES):
        size = min(FETCH_BYTES, remote.size - offset)
        piece = read_range(remote.url, offset, size)
        if len(piece) != size:
            raise ValueError(f"{remote.url}: it became shorter while it was read")
        file.write(piece)
    file.flush()
