"""The embedded data set: photograph-like pictures with known masks, made by numpy and OpenCV.

Ten classes of objects (a shape family with a texture of its own, in any colour) lie on ten families of
backgrounds. In `train` and `test` a class comes with its own background with probability `correlation`; in
`test_shifted` all backgrounds are alike likely, and a network that looks at them is found out.
"""

from __future__ import annotations

import difflib
import functools
import math
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np

from pipelines.datasets import backgrounds, objects, scene

Split = Literal["train", "test", "test_shifted"]
SPLITS: tuple[Split, ...] = get_args(Split)

# class → (object, its own background); alphabetical, so that an image folder numbers the classes alike
CLASSES: dict[str, tuple[Callable, Callable]] = {
    "cross": (objects.cross, backgrounds.carpet),
    "donut": (objects.donut, backgrounds.wood),
    "fish": (objects.fish, backgrounds.water),
    "kite": (objects.kite, backgrounds.sky),
    "moon": (objects.moon, backgrounds.bokeh),
    "mug": (objects.mug, backgrounds.brick),
    "pebble": (objects.pebble, backgrounds.gravel),
    "snail": (objects.snail, backgrounds.foliage),
    "starfish": (objects.starfish, backgrounds.sand),
    "tree": (objects.tree, backgrounds.grass),
}
CLASS_NAMES = tuple(CLASSES)
FAMILIES = tuple(background for _, background in CLASSES.values())
NO_SHADOW = (backgrounds.sky, backgrounds.bokeh)  # nothing lies there to fall on
LEAN = {
    "mug": 0.35,
    "tree": 0.25,
    "fish": 0.5,
    "snail": 0.35,
}  # radians at most; the others are turned at will
GRAY_SHARE = 0.03  # ImageNet has about 2 %
SIDES = (96, 160)  # pixels
ASPECTS = (0.75, 1.33)
QUALITIES = (85, 95)
PICTURE, FILE = 0, 1  # purposes of an image's random streams
CHUNK = 32  # images a worker takes at a time


def render(index: int, *, split: Split, seed: int, correlation: float = 0.9) -> tuple[np.ndarray, np.ndarray, int]:
    """Make one image: a pure function of its arguments.

    Args:
        index: position in the split; the class is `index % 10`, so that a split is balanced.
        split: "train", "test" or "test_shifted".
        seed: in [0, 2**64).
        correlation: probability of the class's own background, in [0, 1]; "test_shifted" takes none of it.

    Returns:
        image uint8 RGB [H, W, 3] with sides of 96 to 160 pixels, mask bool [H, W] (object), label.

    Raises:
        ValueError: an unknown split; seed, index or correlation out of range.
    """
    _check(split, seed, correlation)
    if index < 0:
        raise ValueError(f"image index is {index}: give at least 0")
    rng = _generator(index, split, seed, purpose=PICTURE)
    label = index % len(CLASSES)
    name = CLASS_NAMES[label]
    height, width = _size(rng)
    family = _family(rng, label, 1 / len(CLASSES) if split == "test_shifted" else correlation)
    light = rng.uniform(math.pi * 1.1, math.pi * 1.9)  # from above, in the picture's plane
    picture = family(rng, height, width) * scene.lamp(rng, height, width, light)
    if rng.random() < 0.35:
        picture = scene.clutter(rng, picture, light)
    if rng.random() < 0.6:  # depth of field
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.8))
    painted = CLASSES[name][0](rng, scene.colours(rng, picture))
    alpha, albedo, relief = scene.placed(rng, painted, LEAN.get(name, math.pi), height, width)
    if family not in NO_SHADOW:
        picture = picture * scene.shadow(rng, alpha, light)
    lit = scene.shaded(rng, albedo, relief, light)
    picture += (lit - picture) * alpha[..., None]
    return scene.photographed(rng, picture, gray_share=GRAY_SHARE), alpha >= 0.5, label


def write_dataset(
    folder: str | Path,
    *,
    split: Split,
    num_images: int,
    seed: int,
    correlation: float = 0.9,
    workers: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> Path:
    """Write one split as an image folder of JPEGs and, beside it, its masks.

    `folder/split/CLASS/000123.jpg` and `folder/split_masks/CLASS/000123.png` (0 and 255); the same bytes
    whatever the number of workers. Both folders appear when all is written.

    Args:
        num_images: at least 1.
        workers: processes; 1 works in this one.
        on_progress: called with the number of images just written.

    Returns:
        the image folder.

    Raises:
        ValueError: as `render`, or a number below 1.
        FileExistsError: the split's folder is there already.
        OSError: the folder cannot be written, or a worker died.
    """
    _check(split, seed, correlation)
    for field, number in (("num_images", num_images), ("workers", workers)):
        if number < 1:
            raise ValueError(f"{field} is {number}: give at least 1")
    folder = Path(folder)
    finals = [folder / f"{split}_masks", folder / split]
    parts = [final.with_name(f".{final.name}.partial") for final in finals]
    for final in finals:
        if final.exists():
            raise FileExistsError(f"{final} exists: remove it or choose another folder")
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
        for name in CLASS_NAMES:
            (part / name).mkdir(parents=True)
    write = functools.partial(_write_chunk, parts, split, seed, correlation)
    chunks = [range(start, min(start + CHUNK, num_images)) for start in range(0, num_images, CHUNK)]
    if workers == 1:
        for chunk in chunks:
            _report(write(chunk), on_progress)
    else:
        # spawn: a fork copies the locks of a caller's threads
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            try:
                for written in pool.map(write, chunks):
                    _report(written, on_progress)
            except BrokenProcessPool as error:
                raise OSError(f"a worker that wrote {folder} died (out of memory?): use fewer workers") from error
    for part, final in zip(parts, finals, strict=True):
        os.replace(part, final)
    return finals[1]


def _write_chunk(parts: list[Path], split: Split, seed: int, correlation: float, chunk: Sequence[int]) -> int:
    for index in chunk:
        image, mask, label = render(index, split=split, seed=seed, correlation=correlation)
        quality = _generator(index, split, seed, purpose=FILE).integers(QUALITIES[0], QUALITIES[1] + 1)
        gray = bool((image == image[..., :1]).all())
        pixels = image[..., 0] if gray else image[..., ::-1]  # cv2 takes BGR; a gray JPEG has one channel
        _save(
            parts[1] / CLASS_NAMES[label] / f"{index:06d}.jpg",
            pixels,
            [cv2.IMWRITE_JPEG_QUALITY, int(quality)],
        )
        _save(parts[0] / CLASS_NAMES[label] / f"{index:06d}.png", mask.astype(np.uint8) * 255, [])
    return len(chunk)


def _save(path: Path, pixels: np.ndarray, options: list[int]) -> None:
    # cv2.imwrite returns False on a full disk; write_bytes raises
    path.write_bytes(cv2.imencode(path.suffix, pixels, options)[1].tobytes())


def _report(written: int, on_progress: Callable[[int], None] | None) -> None:
    if on_progress is not None:
        on_progress(written)


def _check(split: str, seed: int, correlation: float) -> None:
    if split not in SPLITS:
        nearest = difflib.get_close_matches(split, SPLITS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown split {split!r}: did you mean {nearest!r}?")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}: give an integer in [0, 2**64)")
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation is {correlation}: give a probability in [0, 1]")


def _generator(index: int, split: Split, seed: int, *, purpose: int) -> np.random.Generator:
    """Return an image's own stream: key (seed, split), purpose and index in the counter's two high words."""
    counter = np.array([0, 0, purpose, index], np.uint64)
    key = np.array([seed, SPLITS.index(split)], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw (height, width) in SIDES with an aspect ratio in ASPECTS."""
    longer = int(rng.integers(120, SIDES[1] + 1))
    aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
    shorter = max(SIDES[0], round(longer * min(aspect, 1 / aspect)))
    return (longer, shorter) if aspect < 1 else (shorter, longer)


def _family(rng: np.random.Generator, label: int, correlation: float) -> Callable:
    """Choose a background: the class's own with probability `correlation`, else one of the others."""
    own = rng.random() < correlation
    other = (label + int(rng.integers(1, len(FAMILIES)))) % len(FAMILIES)
    return FAMILIES[label if own else other]
