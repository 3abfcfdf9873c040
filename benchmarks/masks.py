"""`python -m benchmarks masks`: what masks bring. Pretraining on the embedded data set with backgrounds removed or
swapped at several chances, against none, over seeds; judged on backgrounds as in training and on misleading ones.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Sequence
from json import loads
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

from benchmarks import sweep
from benchmarks.sweep import Setting

TESTS = {"test": "test: backgrounds as in training", "test_shifted": "test_shifted: backgrounds mislead"}
COLORS = {"remove": "#1b6ca8", "swap": "#d55e00"}
NONE = "#3c3c3c"
ASIDE = 0.008  # of the axis of chances


def masks(
    folder: Path = Path("runs/masks-benefit"),
    chances: tuple[float, ...] = (0.1, 0.2, 0.4),
    modes: tuple[Literal["remove", "swap"], ...] = ("remove", "swap"),
    seeds: tuple[int, ...] = (0, 1, 2),
    recipe: str = "demo",
    duration: str | None = None,
    train: int = 3000,
    test: int = 2000,
    jobs: int = 1,
    out: Path = Path("masks_benefit.png"),
    json: str | None = None,
) -> int:
    """Pretrain without masks and with them, backgrounds removed or swapped, and compare linear accuracies.

    Everything is kept in the folder; the same command goes on where it was stopped.

    Args:
        folder: Where data, runs and logs go.
        chances: Chances of a large view to lose its background; 0, without masks, is always run.
        modes: What takes the background's place: constant grey, or plates.
        seeds: Seeds of the runs; the data are the same for all.
        recipe: Recipe of all runs.
        duration: Another length than the recipe's.
        train: Training images of the embedded data set.
        test: Test images, and as many with misleading backgrounds.
        jobs: Runs at a time, a core each.
        out: PNG file for the plot.
        json: File for the records, - for standard output (the table then goes to standard error).
    """
    from benchmarks import machine, records
    from relic import cores, recipes
    from relic.console import Progress

    if out.suffix.lower() != ".png" or not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: give a .png file in a folder that is there")
    if not seeds or not modes or not chances or not all(0 < chance <= 1 for chance in chances):
        raise ValueError("give at least one of --seeds, --modes and --chances, the chances in (0, 1]")
    if not 1 <= jobs <= cores.available():
        raise ValueError(f"--jobs {jobs}: this process may use {cores.available()} cores; give 1 to that many")
    records.check_target(json)
    length = duration or recipes.get(recipe).duration
    sweep.remember(folder, {"recipe": recipe, "duration": length, "train": train, "test": test})
    known = prepare(folder, train=train, test=test, jobs=jobs)
    chosen = sweep.settings(modes, chances, seeds)
    left = [setting for setting in chosen if not evaluation(folder, setting).exists()]
    with Progress("masks", len(left), "runs") as progress:
        sweep.run_all(
            left, lambda each: one_run(folder, each, recipe, length), jobs=jobs, on_done=lambda: progress.advance(1)
        )
    found = results(folder, chosen)
    shared = records.conditions(machine.describe())
    conditions = conditions_line(found, known, recipe, length, shared)
    print(f"{conditions}\n\n{table(found)}", file=sys.stderr if json == "-" else sys.stdout)
    draw(found, out, conditions)
    if json is not None:
        records.write([record(each, known, recipe, length, shared) for each in grouped(found)], json)
    return 0


# -- the runs ---------------------------------------------------------------------------------------------------------


def prepare(folder: Path, *, train: int, test: int, jobs: int) -> dict[str, Any]:
    """Make the data set, betons, masks and plates that are not there yet; return what is known of masks and plates."""
    data, log = folder / "data", folder / "logs" / "prepare.log"

    def made(product: str, *arguments: object) -> None:
        if not (data / product).exists():
            sweep.relic(*arguments, log=log, threads=1)

    def said(name: str, *arguments: object) -> dict[str, Any]:
        file = data / name
        if not file.exists():
            printed = sweep.relic(*arguments, "--json", log=log, threads=1)
            file.write_text(printed)
        return loads(file.read_text())

    if not (data / "test_shifted").exists():  # the last of its splits: an unfinished data set is begun again
        shutil.rmtree(data, ignore_errors=True)
    sizes = ("--train", train, "--test", test)
    made("test_shifted", "data", "synthetic", data, *sizes, "--workers", jobs)
    for split in ("train", *TESTS):
        made(f"{split}.beton", "data", "convert", data / split, data / f"{split}.beton", "--workers", jobs)
    beton, store = data / "train.beton", data / "train.masks"
    inferred = said("masks.json", "masks", "infer", beton, "--out", store, "--workers", jobs, "--overwrite")
    scored = said("score.json", "masks", "score", store, data / "train_masks", "--beton", beton)
    plates = said(
        "plates.json", "masks", "backgrounds", beton, "--masks", store, "--out", data / "plates.npy", "--overwrite"
    )
    (column,) = scored["maps"].values()
    return {
        "prior": inferred["prior"],
        "coverage": column["coverage"]["median"],
        "absent": column["absent"],
        "iou": column["iou"],
        "max_f": column["max_f"],
        "plates": plates["plates"],
        "plate_side": plates["side"],
    }


def evaluation(folder: Path, setting: Setting) -> Path:
    """Name the file that a finished run has."""
    return folder / "runs" / setting.name / "evaluation.json"


def one_run(folder: Path, setting: Setting, recipe: str, duration: str) -> None:
    """Pretrain and evaluate; a run that was stopped goes on from its checkpoint."""
    data, log = folder / "data", folder / "logs" / f"{setting.name}.log"
    flags: list[object] = ["--views.background.chance", setting.chance]
    if setting.mode != "none":
        flags += ["--masks", data / "train.masks", "--views.background.mode", setting.mode]
    if setting.mode == "swap":
        flags += ["--plates", data / "plates.npy"]
    directory = ("--runs", folder / "runs", "--name", setting.name, "--seed", setting.seed, "--duration", duration)
    sweep.relic("pretrain", recipe, "--data", data / "train.beton", *directory, *flags, log=log, threads=1)
    tests = [flag for name in TESTS for flag in ("--test", f"{name}={data / f'{name}.beton'}")]
    sweep.relic("evaluate", folder / "runs" / setting.name, *tests, "--num-threads", 1, log=log, threads=1)


# -- what came out ----------------------------------------------------------------------------------------------------

Result = tuple[Setting, dict[str, Any]]
"""A setting and its evaluation."""


def results(folder: Path, chosen: Sequence[Setting]) -> list[Result]:
    """Read the evaluations of all runs."""
    return [(setting, loads(evaluation(folder, setting).read_text())) for setting in chosen]


def grouped(found: Sequence[Result]) -> list[list[Result]]:
    """Put the seeds of each mode and chance together, in the order in which they were first run."""
    groups: dict[tuple[str, float], list[Result]] = {}
    for setting, judged in found:
        groups.setdefault((setting.mode, setting.chance), []).append((setting, judged))
    return list(groups.values())


def accuracies(group: Sequence[Result], test: str, metric: str = "linear") -> list[float]:
    """Return the percentages of the seeds of a group, in the order of the seeds."""
    return [100 * judged["tests"][test][metric] for _, judged in sorted(group, key=lambda each: each[0].seed)]


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation (of the seeds seen as a sample)."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}".replace("-", "−")


def table(found: Sequence[Result]) -> str:
    """Return a Markdown table: linear accuracy per mode and chance, and the gain over no masks, seed by seed."""
    heads = [f"{test}{what}" for test in TESTS for what in ("", ": gain")]
    lines = ["| backgrounds | chance | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    groups = grouped(found)
    for group in groups:
        setting = group[0][0]
        cells = [setting.mode, f"{setting.chance:g}"]
        for test in TESTS:
            with_masks, without = accuracies(group, test), accuracies(groups[0], test)
            gains = [a - b for a, b in zip(with_masks, without, strict=True)]
            cells += [spread(with_masks), "–" if group is groups[0] else spread(gains)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def conditions_line(
    found: Sequence[Result], known: dict[str, Any], recipe: str, duration: str, shared: dict[str, Any]
) -> str:
    """Return what was done where, in one line."""
    images = found[0][1]["images"]
    seeds = sorted({setting.seed for setting, _ in found})
    return (
        f"linear accuracy in %, mean ± standard deviation of {len(seeds)} seeds; {recipe}, {found[0][1]['backbone']},"
        f" {duration} on {images['train']:,} images, {images['test']:,} of each test set; masks by {known['prior']}"
        f" (IoU {known['iou']:.2f} with the true ones), {known['plates']:,} plates; a core per run,"
        f" {shared['machine']['cpu']}, commit {shared['commit']}"
    )


def draw(found: Sequence[Result], out: Path, conditions: str) -> None:
    """Write the plot: accuracy over chance, a line per mode, a pale dot per run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    groups = grouped(found)
    for axes, (test, title) in zip(figure.subplots(1, len(TESTS)), TESTS.items(), strict=True):
        without = accuracies(groups[0], test)
        axes.axhline(statistics.fmean(without), color=NONE, linewidth=0.8, linestyle=":")
        _points(axes, [0], [without], NONE, "none")
        modes = list(dict.fromkeys(group[0][0].mode for group in groups[1:]))
        for number, mode in enumerate(modes):
            of_mode = [group for group in groups[1:] if group[0][0].mode == mode]
            of_mode.sort(key=lambda group: group[0][0].chance)
            beside = ASIDE * (number - (len(modes) - 1) / 2)  # or their bars would hide each other
            chances = [group[0][0].chance + beside for group in of_mode]
            _points(axes, chances, [accuracies(group, test) for group in of_mode], COLORS[mode], mode)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("chance of a large view to lose its background")
        axes.set_ylabel("linear accuracy in %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.supxlabel(fill(conditions, 150), fontsize=7, color="0.35", x=0.02, ha="left")
    figure.savefig(out, dpi=130)


def _points(axes: Any, places: Sequence[float], values: Sequence[Sequence[float]], color: str, name: str) -> None:
    """Draw means with their deviations, joined by a line, and every run as a dot."""
    deviations = [statistics.stdev(each) if len(each) > 1 else 0 for each in values]
    means = [statistics.fmean(each) for each in values]
    axes.errorbar(places, means, yerr=deviations, color=color, marker="o", markersize=5, capsize=3, label=name)
    for place, each in zip(places, values, strict=True):
        axes.plot([place] * len(each), each, "o", color=color, alpha=0.35, markersize=3.5)


def record(
    group: Sequence[Result], known: dict[str, Any], recipe: str, duration: str, shared: dict[str, Any]
) -> dict[str, Any]:
    """Return the record of one mode and chance: linear accuracy on misleading backgrounds, and all others beside it."""
    from benchmarks import records

    setting, judged = group[0]
    values = accuracies(group, "test_shifted")
    metrics = {test: judged["tests"][test].keys() for test in TESTS}
    return {
        "benchmark": "masks",
        "provider": setting.mode if setting.mode == "none" else f"{setting.mode} {setting.chance:g}",
        "value": statistics.fmean(values),
        "unit": "% linear accuracy on test_shifted",
        "low": min(values),
        "high": max(values),
        "repeats": len(values),
        "threads": 1,
        "recipe": {"recipe": recipe, "duration": duration, "mode": setting.mode, "chance": setting.chance},
        "images": judged["images"],
        "seeds": sorted(each.seed for each, _ in group),
        "accuracies": {test: {key: accuracies(group, test, key) for key in keys} for test, keys in metrics.items()},
        "masks": known,
        "versions": records.versions(records.ALWAYS),
        **shared,
    }
