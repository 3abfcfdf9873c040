"""Saliency maps of a folder of images, as a folder of PNGs with the same names."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipelines.prepare.engines import Engine, run
from pipelines.prepare.target import full_disks_named
from relic.masks import pngs
from relic.masks.batches import IMAGES_PER_TASK, check_seen, mapped, method_of
from relic.masks.tally import Summary, Tally
from saliency.infer import Maker, binary_mask, packed_mask
from saliency.maps import PICTURES
from saliency.store import DAMAGED


class Task(NamedTuple):
    """Images of a folder, by their paths in it."""

    folder: Path
    names: tuple[Path, ...]
    maker: Maker
    pngs: Path
    overwrite: bool


class Made(NamedTuple):
    """What a mask store would hold of the images: `flags` uint8 [n], salient pixels `areas` int64 [n]."""

    flags: np.ndarray
    areas: np.ndarray
    kept: int
    """Pictures that an earlier run had made."""
    damaged: tuple[Path, ...]


def make_pngs(
    source: Path,
    out: Path,
    maker: Maker,
    *,
    engine: Engine,
    overwrite: bool = False,
    on_start: Callable[[int], None],
    on_progress: Callable[[int], None],
    on_note: Callable[[str], None],
) -> Summary:
    """Make OUT/name.png of every image SOURCE/name.*, in the folders that it is in.

    Pictures that the same maker made are kept. Arguments as in `relic.masks.stores.make_stores`.

    Raises:
        OSError, ValueError: in one line that names the mend.
    """
    began = time.monotonic()
    names = images_in(source)
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"--png {out}: lies within the images' folder; put it elsewhere")
    for name in () if overwrite else names:
        if pngs.made_by(png_of(out, name)) not in (None, str(maker)):
            raise FileExistsError(
                f"{png_of(out, name)} exists and was not made by {maker}: give --overwrite to replace it or --png for"
                " another folder"
            )
    out.mkdir(exist_ok=True)
    on_start(len(names))
    tally, kept = Tally(), 0
    try:
        with full_disks_named(out):
            for _, made in run(make_maps, _tasks(source, names, maker, out, overwrite), engine=engine, on_note=on_note):
                tally.add(made.flags, made.areas)
                kept += made.kept
                for name in made.damaged:
                    on_note(f"{source / name} does not decode")
                on_progress(len(made.flags))
    finally:
        method_of.cache_clear()  # workers=1 ran the tasks in this process
    return tally.summary(maker=str(maker), resumed=kept, seconds=time.monotonic() - began)


def images_in(folder: Path) -> list[Path]:
    """List the pictures of a folder and of the folders in it, by their paths in it, in order.

    Raises:
        FileNotFoundError: there is none.
        ValueError: two would give the same PNG.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.name[0] != ".")
    if not found:
        raise FileNotFoundError(f"{folder}: no pictures in it ({', '.join(PICTURES)})")
    names = [path.relative_to(folder) for path in found]
    seen: dict[Path, Path] = {}
    for name in names:
        other = seen.setdefault(name.with_suffix(""), name)
        if other != name:
            raise ValueError(f"{folder}: {other} and {name} would both become {png_of(Path(), name)}; rename one")
    return names


def png_of(folder: Path, name: Path) -> Path:
    """Name the picture of an image's map."""
    return folder / name.with_suffix(".png")


def _tasks(source: Path, names: Sequence[Path], maker: Maker, out: Path, overwrite: bool) -> Iterator[Task]:
    for start in range(0, len(names), IMAGES_PER_TASK):
        part = tuple(names[start : start + IMAGES_PER_TASK])
        yield Task(source.absolute(), part, maker, out.absolute(), overwrite)


def make_maps(task: Task) -> Made:
    """Read some images and write their maps; a damaged one does not cost the others."""
    check_seen(task.folder)
    check_seen(task.pngs)
    maker = str(task.maker)
    is_kept = [not task.overwrite and pngs.made_by(png_of(task.pngs, name)) == maker for name in task.names]
    damaged: list[Path] = []
    left = [name for name, kept in zip(task.names, is_kept, strict=True) if not kept]
    for name, size, saliency in mapped(_read(task.folder, left, damaged), task.maker):
        pngs.write(png_of(task.pngs, name), pngs.gray_of(saliency, size), maker)
    flags = np.full(len(task.names), DAMAGED, np.uint8)
    areas = np.zeros(len(task.names), np.int64)
    for place, name in enumerate(task.names):
        if name not in damaged:
            mask = binary_mask(pngs.read(png_of(task.pngs, name)) / np.float32(255))
            _, flags[place] = packed_mask(mask)
            areas[place] = mask.sum()
    return Made(flags, areas, sum(is_kept), tuple(damaged))


def _read(folder: Path, names: Sequence[Path], damaged: list[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    for name in names:
        try:
            yield name, read_picture(folder / name)
        except ValueError:
            damaged.append(name)


def read_picture(file: Path) -> np.ndarray:
    """Read a picture as it is stored, uint8 RGB [H, W, 3]; ValueError where it does not decode."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF, which nothing here heeds
            with Image.open(file) as picture:
                return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: does not decode ({error})") from None
