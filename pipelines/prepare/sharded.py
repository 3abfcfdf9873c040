"""A conversion in shards: cut, hand out, note what is finished, and last let all of it appear at once.

Until then shards wait as SHARD.beton.KEY.partial, so that a data set which is being replaced stays whole; the manifest
(`pipelines.shards`) is the last thing written. A conversion that was interrupted, by whatever, keeps the shards that
are finished.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipelines.prepare import remote, webdataset
from pipelines.prepare.config import ConvertConfig, Summary
from pipelines.prepare.engines import run
from pipelines.prepare.images import Treatment
from pipelines.prepare.listing import archive_files, archives_of
from pipelines.prepare.partial import Partial, ready, shard_path
from pipelines.prepare.reading import has_suffix
from pipelines.prepare.shard import ShardMade, ShardTask, Slice, Tars, convert_shard
from pipelines.prepare.sources import plan
from pipelines.prepare.target import (
    check_names,
    check_room,
    old_shards,
    refusal,
    refused_path,
    rejected_path,
    write_class_names,
)
from pipelines.prepare.writer import put_into_place
from pipelines.shards import Shard, write_manifest

# Bounds what a shard's maker holds of its images (about 600 bytes each) where they are tiny.
MOST_IMAGES = 1 << 20
# Copies of remote tars are open files while their shard is made, of which a process may have 1,024 or so.
MOST_TARS = 256
# Files looked at to tell the layout of tars.
_PEEK = 1000
_LAYOUT = 1


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a source is cut into shards."""

    parts: list[Slice] | list[Tars]
    """What each is made of, in order."""
    unit: str
    """What `total` counts: "files", or "tars" where nobody has looked into them."""
    total: int
    bytes: int
    """Size of all sources."""
    key: str
    classes: list[str] | None
    ignored: int

    def units(self, number: int) -> int:
        """Count the files or tars of a shard."""
        part = self.parts[number]
        return part.stop - part.start if isinstance(part, Slice) else len(part.names)


def convert_in_shards(
    source: str | Path,
    out: Path,
    *,
    config: ConvertConfig,
    shard_size: int,
    on_start: Callable[[int, str], None] | None,
    on_progress: Callable[[int], None] | None,
    on_note: Callable[[str], None] | None,
) -> Summary:
    """Convert to shards beside the manifest `out`; see `pipelines.prepare.convert.convert`."""
    began = time.monotonic()
    treatment = Treatment(
        page_size=config.page_size,
        max_side=config.max_side,
        quality=config.quality,
        exif=config.exif,
        verify=config.verify,
    )
    with Partial(out) as partial:
        check_names(out, partial.placed())
        layout = lay_out(source, partial.plan_path, config=config, shard_size=shard_size)
        key = hashlib.sha256(f"shards {_LAYOUT} {shard_size} {layout.key} {treatment}".encode()).hexdigest()
        partial.begin(key, on_note)
        made = {one.number: one for one in _finished(out, key, partial)}
        resumed = sum(one.files for one in made.values())
        left = [number for number in range(len(layout.parts)) if number not in made]
        if config.max_side is None:
            check_room(out, layout.bytes * len(left) // len(layout.parts))
        if on_start is not None:
            on_start(layout.total, layout.unit)
        if on_progress is not None:
            on_progress(sum(layout.units(number) for number in made))
        tasks = (
            ShardTask(out=out.absolute(), key=key, number=n, part=layout.parts[n], treatment=treatment) for n in left
        )
        for _, one in run(convert_shard, tasks, engine=config.runner(), on_note=on_note):
            partial.journal.append(one._asdict())
            made[one.number] = one
            if on_progress is not None:
                on_progress(layout.units(one.number))
        in_order = [made[number] for number in range(len(layout.parts))]
        _finish(out, key, in_order, layout, config, partial)
        partial.discard()
        partial.plan_path.unlink(missing_ok=True)
    return _summary(out, in_order, layout, resumed, time.monotonic() - began)


# ---- cutting --------------------------------------------------------------------------------------------------


def lay_out(source: str | Path, plan_path: Path, *, config: ConvertConfig, shard_size: int) -> Layout:
    """Cut a source into shards of at most `shard_size` bytes of images, or of whole tars.

    Tars in WebDataset's layout, of which labels tell, are handed out as they are, since what is in them needs no
    other's knowledge: neither of class names nor of an order. Everything else is listed first, to the plan in
    `plan_path`.
    """
    if not remote.is_url(source):
        source = Path(source).absolute()  # a machine of a cluster works in another folder
    takes_all = config.per_class is None and not config.skip_per_class
    archives = archives_of(str(source)) if takes_all else None
    are_tars = archives and all(has_suffix(name, ".tar") for name in archives)
    if archives and are_tars and webdataset.is_laid_out(islice(archive_files(archives), _PEEK)):
        return _of_tars(archives, shard_size)
    with plan(source, path=plan_path, skip_per_class=config.skip_per_class, per_class=config.per_class) as files:
        cuts = cut(files.sources.sizes(), shard_size, count=MOST_IMAGES)
        return Layout(
            parts=[Slice(str(plan_path.absolute()), part.start, part.stop) for part in cuts],
            unit="files",
            total=len(files.sources),
            bytes=files.bytes,
            key=files.key,
            classes=files.classes,
            ignored=files.ignored,
        )


def _of_tars(archives: list[str], shard_size: int) -> Layout:
    if remote.is_url(archives[0]):
        stats = [(file.size, file.stamp) for file in remote.describe(archives)]
    else:
        stats = [(status.st_size, status.st_mtime_ns) for status in map(Path.stat, map(Path, archives))]
    sizes = [size for size, _ in stats]
    return Layout(
        parts=[Tars(tuple(archives[part.start : part.stop])) for part in cut(sizes, shard_size, count=MOST_TARS)],
        unit="tars",
        total=len(archives),
        bytes=sum(sizes),
        key=hashlib.sha256(repr(list(zip(archives, stats, strict=True))).encode()).hexdigest(),
        classes=None,
        ignored=0,
    )


def cut(sizes: Iterable[int], most: int, *, count: int) -> list[range]:
    """Cut a list into ranges of at most `most` bytes and `count` entries, each of one entry at least."""
    cuts, start, weight, stop = [], 0, 0, 0
    for place, size in enumerate(sizes):
        if place > start and (weight + size > most or place - start >= count):
            cuts.append(range(start, place))
            start, weight = place, 0
        weight += size
        stop = place + 1
    if start < stop:
        cuts.append(range(start, stop))
    return cuts


# ---- what an earlier run finished -----------------------------------------------------------------------------


def _finished(out: Path, key: str, partial: Partial) -> Iterator[ShardMade]:
    """Give the shards that the journal knows and the disk has."""
    placed = partial.placed()
    return (one for one in (ShardMade(**fields) for fields in partial.noted()) if _is_there(out, key, one, placed))


def _is_there(out: Path, key: str, one: ShardMade, placed: Container[Path]) -> bool:
    """Say whether the files of a finished shard are there.

    Under its final name it counts only among `placed`: it is then this conversion's own, which was interrupted while it
    put its shards into place.
    """
    path = shard_path(out, one.number)
    if one.rejected and not ready(path.with_suffix(".rejected.jsonl"), key).exists():
        return False
    places = [ready(path, key), path] if path in placed else [ready(path, key)]
    return not one.images or any(_size(place) == one.bytes for place in places)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


# ---- the end --------------------------------------------------------------------------------------------------


def _finish(
    out: Path, key: str, made: list[ShardMade], layout: Layout, config: ConvertConfig, partial: Partial
) -> None:
    """Let shards, lists and last the manifest appear; safe to be interrupted and done again."""
    placed = partial.placed()
    if gone := [one for one in made if not _is_there(out, key, one, placed)]:
        name = ready(shard_path(out, gone[0].number), key)
        raise FileNotFoundError(f"{name}: a finished shard is gone; run the same command again, which makes it anew")
    rejected, images = sum(sum(one.rejected.values()) for one in made), sum(one.images for one in made)
    if not images or (rejected and config.strict):
        _join_rejected(refused_path(out), key, made, out)
        first = next((one.first_rejected for one in made if one.first_rejected), ["no file is an image", str(out)])
        files = sum(one.files for one in made)
        raise refusal(out, files=files, rejected=rejected, first=first, is_empty=not images, keeps_work=True)
    stored = [one for one in made if one.images]
    paths = [shard_path(out, one.number) for one in stored]
    check_names(out, placed)  # again, since making the shards took a while
    replaced = {*old_shards(out), *placed} - {*paths}
    partial.note_placing(replaced)
    refused_path(out).unlink(missing_ok=True)
    # From here on there is neither the old data set nor the new one: never one manifest with another's shards.
    out.unlink(missing_ok=True)
    for shard in replaced:
        shard.unlink(missing_ok=True)
    for path in paths:
        if ready(path, key).exists():
            put_into_place(ready(path, key), path)
    _join_rejected(rejected_path(out), key, made, out)
    write_class_names(out, layout.classes)
    shards = [
        Shard(file=path.name, images=one.images, bytes=one.bytes, fingerprint=one.fingerprint)
        for path, one in zip(paths, stored, strict=True)
    ]
    write_manifest(out, shards, images=images, bytes=sum(one.bytes for one in stored))


def _join_rejected(path: Path, key: str, made: list[ShardMade], out: Path) -> None:
    names = [shard_path(out, one.number).with_suffix(".rejected.jsonl") for one in made if one.rejected]
    lists = [ready(name, key) for name in names]
    if not lists:
        path.unlink(missing_ok=True)
        return
    joined = path.with_name(f".{path.name}.partial")
    with open(joined, "wb") as file:
        for one in lists:
            with open(one, "rb") as part:
                shutil.copyfileobj(part, file)
    put_into_place(joined, path)


def _summary(out: Path, made: list[ShardMade], layout: Layout, resumed: int, seconds: float) -> Summary:
    reasons: Counter[str] = Counter()
    for one in made:
        reasons.update(one.rejected)
    numbered = max((one.highest_label for one in made), default=-1) + 1
    return Summary(
        out=str(out),
        images=sum(one.images for one in made),
        jpegs=sum(one.jpegs for one in made),
        classes=numbered if layout.classes is None else len(layout.classes),
        rejected=dict(reasons.most_common()),
        rejected_list=str(rejected_path(out)) if reasons else None,
        ignored=layout.ignored + sum(one.ignored for one in made),
        bytes=sum(one.bytes for one in made if one.images),
        page_size=max(one.page_size for one in made),
        shards=sum(one.images > 0 for one in made),
        resumed_files=resumed,
        seconds=seconds,
        images_per_second=(sum(one.files for one in made) - resumed) / seconds,
    )
