"""`python -m benchmarks growth`: what rendering costs as images, views, their side and the blur grow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from pipelines.config import ViewsConfig

IMAGE_SIDES = (130, 250, 375, 500, 750, 1000, 1500, 2000)
"""Rows of 2,048 · 3 bytes and other multiples of large powers of two fall on the same lines of the cache: such images
cost up to a third more, and would not lie on the line."""
VIEW_COUNTS = (1, 2, 4, 6, 8, 12)
VIEW_SIDES = (32, 64, 96, 128, 160, 224, 288, 384, 448)
SIGMAS = (0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0)


@dataclass(kw_only=True)
class Series:
    """One quantity that grows, everything else as in the recipe."""

    name: str
    unit: str
    expected: str
    """What the line's slope is made of."""
    x: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    """Per image, median over the rounds; without decoding."""

    def line(self) -> tuple[float, float, float]:
        """Return slope, intercept and R² of the least-squares line."""
        from benchmarks.harness import straight_line

        return straight_line(self.x, self.milliseconds)


def growth(
    images: Path, out: Path = Path("growth.png"), limit: int = 24, repeats: int = 15, json: str | None = None
) -> int:
    """Measure one thread of the fused engine, decoding not included, and draw four plots.

    Args:
        images: Folder with JPEG files; they are resized to squares.
        out: PNG file to write.
        limit: Most images, evenly spaced in the sorted list.
        repeats: Rounds over all points of a plot; the median counts.
        json: File for the records, - for standard output.
    """
    from benchmarks import machine, records
    from benchmarks.harness import print_note
    from pipelines import engine

    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out} is no .png file: give it that ending")
    records.check_target(json)
    pictures = _pictures(images, limit)
    shared = records.conditions(machine.describe())
    series = []
    for measure in (_image_side, _view_count, _view_side, _blur):
        series.append(measure(pictures, repeats))
        slope, intercept, fit = series[-1].line()
        print_note(f"{series[-1].name}: {intercept:.3f} ms + {slope:.3g} ms per {series[-1].unit}, R² {fit:.4f}")
    draw(series, out, f"engine {engine.chosen()}, one thread, {len(pictures)} photographs, {shared['machine']['cpu']}")
    print_note(f"{out}: four plots")
    if json is not None:
        records.write([_record(one, len(pictures), repeats, shared) for one in series], json)
    return 0


def _pictures(folder: Path, limit: int) -> list[np.ndarray]:
    import cv2

    from benchmarks import images, jpeg
    from benchmarks.harness import print_note

    files = images.read_jpegs(folder, limit, on_note=print_note)
    largest = jpeg.largest_bytes(files)
    side = max(IMAGE_SIDES)
    return [cv2.resize(jpeg.decode(file, largest), (side, side), interpolation=cv2.INTER_CUBIC) for file in files]


def _pass(pictures: list[np.ndarray], recipe: ViewsConfig) -> Callable[[], float]:
    """Return a function that renders all pictures once and returns the milliseconds per image."""
    import numpy as np

    from benchmarks.work import draw_rows
    from pipelines import engine
    from pipelines.engine.settings import settings_of

    rows = draw_rows(recipe, 0, [picture.shape[:2] for picture in pictures])
    sizes = [recipe.large.size] * recipe.large.count + [recipe.small.size] * recipe.small.count
    outputs = [np.zeros((size, size, 3), np.uint8) for size in sizes]
    name, settings = engine.chosen(), settings_of(recipe)

    def run() -> float:
        start = time.perf_counter()
        for picture, row in zip(pictures, rows, strict=True):
            engine.render(name, picture, row, outputs, settings)
        return (time.perf_counter() - start) / len(pictures) * 1000

    return run


def _grow(
    series: Series, values: Any, of: Callable[[Any], tuple[float, list[np.ndarray], ViewsConfig]], repeats: int
) -> Series:
    """Measure all points in rounds, so that a busy machine's noise hits all alike; the first round warms up."""
    passes = []
    for value in values:
        x, pictures, recipe = of(value)
        series.x.append(x)
        passes.append(_pass(pictures, recipe))
    rounds = [[run() for run in passes] for _ in range(repeats + 1)][1:]
    series.milliseconds = [statistics.median(point) for point in zip(*rounds, strict=True)]
    return series


def _recipe(**large: Any) -> ViewsConfig:
    from benchmarks.work import benchmark_recipe

    recipe = benchmark_recipe("relicv2")
    return replace(recipe, large=replace(recipe.large, **large), small=replace(recipe.small, count=0))


def _at(pictures: list[np.ndarray], side: int) -> list[np.ndarray]:
    import cv2

    return [cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in pictures]


def _image_side(pictures: list[np.ndarray], repeats: int) -> Series:
    from benchmarks.work import benchmark_recipe

    series = Series(
        name="image", unit="megapixel of the image", expected="the vertical pass reads every pixel of a crop"
    )
    recipe = benchmark_recipe("relicv2")
    return _grow(series, IMAGE_SIDES, lambda side: (side * side / 1e6, _at(pictures, side), recipe), repeats)


def _view_count(pictures: list[np.ndarray], repeats: int) -> Series:
    series = Series(name="views", unit="view of 224", expected="views share nothing but the decoded image")
    small = _at(pictures, 384)
    return _grow(series, VIEW_COUNTS, lambda count: (count, small, _recipe(count=count)), repeats)


def _view_side(pictures: list[np.ndarray], repeats: int) -> Series:
    series = Series(
        name="side", unit="megapixel in four views", expected="all passes but the vertical run over the view"
    )
    small = _at(pictures, 384)
    return _grow(series, VIEW_SIDES, lambda side: (4 * side * side / 1e6, small, _recipe(size=side)), repeats)


def _blur(pictures: list[np.ndarray], repeats: int) -> Series:
    series = Series(
        name="blur", unit="pixel of sigma", expected="taps grow with sigma, in steps: whole pixels on either side"
    )
    small = _at(pictures, 384)

    def of(sigma: float) -> tuple[float, list[np.ndarray], ViewsConfig]:
        recipe = _recipe()
        blurred = replace(recipe.photometric, blur=(float(sigma > 0),) * 2, blur_sigma=(sigma, sigma))
        return sigma, small, replace(recipe, photometric=blurred)

    return _grow(series, SIGMAS, of, repeats)


def draw(series: list[Series], out: Path, conditions: str) -> None:
    """Write a panel per series: points, line, and what the line is made of."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, one in zip(figure.subplots(2, 2).flat, series, strict=True):
        slope, intercept, fit = one.line()
        x = np.array([0, max(one.x)])
        axes.plot(x, intercept + slope * x, color="0.6", linewidth=1)
        axes.plot(one.x, one.milliseconds, "o", color="#1b6ca8", markersize=4)
        axes.set_xlabel(one.unit)
        axes.set_ylim(0)
        axes.set_ylabel("ms per image")
        axes.set_title(f"{intercept:.2f} + {slope:.3g} x, R² {fit:.4f}\n{one.expected}", loc="left", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(conditions, fontsize=7, color="0.35", x=0.02, ha="left")
    figure.savefig(out, dpi=130)


def _record(one: Series, count: int, repeats: int, shared: dict[str, Any]) -> dict[str, Any]:
    from benchmarks import records

    slope, intercept, fit = one.line()
    return {
        "benchmark": f"growth, {one.name}",
        "provider": "fused",
        "value": slope,
        "unit": f"ms per {one.unit}",
        "low": min(one.milliseconds),
        "high": max(one.milliseconds),
        "repeats": repeats,
        "threads": 1,
        "recipe": f"the default, {one.name} varied",
        "images": {"count": count},
        "x": one.x,
        "milliseconds": one.milliseconds,
        "line": {"slope": slope, "intercept": intercept, "r2": fit},
        "versions": records.versions(records.ALWAYS),
        **shared,
    }
