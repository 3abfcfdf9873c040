"""Images from anywhere to one beton, or to shards: parallel, resumable, atomic, the same bytes from any number of
workers.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipelines.prepare import remote
from pipelines.prepare.assembly import Assembly
from pipelines.prepare.chunk import CHUNK_BYTES, CHUNK_IMAGES
from pipelines.prepare.config import ConvertConfig, Summary
from pipelines.prepare.crew import Chunks, convert_alone, convert_together
from pipelines.prepare.images import Treatment
from pipelines.prepare.journal import Finished
from pipelines.prepare.listing import archives_of
from pipelines.prepare.partial import Partial
from pipelines.prepare.reading import Source, SourceReader
from pipelines.prepare.sharded import convert_in_shards
from pipelines.prepare.sources import Plan, chunks, plan
from pipelines.prepare.target import (
    check_room,
    check_target,
    full_disks_named,
    old_shards,
    refusal,
    refused_path,
    rejected_lines,
    rejected_path,
    write_class_names,
)
from pipelines.prepare.writer import fitting_page_size, payload_start, write_tables, write_text

# A worker takes 0.3 s to start, a chunk of copied JPEGs 0.03 s.
CHUNKS_WORTH_A_WORKER = 8
# Part of every conversion's key: a newer layout does not continue an older one's partial file.
_LAYOUT = 2


def convert(
    source: str | Path,
    out: str | Path,
    *,
    config: ConvertConfig,
    on_start: Callable[[int, str], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Summary:
    """Convert the images of `source` (see `sources.plan`) to the beton `out`, or with `shard_size` to shards.

    Until all is on disk the file is `OUT.partial`; an interrupted conversion continues from there when the
    same one is asked for again. Beside it appear `OUT.classes.txt` (a class per line, where there are
    classes) and, where files were rejected, `rejected.jsonl` under OUT's stem (`refused.jsonl` where `strict`
    refuses to replace OUT). Of shards (see `sharded`) OUT is the manifest. `on_start` gets the number of files and
    their name ("files"; "tars" where nobody knows what is in them), `on_progress` how many more are done, `on_note` a
    sentence for the user.

    Raises ValueError, FileNotFoundError, FileExistsError or another OSError, in one line that names the
    mend.
    """
    out = Path(out)
    check_target(source, out, config)
    if config.shard_size is not None:
        with full_disks_named(out):
            return convert_in_shards(
                source,
                out,
                config=config,
                shard_size=config.shard_size,
                on_start=on_start,
                on_progress=on_progress,
                on_note=on_note,
            )
    began = time.monotonic()
    if on_note is not None and remote.is_url(source) and archives_of(str(source)) is not None:
        on_note(f"{source}: every image is asked for by itself; with --shard-size each tar is copied once, as a whole")
    with plan(source, skip_per_class=config.skip_per_class, per_class=config.per_class) as files:
        treatment = Treatment(
            page_size=fitting_page_size(files.largest, config.page_size),
            max_side=config.max_side,
            quality=config.quality,
            exif=config.exif,
            verify=config.verify,
        )
        if on_start is not None:
            on_start(len(files.sources), "files")
        with Partial(out) as partial, full_disks_named(out):
            partial.begin(_key(files, treatment), on_note)
            made, resumed = _convert(files, out, partial, treatment, config, on_progress)
        seconds = time.monotonic() - began
        return Summary(
            out=str(out),
            images=len(made.rows),
            jpegs=made.jpegs,
            classes=made.highest_label + 1 if files.classes is None else len(files.classes),
            rejected=made.reasons(),
            rejected_list=str(rejected_path(out)) if made.rejected else None,
            ignored=files.ignored,
            bytes=out.stat().st_size,
            page_size=treatment.page_size,
            shards=0,
            resumed_files=resumed,
            seconds=seconds,
            images_per_second=(len(files.sources) - resumed) / seconds,
        )


def _convert(
    files: Plan,
    out: Path,
    partial: Partial,
    treatment: Treatment,
    config: ConvertConfig,
    on_progress: Callable[[int], None] | None,
) -> tuple[Assembly, int]:
    page_size = treatment.page_size
    parts = _Chunks(files)
    start = payload_start(len(files.sources), page_size)
    done = partial.finished(start=start, page_size=page_size)
    resumed = parts.cuts[len(done) - 1].stop if done else 0
    end = done[-1].place(page_size)[1] if done else start
    if config.max_side is None:
        check_room(out, files.bytes - (end - start))

    made = Assembly(len(files.sources), start=start, page_size=page_size)
    for chunk in _all_chunks(done, parts, end, partial, treatment, config.workers or 1):
        made.add(chunk, parts[chunk.number])
        if on_progress is not None:
            on_progress(len(parts.cuts[chunk.number]))

    if made.rejected and (config.strict or not len(made.rows)):
        partial.discard()
        write_text(refused_path(out), rejected_lines(made.rejected))
        is_empty, first = not len(made.rows), made.rejected[0]
        raise refusal(out, files=len(files.sources), rejected=len(made.rejected), first=first, is_empty=is_empty)
    write_tables(partial.descriptor, made.rows, page_size=page_size, end=made.end)
    refused_path(out).unlink(missing_ok=True)
    if made.rejected:
        write_text(rejected_path(out), rejected_lines(made.rejected))
    else:
        rejected_path(out).unlink(missing_ok=True)
    write_class_names(out, files.classes)
    replaced = old_shards(out)
    partial.put_into_place()
    for shard in replaced:
        shard.unlink(missing_ok=True)
    return made, resumed


class _Chunks(Sequence[Sequence[Source]]):
    """The sources of each chunk, read from the plan when they are wanted; `cuts` are their numbers."""

    def __init__(self, files: Plan):
        self._files = files
        self.cuts = chunks(files.sources, max_bytes=CHUNK_BYTES, max_images=CHUNK_IMAGES)

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, number: int) -> list[Source]:  # type: ignore[override]
        return self._files.sources.part(self.cuts[number].start, self.cuts[number].stop)


def _all_chunks(
    done: list[Finished], parts: Chunks, end: int, partial: Partial, treatment: Treatment, workers: int
) -> Iterator[Finished]:
    yield from done
    if len(done) == len(parts):
        return
    crew = min(workers, math.ceil((len(parts) - len(done)) / CHUNKS_WORTH_A_WORKER))
    if crew == 1:
        reader = SourceReader()
        fresh = convert_alone(parts, len(done), position=end, partial=partial.path, treatment=treatment, reader=reader)
    else:
        reader = None
        fresh = convert_together(
            parts, len(done), position=end, partial=partial.path, treatment=treatment, workers=crew
        )
    try:
        for chunk in fresh:
            partial.journal.append(chunk)
            yield chunk
    finally:
        if reader is not None:
            reader.close()


def _key(files: Plan, treatment: Treatment) -> str:
    return hashlib.sha256(f"{_LAYOUT} {files.key} {treatment}".encode()).hexdigest()
