"""One chunk of a conversion: read its sources, decide what is stored of each, write that where it belongs."""

from __future__ import annotations

import signal
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from pipelines.prepare.images import Rejected, Treatment, store
from pipelines.prepare.reading import Source, SourceReader
from pipelines.prepare.writer import place, write_fully

# A chunk: at most so many bytes of sources, or images.
CHUNK_BYTES, CHUNK_IMAGES = 1 << 24, 2048
# Above this the payload of a chunk waits in a file. JPEGs stay far below; flat PNGs can unfold a hundredfold.
MEMORY_PER_CHUNK = 1 << 27


class Treated:
    """What is to be stored of a chunk, waiting for its place in the file.

    `rows` are (mode, width, height, size) of the images in order; `rejected` are (position in the chunk,
    reason).
    """

    def __init__(self, spill_folder: Path):
        self.rows: list[tuple[int, int, int, int]] = []
        self.rejected: list[tuple[int, str]] = []
        self._payloads: list[bytes] = []
        self._held = 0
        self._spill_folder = spill_folder
        self._spill: IO[bytes] | None = None

    @property
    def sizes(self) -> list[int]:
        """Bytes of each payload."""
        return [row[3] for row in self.rows]

    def add(self, mode: int, width: int, height: int, payload: bytes) -> None:
        """Append an image."""
        self.rows.append((mode, width, height, len(payload)))
        self._payloads.append(payload)
        self._held += len(payload)
        if self._held > MEMORY_PER_CHUNK:
            if self._spill is None:
                self._spill = tempfile.TemporaryFile(dir=self._spill_folder)  # noqa: SIM115 - closed by `write`
            self._spill.writelines(self._payloads)
            self._payloads, self._held = [], 0

    def _all_payloads(self) -> Iterator[bytes]:
        if self._spill is not None:
            self._spill.seek(0)
            for size in self.sizes[: len(self.rows) - len(self._payloads)]:
                yield self._spill.read(size)
            self._spill.close()
        yield from self._payloads

    def write(self, descriptor: int, position: int, page_size: int) -> int:
        """Write the payloads from `position` on; the CRC-32 of all of them, by which a resumed run trusts
        them.
        """
        pointers, _ = place(position, self.sizes, page_size)
        crc = 0
        for pointer, payload in zip(pointers, self._all_payloads(), strict=True):
            write_fully(descriptor, payload, pointer)
            crc = zlib.crc32(payload, crc)
        return crc


def treat(sources: Sequence[Source], treatment: Treatment, *, reader: SourceReader, spill_folder: Path) -> Treated:
    """Read and judge each source of a chunk."""
    treated = Treated(spill_folder)
    for position, source in enumerate(sources):
        try:
            data = reader.read(source)
        except (FileNotFoundError, PermissionError, ValueError) as error:
            # Any other OSError (a lost mount, a bad disk) stops the conversion: it must not thin out the
            # data.
            treated.rejected.append((position, f"unreadable: {getattr(error, 'strerror', None) or error}"))
            continue
        try:
            stored = store(data, treatment)
        except Rejected as error:
            treated.rejected.append((position, str(error)))
        else:
            treated.add(*stored)
    return treated


def serve(connection: Connection, partial: Path, treatment: Treatment) -> None:
    """Treat and write chunks as the parent asks, until it says stop (None) or is gone.

    Two messages make a chunk, ("treat", number, sources) and, once all chunks before it have their place,
    ("write", number, position); answers are ("treated", number, rows, rejected), ("written", number, crc) and
    ("failed", errno, message, file).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    waiting: dict[int, Treated] = {}
    reader = SourceReader()
    try:
        with open(partial, "r+b", buffering=0) as file:
            while (message := connection.recv()) is not None:
                task, number, argument = message
                if task == "treat":
                    treated = treat(argument, treatment, reader=reader, spill_folder=partial.parent)
                    waiting[number] = treated
                    connection.send(("treated", number, treated.rows, treated.rejected))
                else:
                    crc = waiting.pop(number).write(file.fileno(), argument, treatment.page_size)
                    connection.send(("written", number, crc))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except OSError as error:
        connection.send(("failed", error.errno, error.strerror or str(error), error.filename))
    finally:
        reader.close()
