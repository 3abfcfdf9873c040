"""`relic evaluate RUN|WEIGHTS --train TRAIN.beton --test TEST.beton`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from relic import cores
from relic.evaluate.config import Conditions, KnnConfig, LinearConfig, Protocol

EVALUATION_TIMEOUT_SECONDS = 1800.0
"""Longest wait of a process for the others, which read the same files; rank 0 trains the head alone."""


def evaluate(
    source: tyro.conf.Positional[Path],
    train: Path | None = None,
    test: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="[NAME=]FILE")] = (),
    protocols: tuple[Protocol, ...] = ("knn", "linear"),
    backbone: str | None = None,
    view_size: int | None = None,
    center_share: float | None = None,
    batch_size: int = 256,
    num_threads: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    backend: Literal["fused", "reference"] = "fused",
    knn: KnnConfig = KnnConfig(),  # noqa: B008 - frozen
    linear: LinearConfig = LinearConfig(),  # noqa: B008 - frozen
    json: str | None = None,
) -> None:
    """Judge the frozen online backbone by nearest neighbours and linear heads.

    Processes of torchrun share the work of the backbone. Prints a table and, for a run, writes RUN/evaluation.json
    and RUN/linear_head.safetensors.

    Args:
        source: Run directory, checkpoint or weights file (.safetensors, .pth).
        train: Labelled beton that neighbours and heads come from; by default the data of the run.
        test: Labelled beton to test on, named after the file or by NAME=; give it again for more.
        protocols: Which to run.
        backbone: Name of the backbone of a weights file that does not say it.
        view_size: Side of the views in pixels; by default that of the run's large views, 224 for other weights.
        center_share: Side of the centre crop as a share of the image's shorter side; by default 0.875, or 1 where no
            training image is larger than 64 pixels.
        batch_size: Images per batch of the backbone.
        num_threads: Threads that decode and render; 0 takes all cores.
        device: Where to compute; auto takes a GPU where there is one.
        precision: Autocast dtype of the backbone.
        backend: Who decodes and renders.
        knn: Nearest neighbours.
        linear: Linear heads.
        json: File for the results, - for standard output in place of the table.
    """

    from relic.distributed import from_environment, process_group
    from relic.evaluate import protocols as evaluation
    from relic.evaluate.linear import save_head
    from relic.weights import load_backbone

    tests = named_files(test)
    loaded = load_backbone(source, name=backbone)
    train = train or (Path(loaded.config.data) if loaded.config is not None else None)
    if train is None:
        raise ValueError(f"{source} does not say what it was trained on: give --train FILE.beton")
    if not protocols:
        raise ValueError("no protocol was asked for: give --protocols knn, linear or both")
    data = evaluation.open_data(train, tests, protocols)
    world = from_environment(device)
    conditions = Conditions(
        view_size=loaded.view_size if view_size is None else view_size,
        center_share=data.center_share if center_share is None else center_share,
        batch_size=batch_size,
        num_threads=num_threads or cores.of_process(world.local_world_size, world.launcher),
        device=str(world.device),
        precision=precision,
        backend=backend,
    )
    check_conditions(conditions)
    with process_group(world, timeout_seconds=EVALUATION_TIMEOUT_SECONDS) as group:
        judged = evaluation.evaluate(
            loaded, data, conditions, protocols=protocols, knn_config=knn, linear_config=linear, group=group
        )
    if judged is None:
        return
    results, head = judged
    record = describe(source, train, loaded, conditions) | results

    if loaded.run is not None:
        write_json(record, loaded.run / "evaluation.json")
        if head is not None:
            belongs = {"step": str(loaded.step), "backbone": loaded.name, "view_size": str(conditions.view_size)}
            save_head(head, loaded.run / "linear_head.safetensors", belongs)
    if json == "-":
        print(json_text(record), end="")
        return
    if json is not None:
        write_json(record, Path(json))
    print(summary(record))
    print_table(record)
    written = [loaded.run / "evaluation.json"] if loaded.run is not None else []
    written += [Path(json)] if json is not None else []
    for path in written:
        print(f"written: {path}")


def named_files(given: tuple[str, ...]) -> dict[str, Path]:
    """Return test files by name: `NAME=FILE`, or `FILE`, which is called what the file is called.

    Raises:
        ValueError: none, or two of one name.
    """
    if not given:
        raise ValueError("no test set: give --test FILE.beton (labelled images that were not trained on)")
    files: dict[str, Path] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            name, file = Path(text).stem, text
        if not name or not file:
            raise ValueError(f"--test {text!r} is neither FILE nor NAME=FILE")
        if name in files:
            raise ValueError(f"two test sets are called {name!r} ({files[name]}, {file}): name them, --test NAME=FILE")
        files[name] = Path(file)
    return files


def check_conditions(conditions: Conditions) -> None:
    """Raise ValueError for a size that is none."""
    if conditions.view_size < 1 or conditions.batch_size < 1:
        raise ValueError(f"view_size={conditions.view_size} and batch_size={conditions.batch_size} must be 1 or more")
    if not 0 < conditions.center_share <= 1:
        raise ValueError(f"center_share={conditions.center_share:g} is not in (0, 1]: photographs want 0.875")


def describe(source: Path, train: Path, loaded: Any, conditions: Conditions) -> dict[str, Any]:
    """Return what was evaluated, where and by which versions."""
    from datetime import datetime, timezone

    import torch

    from relic import __version__
    from relic.telemetry import commit

    return {
        "source": str(source),
        "recipe": None if loaded.config is None else loaded.config.recipe,
        "backbone": loaded.name,
        "stem": loaded.stem,
        "step": loaded.step,
        "view_size": conditions.view_size,
        "train": str(train),
        "versions": {"relicv2": __version__, "torch": torch.__version__, "commit": commit()},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def json_text(record: dict[str, Any]) -> str:
    """Return the record as JSON; NaN and infinity as strings, since JSON has no such numbers."""
    import json
    import math

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(record), indent=1) + "\n"


def write_json(record: dict[str, Any], path: Path) -> None:
    """Write the record, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json_text(record), encoding="utf-8")
    temporary.replace(path)


def summary(record: dict[str, Any]) -> str:
    """Return the conditions of the numbers, a line per protocol."""
    step = "" if record["step"] is None else f" at step {record['step']:,}"
    conditions = record["conditions"]
    lines = [
        f"{record['backbone']} of {record['source']}{step}: centre crops of {conditions['center_share']:.1%} of the"
        f" shorter side at {record['view_size']} pixels; train {record['train']}, {record['images']['train']:,} images,"
        f" {record['classes']} classes; {conditions['precision']} on {conditions['device']}"
    ]
    if "knn" in record:
        knn = record["knn"]
        vote = f"weighted by exp(cosine / {knn['temperature']:g})" if knn["vote"] == "weighted" else "by majority"
        lines.append(f"kNN: cosine, vote {vote}" + ("; leave-one-out" if knn["leave_one_out"] else ""))
    if "linear" in record:
        linear = record["linear"]
        heads = len(linear["learning_rates"]) * len(linear["weight_decays"])
        held_out = linear["held_out_accuracy"]
        chosen = "" if held_out is None else f"; best of {heads} heads, {held_out:.1%} of the held-out training images"
        lines.append(
            f"linear: {linear['features']} features, {linear['epochs']} epochs, learning rate"
            f" {linear['chosen_learning_rate']:g}, weight decay {linear['chosen_weight_decay']:g}{chosen}"
        )
    return "\n".join(lines)


def print_table(record: dict[str, Any]) -> None:
    """Print accuracies in percent: a rich table on a terminal, aligned columns elsewhere."""
    metrics = list(dict.fromkeys(metric for results in record["tests"].values() for metric in results))
    titles = [metric.replace("_top5", " top-5").replace("_per_class", " per class") for metric in metrics]
    rows = [["test set", "images", *titles]]
    for name, results in record["tests"].items():
        rows.append([name, f"{record['images'][name]:,}", *(f"{100 * results[metric]:.2f}" for metric in metrics)])
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title="accuracy in %")
        for number, title in enumerate(rows[0]):
            table.add_column(title, justify="left" if number == 0 else "right")
        for row in rows[1:]:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells))
