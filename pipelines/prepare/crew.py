"""Many workers, one file: who treats which chunk, and where each chunk's payload begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import wait
from pathlib import Path

from pipelines.prepare.chunk import Treated, serve, treat
from pipelines.prepare.images import Treatment
from pipelines.prepare.journal import Finished
from pipelines.prepare.reading import Source, SourceReader
from pipelines.prepare.worker import Worker
from pipelines.prepare.writer import place

Chunks = Sequence[Sequence[Source]]
# A worker treats its next chunk while the last one waits for its place.
CHUNKS_PER_WORKER = 2


def convert_alone(
    chunks: Chunks, first: int, *, position: int, partial: Path, treatment: Treatment, reader: SourceReader
) -> Iterator[Finished]:
    """Treat and write the chunks from number `first` on in this process."""
    with open(partial, "r+b", buffering=0) as file:
        for number in range(first, len(chunks)):
            treated: Treated = treat(chunks[number], treatment, reader=reader, spill_folder=partial.parent)
            crc = treated.write(file.fileno(), position, treatment.page_size)
            yield Finished(number, position, treated.rows, treated.rejected, crc)
            _, position = place(position, treated.sizes, treatment.page_size)


def convert_together(
    chunks: Chunks, first: int, *, position: int, partial: Path, treatment: Treatment, workers: int
) -> Iterator[Finished]:
    """Treat and write the chunks from number `first` on in `workers` processes; yields them in order.

    A chunk's place depends on the sizes before it, so workers report sizes, get their places in order of
    the chunks, and write at the same time. Raises OSError where a worker fails or is killed.
    """
    with ExitStack() as stack:
        crew = [stack.enter_context(_Worker(partial, treatment)) for _ in range(min(workers, len(chunks) - first))]
        by_connection = {worker.connection: worker for worker in crew}
        owners: dict[int, _Worker] = {}
        treated: dict[int, tuple[list, list]] = {}
        placed: dict[int, Finished] = {}
        crcs: dict[int, int] = {}
        next_treat = next_place = next_yield = first

        while next_yield < len(chunks):
            for worker in crew:
                # Chunks go to idle workers only: both ends of a full pipe sending would wait for ever.
                if next_treat < len(chunks) and not worker.treating and worker.chunks < CHUNKS_PER_WORKER:
                    worker.send(("treat", next_treat, chunks[next_treat]))
                    worker.treating, worker.chunks = True, worker.chunks + 1
                    owners[next_treat] = worker
                    next_treat += 1
            for connection in wait(list(by_connection)):
                worker = by_connection[connection]  # type: ignore[index]
                what, number, *rest = worker.receive()
                if what == "failed":
                    raise OSError(number, *rest) if number is not None else OSError(rest[0])
                if what == "treated":
                    worker.treating = False
                    treated[number] = (rest[0], rest[1])
                else:
                    worker.chunks -= 1
                    crcs[number] = rest[0]
            while next_place in treated:
                rows, rejected = treated.pop(next_place)
                owners.pop(next_place).send(("write", next_place, position))
                placed[next_place] = Finished(next_place, position, rows, rejected, 0)
                _, position = placed[next_place].place(treatment.page_size)
                next_place += 1
            while next_yield in crcs:
                yield placed.pop(next_yield)._replace(crc=crcs.pop(next_yield))
                next_yield += 1


class _Worker(Worker):
    """A worker, and what it is at."""

    def __init__(self, partial: Path, treatment: Treatment):
        super().__init__(serve, partial, treatment)
        self.treating = False
        self.chunks = 0

    def __enter__(self) -> _Worker:
        return self
