"""One shard of a conversion, made by whoever has the time: a function of its task, here or on another machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.beton import Beton
from pipelines.prepare import remote, webdataset
from pipelines.prepare.assembly import Assembly
from pipelines.prepare.chunk import CHUNK_BYTES, CHUNK_IMAGES
from pipelines.prepare.crew import convert_alone
from pipelines.prepare.images import Treatment
from pipelines.prepare.listing import tar_files_at
from pipelines.prepare.partial import attempt_at, ready, shard_path
from pipelines.prepare.reading import MAX_FILE_BYTES, Source, SourceReader
from pipelines.prepare.sources import chunks, read_part
from pipelines.prepare.target import rejected_lines
from pipelines.prepare.writer import fitting_page_size, payload_start, put_into_place, write_tables, write_text


class Slice(NamedTuple):
    """The sources from number `start` to before `stop` of the plan in a file."""

    plan: str
    start: int
    stop: int


class Tars(NamedTuple):
    """Whole tars in WebDataset's layout, paths or URLs: what is in them is found when they are read."""

    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """What a shard is made of."""

    out: Path
    """The data set it belongs to, in a folder that every machine sees."""
    key: str
    """The conversion's, of sources and options."""
    number: int
    """Which of its shards it is."""
    part: Slice | Tars
    """Its images."""
    treatment: Treatment
    """How they are stored; pages grow to hold the shard's largest image."""


class ShardMade(NamedTuple):
    """What became of a shard, in values that JSON can hold. A shard without images has no file."""

    number: int
    files: int
    images: int
    jpegs: int
    rejected: dict[str, int]
    first_rejected: list[str]
    ignored: int
    bytes: int
    page_size: int
    highest_label: int
    fingerprint: str


def convert_shard(task: ShardTask) -> ShardMade:
    """Make a shard: beside the data set appear SHARD.beton.KEY.partial and, where files were rejected, their list.

    Both appear complete or not at all, and are the same bytes each time, as if `convert` had made one file of
    these sources. Raises OSError or ValueError in one line where the sources are not there.
    """
    if not task.out.parent.is_dir():
        raise FileNotFoundError(f"{task.out.parent}: {_not_here()}")
    with closing(SourceReader(copies=isinstance(task.part, Tars))) as reader:
        sources, ignored = _sources_of(task.part, reader)
        largest = max((source.size for source in sources if source.size <= MAX_FILE_BYTES), default=0)
        treatment = replace(task.treatment, page_size=fitting_page_size(largest, task.treatment.page_size))
        path = shard_path(task.out, task.number)
        attempt = attempt_at(path)
        try:
            made, fingerprint = _write(attempt, sources, treatment, reader)
            facts: dict[str, Any] = {"bytes": attempt.stat().st_size, "fingerprint": fingerprint}
            list_of_rejected = ready(path.with_suffix(".rejected.jsonl"), task.key)
            if made.rejected:
                lines = rejected_lines(made.rejected)
                write_text(list_of_rejected, lines, temporary=attempt_at(path.with_suffix(".rejected.jsonl")))
            if len(made.rows):
                put_into_place(attempt, ready(path, task.key))
        finally:
            attempt.unlink(missing_ok=True)
    return ShardMade(
        number=task.number,
        files=len(sources),
        images=len(made.rows),
        jpegs=made.jpegs,
        rejected=made.reasons(),
        first_rejected=list(made.rejected[0]) if made.rejected else [],
        ignored=ignored,
        page_size=treatment.page_size,
        highest_label=made.highest_label,
        **facts,
    )


def _write(path: Path, sources: list[Source], treatment: Treatment, reader: SourceReader) -> tuple[Assembly, str]:
    start = payload_start(len(sources), treatment.page_size)
    made = Assembly(len(sources), start=start, page_size=treatment.page_size)
    cuts = chunks(sources, max_bytes=CHUNK_BYTES, max_images=CHUNK_IMAGES)
    parts: Sequence[Sequence[Source]] = [sources[cut.start : cut.stop] for cut in cuts]
    path.touch()
    for chunk in convert_alone(parts, 0, position=start, partial=path, treatment=treatment, reader=reader):
        made.add(chunk, parts[chunk.number])
    with open(path, "r+b", buffering=0) as file:
        write_tables(file.fileno(), made.rows, page_size=treatment.page_size, end=made.end)
    if not len(made.rows):
        return made, ""
    with Beton(path) as beton:
        return made, beton.fingerprint()


def _sources_of(part: Slice | Tars, reader: SourceReader) -> tuple[list[Source], int]:
    """Give the sources in order, and how many files were passed over."""
    if isinstance(part, Slice):
        if not Path(part.plan).exists():
            raise FileNotFoundError(f"{part.plan}: {_not_here()}")
        sources = read_part(part.plan, part.start, part.stop)
        for container in {source.container for source in sources}:
            # Else each of its images would be rejected as unreadable, and the data thinned out.
            if remote.is_url(container):
                remote.check_readable(container)
            elif not Path(container).exists():
                raise FileNotFoundError(f"{container}: {_not_here()}")
            elif not os.access(container, os.R_OK):
                raise PermissionError(f"{container}: not readable on {socket.gethostname()}; change its permissions")
        return sources, 0
    sources, ignored = [], 0
    for name in part.names:
        for source in webdataset.samples(tar_files_at(reader.descriptor(name), name), reader.read):
            if source is None:
                ignored += 1
            else:
                sources.append(source)
    return sources, ignored


def _not_here() -> str:
    return f"not there on {socket.gethostname()}; with --engine ray all machines must see the same files"
