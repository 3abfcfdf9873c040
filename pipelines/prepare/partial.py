"""What a conversion has written so far: the file or the shards, and the journal of what is finished."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipelines.prepare import journal
from pipelines.prepare.journal import Finished, Journal
from pipelines.prepare.writer import put_into_place
from saliency.lock import open_locked

_PLACING = "placing"


class Partial:
    """The file `OUT.partial` and its journal, locked against a second conversion to the same place.

    One file grows in it; beside shards it stays empty and is the lock alone. `plan_path` is for the plan of shards.
    """

    journal: Journal

    def __init__(self, out: Path):
        self.path = out.with_name(f"{out.name}.partial")
        self.plan_path = out.with_name(f"{out.name}.partial.plan")
        self._out = out
        self._open_files = ExitStack()
        self._journal_path = out.with_name(f"{out.name}.partial.journal")
        self._is_begun = False
        self._open()

    def begin(self, key: str, on_note: Callable[[str], None] | None) -> None:
        """Continue what is there where it was begun with the same key, else start over."""
        self._is_begun = True
        for leftover in unfinished_shards(self._out):
            if leftover.suffix == ".attempt":  # its maker was killed, or given up for lost
                leftover.unlink(missing_ok=True)
        if self._journal_path.exists() and not journal.belongs_to(self._journal_path, key):
            if on_note is not None:
                on_note(f"{self.path}: was begun with other options or sources; starting over")
            for shard in self.placed():
                shard.unlink(missing_ok=True)
            self.discard()
            self._open()
        self._resumes = self._journal_path.exists()
        self.journal = Journal(self._journal_path, key)
        self._open_files.callback(self.journal.close)

    def _open(self) -> None:
        self.descriptor = open_locked(self.path)
        self._open_files.callback(os.close, self.descriptor)

    def finished(self, *, start: int, page_size: int) -> list[Finished]:
        """Give the chunks that an interrupted run left complete, from the first on."""
        if not self._resumes:
            os.ftruncate(self.descriptor, 0)
            return []
        return journal.trusted(self._journal_path, self.descriptor, start=start, page_size=page_size)

    def noted(self) -> list[dict[str, Any]]:
        """Give what the journal says, of shards."""
        return [fields for fields in journal.read(self._journal_path) if _PLACING not in fields]

    def note_placing(self, replaced: Iterable[Path]) -> None:
        """Note that from here on shards appear under their names, and `replaced` go."""
        self.journal.append({_PLACING: sorted(path.name for path in replaced)}, lasting=True)

    def placed(self) -> set[Path]:
        """Name the shards that a conversion was letting appear, or go, when it was interrupted; none once the manifest
        is there.
        """
        if self._out.exists() or not self._journal_path.exists():
            return set()
        replaced = [fields[_PLACING] for fields in journal.read(self._journal_path) if _PLACING in fields]
        ours = (shard_path(self._out, fields["number"]) for fields in self.noted()) if replaced else ()
        return {*ours, *(self._out.with_name(name) for names in replaced for name in names)}

    def put_into_place(self) -> None:
        """Let the complete, synced file appear under its name."""
        put_into_place(self.path, self._out)
        self._journal_path.unlink()
        self.plan_path.unlink(missing_ok=True)  # of a conversion in shards that was given up

    def discard(self) -> None:
        """Remove the file, its journal, and what shards were left behind; not the plan, which may be a new one."""
        self._journal_path.unlink(missing_ok=True)
        for leftover in unfinished_shards(self._out):
            leftover.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self._open_files.close()

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_begun and not self._journal_path.exists():
            self.path.unlink(missing_ok=True)
        self._open_files.close()


def shard_path(out: Path, number: int) -> Path:
    """Name a shard of the data set `out`."""
    return out.with_name(f"{out.stem}-{number:05d}.beton")


def ready(path: Path, key: str) -> Path:
    """Name a file that is complete, and waits until all of its data set are.

    The conversion's key is in it: a worker that outlived an earlier conversion, with other options, finishes its shard
    under another name.
    """
    return path.with_name(f"{path.name}.{key[:12]}.partial")


def attempt_at(path: Path) -> Path:
    """Name a file that is being written.

    Each attempt has its own: one on a machine that was given up for lost may be writing still.
    """
    return path.with_name(f".{path.name}.{os.urandom(6).hex()}.attempt")


def shards_named_after(out: Path) -> Iterator[Path]:
    """Find the files that have the names of shards of `out`."""
    name = re.compile(rf"{re.escape(out.stem)}-\d{{5,}}\.beton")
    with os.scandir(out.parent) as entries:
        yield from [out.with_name(entry.name) for entry in entries if name.fullmatch(entry.name)]


def unfinished_shards(out: Path) -> Iterator[Path]:
    """Find what conversions in shards to this place left unfinished, whoever began them."""
    stem = re.escape(out.stem)
    name = re.compile(rf"\.?{stem}-\d{{5,}}\.(beton|rejected\.jsonl)\.[0-9a-f]{{12}}\.(partial|attempt)")
    with os.scandir(out.parent) as entries:
        yield from [Path(entry.path) for entry in entries if name.fullmatch(entry.name)]
