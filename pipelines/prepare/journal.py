"""What an interrupted conversion has finished: one line per chunk, in order, beside the partial file."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.prepare.writer import place


class Finished(NamedTuple):
    """A chunk whose payload is in the file: its number, where it begins, `rows` (mode, width, height, size)
    of its images, `rejected` (position in the chunk, reason), and the CRC-32 of its payloads.
    """

    number: int
    position: int
    rows: list[tuple[int, int, int, int]]
    rejected: list[tuple[int, str]]
    crc: int

    def place(self, page_size: int) -> tuple[list[int], int]:
        """Give the pointers of the images and the end of the chunk."""
        return place(self.position, [row[3] for row in self.rows], page_size)


class Journal:
    """Append finished chunks to a file whose first line names the conversion (sources and options)."""

    def __init__(self, path: Path, key: str):
        new = not path.exists()
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        if new:
            self._file.write(json.dumps({"conversion": key}) + "\n")
            self._file.flush()

    def append(self, finished: Finished | dict[str, Any], *, lasting: bool = False) -> None:
        """Note one more chunk, or what became of a shard; `lasting` waits until the disk has it."""
        fields = finished if isinstance(finished, dict) else finished._asdict()
        self._file.write(json.dumps(fields) + "\n")
        self._file.flush()
        if lasting:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def belongs_to(path: Path, key: str) -> bool:
    """Say whether the journal is that of this conversion."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.loads(file.readline())["conversion"] == key
    except (ValueError, KeyError):
        return False


def read(path: Path) -> list[dict[str, Any]]:
    """Read what was noted; the journal is cut behind the last whole line."""
    noted = []
    with open(path, "r+b") as file:
        good = len(file.readline())
        for line in file:
            try:
                noted.append(json.loads(line))
            except ValueError:  # the line being written when the program was killed
                break
            good += len(line)
        file.truncate(good)
    return noted


def trusted(path: Path, descriptor: int, *, start: int, page_size: int) -> list[Finished]:
    """Read the chunks, from the first on, whose payload is in the file as it was written.

    Each is read back and held against its checksum, since a power cut may have kept the line and lost the
    data. The journal is cut behind the last of them.
    """
    chunks: list[Finished] = []
    position = start
    with open(path, "r+b") as file:
        file.readline()
        good = file.tell()
        for line in file:
            try:
                chunk = Finished(**json.loads(line))
            except (ValueError, TypeError):  # the line being written when the program was killed
                break
            if chunk.number != len(chunks) or chunk.position != position:
                break
            pointers, position = chunk.place(page_size)
            crc = 0
            for pointer, (*_, size) in zip(pointers, chunk.rows, strict=True):
                crc = zlib.crc32(os.pread(descriptor, size, pointer), crc)
            if crc != chunk.crc:
                break
            chunks.append(chunk)
            good += len(line)
        file.truncate(good)
    return chunks
