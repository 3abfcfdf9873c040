"""`relic report`: one or several runs as one self-contained HTML file. Imports no torch."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from relic import __version__, recipes
from relic.charts import Series, line_chart
from relic.config import RunConfig, flatten, to_dict
from relic.paper import Published, published
from relic.run_directory import Run, read_run

# Shares of the wall time that a run waited for views: above the first the loader held it up, below the second a
# faster loader would not be noticed.
LOADER_BOUND, COMPUTE_BOUND = 0.2, 0.05

_CURVES = (
    ("loss", "loss"),
    ("contrastive", "contrastive: −log p of the positive"),
    ("invariance", "invariance: KL(p ‖ q)"),
    ("accuracy", "accuracy on training views"),
    ("learning_rate", "learning rate"),
    ("target_decay", "decay of the target network"),
)
_HEALTH = (
    ("feature_std", "feature std: 0 is collapse, 1 an even spread"),
    ("rankme", "RankMe: directions in use"),
    ("target_distance", "distance of target from online network"),
    ("projection_rankme", "RankMe of the projections"),
)
_RESULTS = {"linear": "linear", "linear_top5": "linear, top-5", "linear_per_class": "linear, mean over classes"}


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Write the report of one run, or of several side by side.

    Raises:
        FileNotFoundError: a directory is no run, or the folder of `out` is missing.
        ValueError: a file of a run is damaged.
    """
    page = render([read_run(run) for run in runs])
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder for --out; make it with `mkdir -p {out.parent}`")
    temporary = out.with_name(f".{out.name}.partial")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(out)


# -- what is said -----------------------------------------------------------------------------------------------------


def progress_sentence(run: Run) -> str:
    """Say what ran and how far it came."""
    views = run.config.views
    sizes = [f"{crop.count} of {crop.size}" for crop in (views.large, views.small) if crop.count]
    what = f"{run.config.model.backbone} by recipe {run.config.recipe}, views {' and '.join(sizes)} pixels"
    if not run.steps:
        return f"{what}. It has logged no step yet."
    last, total = run.steps[-1], run.total_steps
    epochs = f"{last['epoch']:.4g} epochs" if "epoch" in last else f"step {last['step']:,}"
    if total and last["step"] >= total:
        return f"{what}. It finished: {total:,} steps of {run.config.batch_size:,} images, {epochs}."
    of_total = f" of {total:,} ({last['step'] / total:.0%})" if total else ""
    return f"{what}. It stands at step {last['step']:,}{of_total}, {epochs} of batches of {run.config.batch_size:,}."


def bottleneck_sentence(steps: Sequence[dict[str, Any]]) -> str:
    """Say in plain words what bounded a run's throughput, from its step records."""
    # The first interval fills the queue and compiles.
    counted = [s for s in (steps[1:] if len(steps) >= 5 else steps) if s.get("seconds", 0) > 0 and "data_wait" in s]
    if not counted:
        return "What bounded the throughput is not known: no step was logged."
    seconds = np.array([step["seconds"] for step in counted])
    wait = np.array([step["data_wait"] for step in counted])
    rates = np.array([step["images_per_second"] for step in counted])
    share, rate = float((seconds * wait).sum() / seconds.sum()), float((seconds * rates).sum() / seconds.sum())
    if share > LOADER_BOUND:
        said = (
            f"Bound by the loader: {share:.0%} of the time the step waited for views. With views always ready it would"
            f" have made about {_rate(rate / max(1 - share, 0.01))} images/s instead of {_rate(rate)}. If cores are"
            " idle, raise --loader.num-threads; `python -m benchmarks views` shows what one core makes."
        )
    elif share > COMPUTE_BOUND:
        said = (
            f"Bound by computation, the loader close behind: {share:.0%} of the time the step waited for views; a"
            f" faster loader would raise {_rate(rate)} images/s to at most {_rate(rate / (1 - share))}."
        )
    else:
        said = (
            f"Bound by computation: only {share:.1%} of the time the step waited for views, so a faster loader would"
            f" gain nothing. It made {_rate(rate)} images/s."
        )
    return said + _unevenness(counted, seconds, wait, rates, share)


def _unevenness(
    counted: list[dict[str, Any]], seconds: np.ndarray, wait: np.ndarray, rates: np.ndarray, share: float
) -> str:
    if len(counted) < 10:
        return ""
    parts = np.array_split(np.arange(len(counted)), 10)
    waits = [float((seconds[p] * wait[p]).sum() / seconds[p].sum()) for p in parts]
    worst = int(np.argmax(waits))
    if waits[worst] > LOADER_BOUND >= share:
        first, last = counted[parts[worst][0]]["step"], counted[parts[worst][-1]]["step"]
        return f" Around steps {first:,} to {last:,}, though, it waited {waits[worst]:.0%} of the time."
    order = np.argsort(rates)
    reached = np.cumsum(seconds[order]) / seconds.sum()
    slow, usual, fast = (rates[order][np.searchsorted(reached, quantile)] for quantile in (0.1, 0.5, 0.9))
    if slow < 0.7 * usual:
        slowest = f"a tenth of the time it made less than {_rate(slow)} images/s"
        return f" It was uneven: {slowest}, half of it over {_rate(usual)}."
    start = "It was steady: in" if slow > 0.9 * usual and fast < 1.1 * usual else "In"
    return f" {start} four fifths of the time it made {_rate(slow)} to {_rate(fast)} images/s."


def warnings_of(run: Run) -> list[str]:
    """List what a reader should worry about, in order of the steps."""
    said = []
    for record in run.steps:
        if not math.isfinite(record.get("loss", 0.0)):
            said.append(f"step {record['step']:,}: the loss was {record['loss']}")
            break
    seen: set[str] = set()
    for record in run.health:
        for warning in record.get("warnings", []):
            kind = warning.split("(")[0]  # the figures in brackets differ from probe to probe
            if kind not in seen:
                said.append(f"step {record['step']:,}: {warning}")
            seen.add(kind)
    if run.unreadable_lines:
        lines = "1 line" if run.unreadable_lines == 1 else f"{run.unreadable_lines:,} lines"
        said.append(f"{lines} of metrics.jsonl could not be read and were passed over")
    return said


def key_figures(run: Run) -> dict[str, str]:
    """Return the few numbers that tell a run's story, as text."""
    figures = {}
    if run.steps:
        last, total = run.steps[-1], run.total_steps
        figures["steps"] = f"{last['step']:,}" + (f" of {total:,}" if total and total != last["step"] else "")
        if "loss" in last:
            figures["last loss"] = f"{last['loss']:.4g}"
        figures["images/s, median"] = _rate(float(np.median([s["images_per_second"] for s in run.steps])))
        seconds = sum(s.get("seconds", 0.0) for s in run.steps)
        if seconds:
            waited = sum(s.get("seconds", 0.0) * s.get("data_wait", 0.0) for s in run.steps)
            figures["waiting for views"] = f"{waited / seconds:.1%}"
            figures["training time"] = _time(seconds)
    for test, results in list(_evaluated(run, "tests").items())[:1]:
        for metric, name in (("linear", "linear"), ("knn@20", "kNN, k = 20")):
            if metric in results:
                figures[f"{name}, on {test}"] = f"{results[metric]:.1%}"
    return figures


def origin(run: Run) -> str:
    """Say when, on what and from which code it ran, as far as is known."""
    known = run.environment or {}
    date, device, commit = (known.get(name) for name in ("date", "device", "commit"))
    processes = known.get("world_size", 1)
    parts = [
        f"begun {str(date)[:16].replace('T', ' ')} UTC" if date else "",
        f"{processes} × {device}" if device and processes > 1 else str(device or ""),
        f"commit {commit}" if commit else "",
    ]
    return " · ".join(part for part in parts if part)


# -- tables -----------------------------------------------------------------------------------------------------------


def recipe_difference(run: Run) -> list[tuple[str, str, str]] | None:
    """Return (field, recipe's value, run's value) where they differ; None for a recipe this version does not have."""
    if run.config.recipe not in recipes.RECIPES:
        return None
    left, right = _fields(recipes.get(run.config.recipe)), _fields(run.config)
    return [(name, left[name], right[name]) for name in right if left[name] != right[name]]


def runs_difference(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return (field, value in each run) where the runs differ."""
    fields = [_fields(run.config) for run in runs]
    return [(name, values) for name in fields[0] if len(set(values := [f[name] for f in fields])) > 1]


def _fields(config: RunConfig) -> dict[str, str]:
    def text(value: Any) -> str:
        if isinstance(value, list):
            return " ".join(text(part) for part in value)
        return "none" if value is None or value == "" else f"{value:.6g}" if isinstance(value, float) else str(value)

    flat = flatten(to_dict(config))
    return {name: text(value) for name, value in flat.items() if name not in ("recipe", "name", "runs")}


def _evaluated(run: Run, key: str) -> dict[str, Any]:
    return (run.evaluation or {}).get(key, {})


def evaluation_sentence(run: Run) -> str:
    """Say what an evaluation's numbers are and how they were made; empty where there is none."""
    if run.evaluation is None:
        return ""
    known = run.evaluation
    parts = [
        f"Accuracy in percent, top-1 where not said otherwise, of {known.get('backbone', run.config.model.backbone)}"
    ]
    if known.get("step") is not None:
        parts.append(f" at step {known['step']:,}")
    if known.get("train"):
        parts.append(f"; neighbours and classifiers from {known['train']}")
    if known.get("view_size"):
        parts.append(f"; centre crops at {known['view_size']} pixels")
    if known.get("classes"):
        parts.append(f"; {known['classes']:,} classes, so chance is {100 / known['classes']:.3g}")
    return "".join(parts) + "."


def evaluation_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one row per test set and metric: each run's value, and the paper's where it is comparable."""
    keys: dict[tuple[str, str], None] = {}
    for run in runs:
        for test, results in _evaluated(run, "tests").items():
            keys |= dict.fromkeys((test, metric) for metric, value in results.items() if isinstance(value, float | int))
    rows = []
    for test, metric in keys:
        values = [_evaluated(run, "tests").get(test, {}).get(metric) for run in runs]
        rows.append(
            {
                "test": test,
                "images": next((n for run in runs if (n := _evaluated(run, "images").get(test))), None),
                "metric": _RESULTS.get(metric) or metric.replace("knn@", "kNN, k = ").replace("_top5", ", top-5"),
                "values": ["–" if value is None else f"{100 * value:.1f}" for value in values],
                "paper": _published(runs, test, metric),
            }
        )
    return rows


def _published(runs: Sequence[Run], test: str, metric: str) -> Published | None:
    """Return the paper's numbers where they fit every run."""
    found = {
        published(
            backbone=(run.evaluation or {}).get("backbone", run.config.model.backbone),
            view_size=(run.evaluation or {}).get("view_size", run.config.views.large.size),
            test=test,
            metric=metric,
        )
        for run in runs
        if run.evaluation
    }
    return found.pop() if len(found) == 1 else None


# -- the page ---------------------------------------------------------------------------------------------------------


def render(runs: Sequence[Run]) -> str:
    """Return the HTML page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("relic"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment.get_template("report.html.j2").render(
        runs=[
            {
                "run": run,
                "name": name,
                "progress": progress_sentence(run),
                "bottleneck": bottleneck_sentence(run.steps),
                "warnings": warnings_of(run),
                "figures": key_figures(run) | ({"origin": origin(run)} if len(runs) > 1 else {}),
                "origin": origin(run),
                "views_command": _views_command(run),
                "conditions": evaluation_sentence(run),
                "difference": recipe_difference(run),
                "fields": _fields(run.config),
            }
            for run, name in zip(runs, _names(runs), strict=True)
        ],
        between=runs_difference(runs) if len(runs) > 1 else [],
        curves=_charts(runs, _CURVES, "steps"),
        health=_charts(runs, _HEALTH, "health"),
        timeline=_timeline(runs),
        evaluation=evaluation_rows(runs),
        version=__version__,
    )


def _views_command(run: Run) -> str:
    files = [run.config.data or "FILE.beton"]
    files += ["--masks", run.config.masks] if run.config.masks else []
    files += ["--plates", run.config.plates] if run.config.plates else []
    return shlex.join(["relic", "views", *files, "--recipe", str(run.path), "--out", str(run.path / "views.png")])


def _prose(text: str) -> Markup:
    """Escape a sentence and set what stands in `backquotes` as code."""
    parts = (f"<code>{escape(part)}</code>" if i % 2 else escape(part) for i, part in enumerate(text.split("`")))
    return Markup("".join(parts))


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the directories' names, with their parents where two are the same."""
    names = [run.name for run in runs]
    return [
        n if names.count(n) == 1 else f"{r.path.resolve().parent.name}/{n}" for r, n in zip(runs, names, strict=True)
    ]


def _charts(runs: Sequence[Run], fields: Sequence[tuple[str, str]], kind: str) -> list[dict[str, str]]:
    charts = []
    for field, title in fields:
        series = []
        for number, (run, name) in enumerate(zip(runs, _names(runs), strict=True)):
            records = [record for record in getattr(run, kind) if field in record]
            xs, ys = [record["step"] for record in records], [record[field] for record in records]
            series.append(Series(name=name, x=xs, y=ys, color=number))
        drawn = line_chart(series, title=title, x_label="step")
        if drawn:
            last = f"{series[0].y[-1]:.4g}" if len(runs) == 1 else ""
            charts.append({"title": title, "last": last, "svg": drawn})
    return charts


def _timeline(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return charts of images/s and of waiting over the hours, minutes or seconds of training."""
    longest = max((sum(s.get("seconds", 0.0) for s in run.steps) for run in runs), default=0.0)
    unit, length = ("h", 3600) if longest > 2 * 3600 else ("min", 60) if longest > 2 * 60 else ("s", 1)
    rates, waits = [], []
    for number, (run, name) in enumerate(zip(runs, _names(runs), strict=True)):
        elapsed = (np.cumsum([step.get("seconds", 0.0) for step in run.steps]) / length).tolist()
        rates.append(Series(name=name, x=elapsed, y=[s["images_per_second"] for s in run.steps], color=number))
        waits.append(Series(name=name, x=elapsed, y=[s.get("data_wait", math.nan) for s in run.steps], color=number))
    drawn = []
    for title, series, high, limits in (
        ("images per second, over the time of training", rates, 190, {}),
        ("share of the time waiting for views", waits, 130, {"top": 1.0, "percent": True}),
    ):
        # Two widths, of which the style sheet shows one: a wide chart is unreadable on a phone.
        wide, narrow = (
            line_chart(
                series,
                title=title,
                x_label=unit,
                width=width,
                height=high,
                bottom=0.0,
                filled=len(runs) == 1,
                **limits,
            )
            for width in (860, 340)
        )
        if wide:
            drawn.append({"title": title, "wide": wide, "narrow": narrow})
    return drawn


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _time(seconds: float) -> str:
    """Write 3 h 05 min, 4 min 10 s or 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
