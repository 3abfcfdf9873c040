"""The masks of a beton, or of all its shards: tasks out, masks in, and last let all of it appear at once.

Until then a store waits as STORE.partial, so that masks which are being replaced stay whole; of many shards the
manifest is the last thing written. A run that was interrupted, by whatever, is continued.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.prepare.engines import Engine, run
from pipelines.prepare.target import full_disks_named
from pipelines.shards import AnyBeton, ShardedBeton, open_beton
from relic.masks.batches import IMAGES_PER_TASK, method_of
from relic.masks.tally import Summary, Tally
from relic.masks.task import Made, Task, make_masks, opened, png_of
from saliency.infer import Maker
from saliency.lock import open_locked
from saliency.shards import is_manifest, read_manifest
from saliency.store import (
    DAMAGED,
    NOT_MADE,
    SHARDS_FORMAT,
    MaskStore,
    MaskStoreWriter,
    partial_path,
    write_manifest,
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A beton, one shard perhaps, and the store of its masks."""

    number: int
    beton: Path
    store: Path
    images: int
    fingerprint: str
    first: int
    """Index, in the whole data set, of its first image."""


def make_stores(
    source: Path,
    out: Path,
    maker: Maker,
    *,
    engine: Engine,
    pngs: Path | None = None,
    overwrite: bool = False,
    on_start: Callable[[int], None],
    on_progress: Callable[[int], None],
    on_note: Callable[[str], None],
) -> Summary:
    """Make the masks of all images of a beton, or of the shards of one.

    The bytes do not depend on the engine, on its workers, or on what interrupted the run.

    Args:
        source: the beton, or the manifest of its shards.
        out: the store to make, or the manifest of the stores beside it, one per shard.
        maker: what makes the masks.
        engine: where; its machines must see all files under the same names.
        pngs: folder for the maps too, as pictures of the images' sizes.
        overwrite: replace masks that are there.
        on_start: gets the number of images.
        on_progress: gets how many more are made.
        on_note: gets a sentence for the user.

    Raises:
        OSError, ValueError: in one line that names the mend; what is finished is kept.
    """
    began = time.monotonic()
    with open_beton(source) as images:
        parts, is_sharded, fingerprint = _parts(images, out), isinstance(images, ShardedBeton), images.fingerprint()
    job = _Job(parts, maker, None if pngs is None else pngs.absolute(), on_progress, on_note)
    _check_target(source, out, overwrite)
    if pngs is not None:
        pngs.mkdir(exist_ok=True)
    with _alone(partial_path(out)) if is_sharded else nullcontext(), full_disks_named(out):
        if is_sharded and not out.exists():
            job.find_finished(overwrite=overwrite)
        on_start(sum(part.images for part in parts))
        with job:
            for _, made in run(make_masks, job.tasks(), engine=engine, on_note=on_note):
                job.take(made)
        _put_into_place(out, parts, job, fingerprint if is_sharded else None)
    tally = Tally()
    for part in parts:
        tally.add_store(part.store)
    return tally.summary(maker=str(maker), resumed=job.resumed, seconds=time.monotonic() - began)


def _parts(images: AnyBeton, out: Path) -> list[Part]:
    if not isinstance(images, ShardedBeton):
        beton, fingerprint = images.path.absolute(), images.fingerprint()
        return [Part(number=0, beton=beton, store=out, images=len(images), fingerprint=fingerprint, first=0)]
    return [
        Part(
            number=number,
            beton=file.absolute(),
            store=out.with_name(f"{out.stem}-{number:05d}{out.suffix}"),
            images=shard.images,
            fingerprint=shard.fingerprint,
            first=images.starts[number],
        )
        for number, (shard, file) in enumerate(zip(images.shards, images.files, strict=True))
    ]


def _check_target(source: Path, out: Path, overwrite: bool) -> None:
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.suffix == ".beton":
        raise ValueError(f"--out {out} has the ending of a beton: give another name, for instance {source.stem}.masks")
    if out.exists():
        if out.samefile(source):
            raise ValueError(f"--out {out} is the beton itself: give another name")
        if not overwrite:
            raise _exists(out)


def _exists(store: Path) -> FileExistsError:
    return FileExistsError(f"{store} exists: give --overwrite to replace it or --out for another name")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock for all shards together: a file that lies there as long."""
    descriptor = open_locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


class _Job:
    """Hand out tasks and write what comes back; only the stores of images that are being made are open."""

    def __init__(
        self,
        parts: list[Part],
        maker: Maker,
        pngs: Path | None,
        on_progress: Callable[[int], None],
        on_note: Callable[[str], None],
    ):
        self.finished: set[int] = set()
        """Parts whose stores are in their place already."""
        self.resumed = 0
        self._parts, self._maker, self._pngs = parts, maker, pngs
        self._on_progress, self._on_note = on_progress, on_note
        self._writers: dict[int, MaskStoreWriter] = {}
        self._at_work: Counter[int] = Counter()
        self._handed_out: set[int] = set()

    def find_finished(self, *, overwrite: bool) -> None:
        """Find the stores of a run that was interrupted while it put its stores into place.

        Where there is a manifest they are an older run's.
        """
        for part in self._parts:
            if not part.store.exists():
                continue
            if self._pngs is None and self._is_made(part):
                self.finished.add(part.number)
            elif not overwrite:
                raise _exists(part.store)

    def _is_made(self, part: Part) -> bool:
        try:
            with MaskStore(part.store) as store:
                found = store.fingerprint, store.num_images, store.maker
        except ValueError:
            return False
        return found == (part.fingerprint, part.images, str(self._maker))

    def writer(self, part: Part) -> MaskStoreWriter:
        """Open the unfinished store of a part, an interrupted run's perhaps."""
        return MaskStoreWriter(part.store, part.images, part.fingerprint, str(self._maker))

    def tasks(self) -> Iterator[Task]:
        """Give the tasks that are left, as the engine has room for them."""
        for part in self._parts:
            if part.number in self.finished:
                self._found(part.images)
                continue
            writer = self._writers[part.number] = self.writer(part)
            if writer.other is not None:
                self._on_note(
                    f"{partial_path(part.store)}: was begun on other images or by another maker ({writer.other});"
                    " starting over"
                )
            for start in range(0, part.images, IMAGES_PER_TASK):
                stop = min(start + IMAGES_PER_TASK, part.images)
                if not self._is_left(part, writer.flags[start:stop], start):
                    self._found(stop - start)
                    continue
                self._at_work[part.number] += 1
                yield Task(
                    part=part.number,
                    beton=part.beton,
                    fingerprint=part.fingerprint,
                    start=start,
                    stop=stop,
                    first=part.first,
                    maker=self._maker,
                    pngs=self._pngs,
                )
            self._handed_out.add(part.number)
            self._close_complete(part.number)

    def _is_left(self, part: Part, flags: np.ndarray, start: int) -> bool:
        if self._pngs is None or (flags == NOT_MADE).any():
            return bool((flags == NOT_MADE).any())
        wanted = part.first + start + np.flatnonzero(flags != DAMAGED)
        return not all(png_of(self._pngs, int(index)).exists() for index in wanted)

    def _found(self, images: int) -> None:
        self.resumed += images
        self._on_progress(images)

    def take(self, made: Made) -> None:
        """Write what a task made."""
        self._writers[made.part].write_packed(made.start, made.packed, made.flags)
        self._at_work[made.part] -= 1
        self._close_complete(made.part)
        self._on_progress(len(made.flags))

    def _close_complete(self, number: int) -> None:
        if number in self._handed_out and not self._at_work[number]:
            self._writers.pop(number).close()

    def __enter__(self) -> _Job:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()
        # workers=1 ran the tasks in this process
        opened.cache_clear()
        method_of.cache_clear()


def _put_into_place(out: Path, parts: list[Part], job: _Job, fingerprint: str | None) -> None:
    """Let the stores, and last the manifest where there is one, appear; safe to be interrupted and done again."""
    replaced = _stores_of(out) - {part.store for part in parts}
    if fingerprint is not None:
        # From here on there are neither the old masks nor the new ones: never one manifest with another's stores.
        out.unlink(missing_ok=True)
    for part in parts:
        if part.number not in job.finished:
            job.writer(part).finish()
    if fingerprint is not None:
        write_manifest(out, fingerprint, [part.store for part in parts])
    for store in replaced:
        store.unlink(missing_ok=True)


def _stores_of(out: Path) -> set[Path]:
    """Name the stores of the manifest that is about to be replaced, if it is one."""
    try:
        shards = read_manifest(out, SHARDS_FORMAT, fields=[], mend="")["shards"] if is_manifest(out) else []
    except ValueError:  # damaged: nobody can read it, and everybody may replace it
        return set()
    return {out.with_name(shard["file"]) for shard in shards}
