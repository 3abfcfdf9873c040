"""`relic masks score`: saliency maps against true masks, and against each other."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    import numpy as np

    from pipelines.shards import AnyBeton
    from saliency.maps import Maps

# key of the summary → heading of its column
MEASURES = {
    "mae": "MAE",
    "max_f": "max F",
    "max_f_of_mean_curve": "of mean curve",
    "mean_of_max_f": "mean of max",
    "iou": "IoU",
    "s_measure": "S",
    "mean_e": "mean E",
    "max_e": "max E",
}
FOOTNOTE = (
    "max F: largest F (beta² 0.3) of precision and recall averaged over the images; then of the mean curve of F; then"
    " the mean of every image's own"
)


def score(
    pred: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PRED")],
    truth: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="TRUTH")] = None,
    also: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PRED [PRED ...]")] = (),
    beton: Path | None = None,
    images: Path | None = None,
    gallery: Path | None = None,
    rows: int = 6,
    json: bool = False,
) -> None:
    """Measure saliency maps against true masks, and how far the maps of several priors agree.

    PRED is a folder of gray PNGs (0 to 255) or a mask store, TRUTH a folder of black and white PNGs. Files pair by
    their path in the folder, or else by their name; the masks of a store pair with the files in their order, which is
    that of `relic data convert`. Maps of another size are resized to their mask's. Without TRUTH, only coverage and
    agreement are measured.

    Args:
        pred: Folder of PNGs, or a mask store.
        truth: Folder of PNGs with the true masks.
        also: More folders or stores, measured beside the first; agreement is that of every two.
        beton: The beton of the mask stores.
        images: Folder of the images, for the gallery; those of a store come from its beton.
        gallery: PNG file for the best and the worst maps of PRED by IoU.
        rows: Maps of each kind in the gallery.
        json: Print JSON.
    """
    from json import dumps

    from relic.console import Progress
    from saliency import maps, structure
    from saliency.comparison import Comparison

    _check(truth, gallery, images, rows)
    with ExitStack() as stack:
        opened, stored = _open_all([pred, *also], beton, stack)
        true = None if truth is None else maps.open_folder(truth)
        reference = opened[0] if true is None else true
        places = [maps.match(each, reference) for each in opened]
        show = _images_of(reference, stored, images) if gallery is not None else None
        names = _names([pred, *also])
        comparison = Comparison(names, with_structure=truth is not None and structure.is_installed())
        ranking: list[tuple[float, int]] = []
        with Progress("score", reference.count) as progress:
            for position in range(reference.count):
                mask = None if true is None else _true_mask(true, position, stored)
                found = [each.read(place[position]) for each, place in zip(opened, places, strict=True)]
                iou = comparison.add(found, mask)[0]
                if iou is not None:
                    ranking.append((iou, position))
                progress.advance()
        summary = {"truth": None if truth is None else str(truth), **comparison.summary()}
        if gallery is not None and true is not None:
            ranking.sort(key=lambda entry: -entry[0])
            drawn = _gallery(ranking, rows, opened[0], places[0], true, show, heading=f"{names[0]} on {true.path.name}")
            gallery.write_bytes(drawn)
            summary["gallery"] = str(gallery)
    if truth is not None and not structure.is_installed():
        print("note: S- and E-measure are left out; `pip install pysodmetrics` brings them", file=sys.stderr)
    print(dumps(summary) if json else _report(summary))


# -- what is compared -------------------------------------------------------------------------------------------------


def _check(truth: Path | None, gallery: Path | None, images: Path | None, rows: int) -> None:
    """Raise before anything is measured where the gallery could not be made."""
    if rows < 1:
        raise ValueError(f"--rows {rows}: give at least 1")
    if gallery is None:
        if images is not None:
            raise ValueError("--images are for the gallery: give --gallery FILE.png too")
        return
    if truth is None:
        raise ValueError("--gallery ranks the maps by their IoU with the true masks: give TRUTH")
    if gallery.suffix.lower() != ".png":
        raise ValueError(f"--gallery {gallery} is no .png file: give it that ending")
    if not gallery.absolute().parent.is_dir():
        raise FileNotFoundError(f"{gallery.parent}: no such folder for --gallery; make it with `mkdir -p`")


def _open_all(paths: Sequence[Path], beton: Path | None, stack: ExitStack) -> tuple[list[Maps], AnyBeton | None]:
    """Open folders and stores, and the beton that the stores belong to."""
    from pipelines.shards import open_beton
    from saliency import maps
    from saliency.store import open_masks

    if all(path.is_dir() for path in paths):
        if beton is not None:
            raise ValueError(f"--beton {beton} is for mask stores, and no PRED is one")
        return [maps.open_folder(path) for path in paths], None
    opened = []
    stored = None if beton is None else stack.enter_context(open_beton(beton))
    for path in paths:
        if path.is_dir():
            opened.append(maps.open_folder(path))
            continue
        store = stack.enter_context(open_masks(path))
        if stored is None:
            raise ValueError(f"{path} is a mask store: give its images too, --beton FILE.beton")
        store.check(stored.fingerprint(), stored.num_images, stored.path)
        opened.append(maps.of_store(store))
    return opened, stored


def _names(paths: Sequence[Path]) -> list[str]:
    """Call each after its file, or by its whole path where two are called alike."""
    stems = Counter(path.stem for path in paths)
    names = [path.stem if stems[path.stem] == 1 else str(path) for path in paths]
    for name, times in Counter(names).items():
        if times > 1:
            raise ValueError(f"{name} was given {times} times: each PRED once")
    return names


def _true_mask(true: Maps, position: int, stored: AnyBeton | None) -> np.ndarray:
    """Read a true mask; of a store's image it must have the shape, or files and images are out of step."""
    from saliency.maps import true_mask

    assert true.names is not None
    gray, name = true.read(position), true.names[position]
    assert gray is not None
    if stored is not None:
        (high, wide), height, width = gray.shape, int(stored.heights[position]), int(stored.widths[position])
        if abs(high * width - wide * height) > max(height, width):  # more than a pixel of rounding
            raise ValueError(
                f"{true.path}: mask {name} is {wide}×{high}, but image {position} of {stored.path} {width}×{height}: "
                "the masks pair with the images in the order of `relic data convert`, one for every image"
            )
    return true_mask(gray, f"{true.path}: {name}")


# -- what is shown ----------------------------------------------------------------------------------------------------


def _images_of(
    reference: Maps, stored: AnyBeton | None, folder: Path | None
) -> Callable[[int], np.ndarray | None] | None:
    """Return what reads the image of a position, or None where images are not at hand."""
    from pipelines import decode
    from saliency import maps

    if folder is not None:
        images = maps.open_folder(folder, color=True)
        places = maps.match(images, reference)
        return lambda position: images.read(places[position])
    return None if stored is None else lambda position: decode.reference(stored, position)


def _gallery(
    ranking: Sequence[tuple[float, int]],
    rows: int,
    predicted: Maps,
    places: Sequence[int],
    true: Maps,
    show: Callable[[int], np.ndarray | None] | None,
    *,
    heading: str,
) -> bytes:
    """Draw the ends of a ranking, best first; no map is shown twice."""
    from saliency import gallery, maps

    def exhibit(iou: float, position: int) -> gallery.Exhibit:
        gray, saliency = true.read(position), predicted.read(places[position])
        assert gray is not None
        assert saliency is not None
        assert true.names is not None
        return gallery.Exhibit(
            title=true.names[position],
            iou=iou,
            saliency=maps.resized(saliency, gray.shape),
            truth=gray > 127,
            image=None if show is None else show(position),
        )

    if not ranking:
        raise ValueError(f"{predicted.path} has no mask to show")
    worst = ranking[::-1][: min(rows, len(ranking) // 2)]
    best = ranking[: min(rows, len(ranking) - len(worst))]
    return gallery.gallery([exhibit(*each) for each in best], [exhibit(*each) for each in worst], heading=heading)


def _report(summary: dict[str, Any]) -> str:
    """Lay the summary out for people."""
    measured = summary["maps"]
    against = f" against {summary['truth']}" if summary["truth"] else ""
    lines = [f"{summary['images']:,} images{against}"]
    for name, column in measured.items():
        if column["resized"]:
            lines.append(f"{name}: {column['resized']:,} maps were resized")
        if column["absent"]:
            lines.append(f"{name}: {column['absent']:,} without a mask, which were not scored")
    keys = [key for key in MEASURES if any(key in column for column in measured.values())]
    if keys:
        table = [["", *(MEASURES[key] for key in keys)]]
        for name, column in measured.items():
            table.append([name, *(f"{column[key]:.3f}" if key in column else "–" for key in keys)])
        lines += ["", *_aligned(table), FOOTNOTE]
    if summary["agreement"]:
        table = [["agreement", "IoU", "correlation"]]
        for pair in summary["agreement"]:
            figures = ("–" if pair[key] is None else f"{pair[key]:.3f}" for key in ("iou", "correlation"))
            table.append([" and ".join(pair["maps"]), *figures])
        lines += ["", *_aligned(table)]
    lines += ["", *_aligned(_coverage_table(measured, summary["true_coverage"]))]
    return "\n".join([*lines, *(["", f"gallery: {summary['gallery']}"] if "gallery" in summary else [])])


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in table
    ]


def _coverage_table(measured: dict[str, Any], of_truth: dict[str, Any] | None) -> list[list[str]]:
    """Count images by the share that is salient: a row per tenth, a column per prior."""
    columns = {name: column["coverage"] for name, column in measured.items()} | {"truth": of_truth}
    columns = {name: coverage for name, coverage in columns.items() if coverage is not None}
    table = [["images by salient share", *columns]]
    for number, counts in enumerate(zip(*(each["histogram"] for each in columns.values()), strict=True)):
        table.append([f"{10 * number:>3}–{10 * number + 10:>3} %", *(f"{count:,}" for count in counts)])
    return [*table, ["median share", *(f"{each['median']:.0%}" for each in columns.values())]]
