"""`relic views SRC`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from pipelines.config import ViewsConfig


def views(
    src: tyro.conf.Positional[Path],
    out: Path = Path("views.png"),
    recipe: str = "demo",
    masks: Path | None = None,
    plates: Path | None = None,
    images: int = 4,
    indices: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INDEX [INDEX ...]")] = (),
    seed: int = 0,
    epoch: int = 0,
    backends: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ("reference", "fused"),
) -> None:
    """Draw a contact sheet of the views that a recipe makes: one row per image and backend.

    Of a beton it shows the first images of the epoch, with the very views that training with this seed sees; of a
    folder or archive of images, some that lie evenly apart.

    Args:
        src: Beton, or folder, .tar or .zip of images.
        out: PNG file to write.
        recipe: Name of a recipe, or a run directory, whose views are taken as they were configured.
        masks: Mask store of the beton, to show masks and what becomes of backgrounds.
        plates: Background plates (.npy); with them backgrounds are swapped instead of removed.
        images: Number of images.
        indices: Images of the beton by their positions in it, instead of the first ones of the epoch.
        seed: Seed of the order and of the views.
        epoch: Epoch whose views are drawn.
        backends: Who renders, one row each: reference, fused, ...; all after the first are compared with it.
    """
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out} is no .png file: give it that ending")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder for --out; make it with `mkdir -p {out.parent}`")
    if indices and (not src.is_file() or src.suffix.lower() in (".tar", ".zip")):
        raise ValueError(f"--indices count the images of a beton, and {src} is none: convert it first")
    chosen = _views_config(recipe, swap=plates is not None)

    from relic.pictures import png, views_sheet

    with _as_beton(src, images, masks) as data:
        sheet = views_sheet(
            data,
            chosen,
            masks=masks,
            plates=plates,
            num_images=images,
            indices=indices,
            seed=seed,
            epoch=epoch,
            backends=backends,
            heading=f"{recipe} on {src.name}",
        )
    out.write_bytes(png(sheet))
    print(f"{out}: {sheet.shape[1]}×{sheet.shape[0]} pixels, views of {recipe} by {' and '.join(backends)}")


def _views_config(recipe: str, *, swap: bool) -> ViewsConfig:
    import dataclasses

    from relic import recipes
    from relic.config import load

    run = Path(recipe)
    config = load(run / "config.yaml") if run.is_dir() else recipes.get(recipe)
    views = config.views
    if swap:
        views = dataclasses.replace(views, background=dataclasses.replace(views.background, mode="swap"))
    return views


@contextmanager
def _as_beton(src: Path, num_images: int, masks: Path | None) -> Iterator[Path]:
    """Yield `src` itself, or for a folder or archive a small temporary beton of some of its images."""
    if src.is_file() and src.suffix.lower() not in (".tar", ".zip"):
        yield src
        return
    if masks is not None:
        raise ValueError(f"--masks belong to a beton, and {src} is none: convert it first, or leave --masks out")

    import tempfile

    from pipelines.prepare.writer import write_beton

    pictures, labels, class_names = _sample(src, max(num_images, 1))
    with tempfile.TemporaryDirectory(prefix="relic-views-") as folder:
        path = Path(folder) / "sample.beton"
        write_beton(path, pictures, labels, class_names=class_names)
        yield path


def _sample(src: Path, num_images: int) -> tuple[list, list[int], list[str] | None]:
    """Read images that lie evenly apart in a folder or archive; files that are none give way to their neighbours."""
    import numpy as np

    from pipelines.beton import JPEG, MAX_PAGE_SIZE
    from pipelines.prepare import images, sources

    treatment = images.Treatment(page_size=MAX_PAGE_SIZE)
    reader = sources.SourceReader()
    pictures, labels, reasons = [], [], []
    with sources.plan(src) as plan:
        count, classes = len(plan.sources), plan.classes
        for bucket in np.array_split(np.arange(count), min(num_images, count)):
            for position in np.roll(bucket, -(len(bucket) // 2)):
                source = plan.sources[position]
                try:
                    stored = images.store(reader.read(source), treatment)
                except (ValueError, OSError) as error:
                    reasons.append(f"{source.describe()}: {error}")
                    continue
                pixels = np.frombuffer(stored.payload, np.uint8)
                shape = (stored.height, stored.width, 3)
                pictures.append(stored.payload if stored.mode == JPEG else pixels.reshape(shape))
                labels.append(source.label)
                break
    reader.close()
    if not pictures:
        raise ValueError(f"{src}: none of its {count:,} files is an image ({reasons[0]})")
    return pictures, labels, classes
