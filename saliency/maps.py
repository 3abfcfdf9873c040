"""Saliency maps and masks in a folder of PNGs or in a mask store, and which of one belongs to which of the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from saliency.store import AnyMaskStore

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
NAMED = 3  # files that a complaint shows


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Maps in an order, each read when it is asked for."""

    path: Path
    """The folder or the store."""
    names: list[str] | None
    """Paths in the folder without their endings, `class/name`; None for a store, whose masks have no names."""
    count: int
    """How many there are."""
    read: Callable[[int], np.ndarray | None]
    """Position → gray uint8 [H, W]; None where a store has no mask for that image. ValueError for a damaged file."""


def open_folder(folder: Path, *, color: bool = False) -> Maps:
    """List the PNGs of a folder and of the folders in it, in the order in which `relic data convert` would.

    Args:
        folder: where they are.
        color: list all pictures instead, and read them as RGB [H, W, 3].

    Raises:
        FileNotFoundError: no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    endings = PICTURES if color else (".png",)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.name[0] != ".")
    if not files:
        raise FileNotFoundError(f"{folder}: no {'pictures' if color else '.png files'} in it")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in files]
    return Maps(path=folder, names=names, count=len(files), read=lambda position: _read(files[position], color=color))


def of_store(store: AnyMaskStore) -> Maps:
    """Give the masks of a store as maps of 0 and 255, uint8 [128, 128]."""

    def read(position: int) -> np.ndarray | None:
        return None if store.absent[position] else store.mask(position).astype(np.uint8) * 255

    return Maps(path=store.path, names=None, count=store.num_images, read=read)


def match(maps: Maps, wanted: Maps) -> list[int]:
    """Find for every one of `wanted` the position of its counterpart in `maps`.

    Counterparts have the same path in their folder, or, where there is none, the same name in any folder. A store
    knows images by their position: its counterparts are the files in their order, and there must be as many.

    Raises:
        ValueError: a counterpart is missing, or there is more than one.
    """
    if maps.names is None or wanted.names is None:
        if maps.count != wanted.count:
            raise ValueError(
                f"{maps.path} holds {maps.count:,} and {wanted.path} {wanted.count:,}: a mask store pairs with files by"
                " their order, so that every image needs one"
            )
        return list(range(wanted.count))
    by_path = {name: position for position, name in enumerate(maps.names)}
    by_stem: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(maps.names):
        by_stem[name.rpartition("/")[2]].append(position)
    found, missing = [], []
    for name in wanted.names:
        same_stem = by_stem.get(name.rpartition("/")[2], [])
        if name in by_path:
            found.append(by_path[name])
        elif len(same_stem) > 1:
            several = " and ".join(maps.names[position] for position in same_stem[:2])
            raise ValueError(f"{maps.path}: {name} of {wanted.path} may be {several}; give both the same folders")
        elif same_stem:
            found.append(same_stem[0])
        else:
            missing.append(name)
    if missing:
        shown = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        raise ValueError(f"{maps.path} lacks {len(missing):,} of the {wanted.count:,} in {wanted.path}: {shown}")
    return found


def true_mask(gray: np.ndarray, name: str) -> np.ndarray:
    """Cut the gray picture of a true mask in the middle; bool [H, W].

    Raises:
        ValueError: it is drawn in 0 and 1 instead of 0 and 255, so that nothing would be left.
    """
    brightest = int(gray.max())
    if 0 < brightest <= 127:
        raise ValueError(f"mask {name}: its brightest pixel is {brightest} of 255; masks are black (0) and white (255)")
    return gray > 127


def resized(gray: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bring a map to another (height, width), bilinearly; the same one where it has that size."""
    if gray.shape == shape:
        return gray
    return cv2.resize(gray, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def _read(path: Path, *, color: bool) -> np.ndarray:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    flags = cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE
    picture = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    if picture is None:
        raise ValueError(f"{path}: does not decode as a picture")
    return picture[..., ::-1] if color else picture
