"""Images from anywhere to one beton: parallel, resumable, atomic, the same bytes from any number of
workers.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines.beton import JPEG, classes_path
from pipelines.prepare import journal
from pipelines.prepare.crew import Chunks, convert_alone, convert_together
from pipelines.prepare.images import Treatment
from pipelines.prepare.journal import Finished, Journal
from pipelines.prepare.sources import MAX_FILE_BYTES, Plan, chunks, plan
from pipelines.prepare.writer import (
    DEFAULT_PAGE_SIZE,
    ROW,
    fitting_page_size,
    payload_start,
    put_into_place,
    write_tables,
    write_text,
)

CHUNK_BYTES, CHUNK_IMAGES = 1 << 24, 2048
# A worker takes 0.3 s to start, a chunk of copied JPEGs 0.03 s.
CHUNKS_WORTH_A_WORKER = 8
# Part of every conversion's key: a newer layout does not continue an older one's partial file.
_LAYOUT = 1


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What is taken from the source, and how it is stored."""

    workers: int = 1
    """Most processes (small data sets take fewer); the bytes written do not depend on it."""
    max_side: int | None = None
    """Make images with a longer side smaller (antialiased), as JPEG; None copies JPEGs of any size."""
    quality: int = 90
    """JPEG quality where `max_side` makes an image smaller."""
    per_class: int | None = None
    """Take so many files of each class, in sorted order; None takes all."""
    skip_per_class: int = 0
    """Skip so many files of each class first."""
    exif: Literal["upright", "ignore"] = "ignore"
    """`upright` stores turned photographs as upright pixels; `ignore` copies them, as torchvision reads them."""
    verify: Literal["full", "header"] = "header"
    """`header` looks whether a JPEG is whole (markers, sizes, end); `full` decodes it, at a fifth of the speed."""
    page_size: int = DEFAULT_PAGE_SIZE
    """Least bytes of a page; pages grow to hold the largest source file."""
    strict: bool = False
    """Make nothing where any file is rejected."""
    overwrite: bool = False
    """Replace a beton that is there."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers {self.workers}: give at least 1")
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"max-side {self.max_side}: give a number of pixels, for instance 512")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality}: give 1 to 100")
        if (self.per_class is not None and self.per_class < 1) or self.skip_per_class < 0:
            raise ValueError("per-class and skip-per-class: give at least 1 and 0")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a conversion did. `images_per_second` counts the files that this run treated, from the first
    listing to the last byte on disk; `resumed_files` were finished by an earlier run.
    """

    out: str
    images: int
    jpegs: int
    classes: int
    rejected: dict[str, int]
    rejected_list: str | None
    ignored: int
    bytes: int
    page_size: int
    resumed_files: int
    seconds: float
    images_per_second: float


def convert(
    source: str | Path,
    out: str | Path,
    *,
    config: ConvertConfig,
    on_start: Callable[[int], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Summary:
    """Convert the images of `source` (see `sources.plan`) to the beton `out`.

    Until all is on disk the file is `OUT.partial`; an interrupted conversion continues from there when the
    same one is asked for again. Beside it appear `OUT.classes.txt` (a class per line, where there are
    classes) and, where files were rejected, `rejected.jsonl` under OUT's stem. `on_start` gets the number
    of files, `on_progress` how many more are done, `on_note` a sentence for the user.

    Raises ValueError, FileNotFoundError, FileExistsError or another OSError, in one line that names the
    mend.
    """
    began = time.monotonic()
    out = Path(out)
    _check_target(Path(source), out, config)
    files = plan(source).subset(skip_per_class=config.skip_per_class, per_class=config.per_class)
    if not files.sources:
        raise ValueError(f"{source}: no class has more than {config.skip_per_class} files; lower --skip-per-class")
    largest = max((s.size for s in files.sources if s.size <= MAX_FILE_BYTES), default=0)
    page_size = fitting_page_size(largest, config.page_size)
    treatment = Treatment(
        page_size=page_size,
        max_side=config.max_side,
        quality=config.quality,
        exif=config.exif,
        verify=config.verify,
    )
    if on_start is not None:
        on_start(len(files.sources))
    with _Partial(out, _key(files, treatment), on_note) as partial:
        try:
            result = _convert(files, out, partial, treatment, config, on_progress)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise OSError(
                f"{out.parent}: {error.strerror}; what is finished is kept: make room and run the same command again"
            ) from None
    rows, rejected, resumed = result
    seconds = time.monotonic() - began
    return Summary(
        out=str(out),
        images=len(rows),
        jpegs=int((rows["mode"] == JPEG).sum()),
        classes=len(files.classes or ()),
        rejected=dict(Counter(reason.partition(":")[0] for _, reason in rejected).most_common()),
        rejected_list=str(_rejected_path(out)) if rejected else None,
        ignored=files.ignored,
        bytes=out.stat().st_size,
        page_size=page_size,
        resumed_files=resumed,
        seconds=seconds,
        images_per_second=(len(files.sources) - resumed) / seconds,
    )


def _convert(
    files: Plan,
    out: Path,
    partial: _Partial,
    treatment: Treatment,
    config: ConvertConfig,
    on_progress: Callable[[int], None] | None,
) -> tuple[np.ndarray, list[tuple[str, str]], int]:
    page_size = treatment.page_size
    cuts = chunks(files.sources, max_bytes=CHUNK_BYTES, max_images=CHUNK_IMAGES)
    parts: Chunks = [files.sources[cut.start : cut.stop] for cut in cuts]
    start = payload_start(len(files.sources), page_size)
    done = partial.finished(start=start, page_size=page_size)
    resumed = cuts[len(done) - 1].stop if done else 0
    end = done[-1].place(page_size)[1] if done else start
    if config.max_side is None:
        _check_room(out, sum(s.size for s in files.sources[resumed:]))

    rows = np.zeros(len(files.sources), ROW)
    rejected: list[tuple[str, str]] = []
    count = 0
    for chunk in _all_chunks(done, parts, end, partial, treatment, config.workers):
        pointers, end = chunk.place(page_size)
        refused = dict(chunk.rejected)
        taken = [source for place, source in enumerate(parts[chunk.number]) if place not in refused]
        rejected += [(parts[chunk.number][place].describe(), reason) for place, reason in chunk.rejected]
        for source, (mode, width, height, size), pointer in zip(taken, chunk.rows, pointers, strict=True):
            rows[count] = (mode, width, height, source.label, pointer, size)
            count += 1
        if on_progress is not None:
            on_progress(len(parts[chunk.number]))
    rows = rows[:count]

    _write_rejected(out, rejected)
    if rejected and (config.strict or not count):
        partial.discard()
        what = f"{len(rejected):,} of {len(files.sources):,} files rejected"
        mend = "mend or remove them, or leave out --strict" if count else "no image is left"
        raise ValueError(
            f"{out}: not made, {what} (first: {': '.join(rejected[0])}); {mend}; all: {_rejected_path(out)}"
        )
    write_tables(partial.descriptor, rows, page_size=page_size, end=end)
    if files.classes is not None:
        write_text(classes_path(out), "".join(name.replace("\n", " ") + "\n" for name in files.classes))
    else:
        classes_path(out).unlink(missing_ok=True)
    partial.put_into_place()
    return rows, rejected, resumed


def _all_chunks(
    done: list[Finished], parts: Chunks, end: int, partial: _Partial, treatment: Treatment, workers: int
) -> Iterator[Finished]:
    yield from done
    if len(done) == len(parts):
        return
    crew = min(workers, math.ceil((len(parts) - len(done)) / CHUNKS_WORTH_A_WORKER))
    if crew == 1:
        fresh = convert_alone(parts, len(done), position=end, partial=partial.path, treatment=treatment)
    else:
        fresh = convert_together(
            parts, len(done), position=end, partial=partial.path, treatment=treatment, workers=crew
        )
    for chunk in fresh:
        partial.journal.append(chunk)
        yield chunk


class _Partial:
    """The file being written and its journal, locked against a second conversion to the same place."""

    def __init__(self, out: Path, key: str, on_note: Callable[[str], None] | None):
        self.path = out.with_name(f"{out.name}.partial")
        self._out = out
        self._open_files = ExitStack()
        self._journal_path = out.with_name(f"{out.name}.partial.journal")
        self._open()
        if self._journal_path.exists() and not journal.belongs_to(self._journal_path, key):
            if on_note is not None:
                on_note(f"{self.path}: was begun with other options or sources; starting over")
            self.discard()
            self._open()
        self._resumes = self._journal_path.exists()
        self.journal = Journal(self._journal_path, key)
        self._open_files.callback(self.journal.close)

    def _open(self) -> None:
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        self._open_files.callback(os.close, self.descriptor)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between open and lock another conversion may have finished and renamed this very file.
            ours = os.path.samestat(os.fstat(self.descriptor), os.stat(self.path))
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            self._open_files.close()
            raise OSError(f"{self.path}: another conversion is writing it; wait for it or stop it")

    def finished(self, *, start: int, page_size: int) -> list[Finished]:
        """Give the chunks that an interrupted run left complete, from the first on."""
        if not self._resumes:
            os.ftruncate(self.descriptor, 0)
            return []
        return journal.trusted(self._journal_path, self.descriptor, start=start, page_size=page_size)

    def put_into_place(self) -> None:
        """Let the complete, synced file appear under its name."""
        put_into_place(self.path, self._out)
        self._journal_path.unlink()

    def discard(self) -> None:
        """Remove the file and its journal."""
        self._journal_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self._open_files.close()

    def __enter__(self) -> _Partial:
        return self

    def __exit__(self, *_: object) -> None:
        self._open_files.close()


def _key(files: Plan, treatment: Treatment) -> str:
    return hashlib.sha256(f"{_LAYOUT} {files.key()} {treatment}".encode()).hexdigest()


def _check_target(source: Path, out: Path, config: ConvertConfig) -> None:
    if out.suffix != ".beton":
        raise ValueError(f"{out}: the name of a beton ends in .beton (relic data convert SRC OUT.beton)")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder; make it by mkdir -p {out.parent}")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{out.parent}: not writable; choose another folder or change its permissions")
    if out.exists() and not config.overwrite:
        raise FileExistsError(f"{out}: exists already; --overwrite replaces it")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{out}: lies within the folder it is made of; put it elsewhere")


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise OSError(
            f"{out.parent}: the images take {needed / 1e9:,.1f} GB, only {free / 1e9:,.1f} GB are free; make room "
            "there or store less with --max-side"
        )


def _rejected_path(out: Path) -> Path:
    return out.with_suffix(".rejected.jsonl")


def _write_rejected(out: Path, rejected: list[tuple[str, str]]) -> None:
    if not rejected:
        _rejected_path(out).unlink(missing_ok=True)
        return
    lines = (json.dumps({"source": source, "reason": reason}) for source, reason in rejected)
    write_text(_rejected_path(out), "".join(line + "\n" for line in lines))
