"""Where a conversion goes: what is refused before it begins, and the files beside the beton."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.beton import classes_path
from pipelines.prepare import remote
from pipelines.prepare.config import ConvertConfig
from pipelines.prepare.partial import shards_named_after
from pipelines.prepare.writer import write_text
from pipelines.shards import read_shards
from saliency.shards import is_manifest


def check_target(source: str | Path, out: Path, config: ConvertConfig) -> None:
    """Refuse a target that could not be written, or is not to be replaced."""
    if remote.is_url(out) or re.match(r"[a-z0-9]+:/[^/]", str(out)):  # a Path has one slash only
        raise ValueError(f"{out}: a beton is mapped into memory, so it must be a file: give a path, local or shared")
    if out.suffix != ".beton":
        raise ValueError(f"{out}: the name of a beton ends in .beton (relic data convert SRC OUT.beton)")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder; make it by mkdir -p {out.parent}")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{out.parent}: not writable; choose another folder or change its permissions")
    if out.is_dir():
        raise IsADirectoryError(f"{out}: is a folder, where a beton is to be; move it, or name another OUT")
    if out.exists() and not config.overwrite:
        raise FileExistsError(f"{out}: exists already; --overwrite replaces it")
    if not remote.is_url(source) and Path(source).is_dir() and out.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"{out}: lies within the folder it is made of; put it elsewhere")


def check_room(out: Path, needed: int) -> None:
    """Raise OSError where the disk is too small for what is to come."""
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise OSError(
            f"{out.parent}: the images take {needed / 1e9:,.1f} GB, only {free / 1e9:,.1f} GB are free; make room "
            "there or store less with --max-side"
        )


@contextmanager
def full_disks_named(out: Path) -> Iterator[None]:
    """Say of a disk that became full what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            f"{out.parent}: {error.strerror}; what is finished is kept: make room and run the same command again"
        ) from None


def old_shards(out: Path) -> list[Path]:
    """Name the shards of the data set that is there and about to be replaced.

    Those that are named after another one are left out: the manifest is then a copy, and they are not its own.
    """
    try:
        named = {out.with_name(shard.file) for shard in read_shards(out)} if is_manifest(out) else set()
    except ValueError:  # a damaged manifest, which nobody can read and everybody may replace
        return []
    return sorted(named.intersection(shards_named_after(out)))


def check_names(out: Path, placed: Iterable[Path]) -> None:
    """Refuse to replace files that have the names of shards, and are neither of the old data set nor of `placed`."""
    if others := sorted({*shards_named_after(out)}.difference(old_shards(out), placed)):
        raise FileExistsError(
            f"{others[0]}: has the name of a shard of {out.name} and is none of it; move it, or name another OUT"
        )


def rejected_path(out: Path) -> Path:
    """Name the list of what was rejected."""
    return out.with_suffix(".rejected.jsonl")


def refused_path(out: Path) -> Path:
    """Name the list of what nothing was made for; that of a data set which is there stays."""
    return out.with_suffix(".refused.jsonl") if out.exists() else rejected_path(out)


def rejected_lines(rejected: Sequence[tuple[str, str]]) -> str:
    """Write (source, reason) as JSON, a line each."""
    return "".join(json.dumps({"source": source, "reason": reason}) + "\n" for source, reason in rejected)


def refusal(
    out: Path, *, files: int, rejected: int, first: Sequence[str], is_empty: bool, keeps_work: bool = False
) -> ValueError:
    """Say why nothing is made."""
    mend = "leave out --strict, or mend or remove them"
    if keeps_work:
        mend = "leave out --strict, which goes on from here, or mend or remove them, which starts over"
    return ValueError(
        f"{out}: not made, {rejected:,} of {files:,} files rejected (first: {': '.join(first)}); "
        f"{'no image is left' if is_empty else mend}; all: {refused_path(out)}"
    )


def write_class_names(out: Path, classes: Sequence[str] | None) -> None:
    """Write the class names beside a beton, or take those of an earlier one away."""
    if classes is None:
        classes_path(out).unlink(missing_ok=True)
    else:
        write_text(classes_path(out), "".join(name.replace("\n", " ") + "\n" for name in classes))
