"""`relic report`: one self-contained file, from whatever a run directory holds."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipelines.config import BackgroundConfig, CropConfig, ViewsConfig
from relic import config, recipes
from relic.cli import main
from relic.paper import published
from relic.report import bottleneck_sentence
from relic.run_directory import read_run

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VIEWS = ViewsConfig(large=CropConfig(count=2, size=48), small=CropConfig(count=2, size=32))
VOID = {"meta", "img", "br", "hr", "path", "circle", "link", "input"}


def step_record(step: int, **values) -> dict:
    usual = {
        "step": step,
        "epoch": step / 39,
        "learning_rate": 0.3,
        "target_decay": 0.99,
        "loss": 1 + 1 / step,
        "contrastive": 2 + 1 / step,
        "invariance": 0.125,
        "images_per_second": 300.0,
        "data_wait": 0.01,
        "seconds": 5.0,
        "eta_seconds": 9.0,
    }
    return usual | values


def health_record(step: int, **values) -> dict:
    return {"step": step, "feature_std": 0.9, "rankme": 17.5, "target_distance": 0.25, "warnings": []} | values


def write_run(run: Path, *, steps: int = 390, recipe: str = "demo", **changes) -> Path:
    """Write what `relic pretrain demo` leaves behind, and an evaluation."""
    run.mkdir(parents=True)
    given = {"views": VIEWS, "batch_size": 256, "duration": "10ep", "data": "images.beton"} | changes
    chosen = replace(recipes.get(recipe), name=run.name, runs=str(run.parent), **given)
    config.save(chosen, run / "config.yaml")
    (run / "command.txt").write_text("relic pretrain demo --data images.beton\n")
    environment = {"date": "2026-01-14T09:12:31+00:00", "device": "A Processor", "world_size": 1, "cores": 2}
    environment |= {"versions": {"torch": "9.8.7", "relicv2": None}, "commit": "0123456789ab"}
    (run / "environment.json").write_text(json.dumps(environment))
    records = [step_record(step) for step in range(5, steps + 1, 5)]
    records += [health_record(step) for step in range(20, steps + 1, 20)]
    write_metrics(run, sorted(records, key=lambda record: record["step"]))
    (run / "evaluation.json").write_text(
        json.dumps(
            {
                "backbone": chosen.model.backbone,
                "step": steps,
                "view_size": chosen.views.large.size,
                "train": "images.beton",
                "classes": 10,
                "images": {"val": 1000},
                "tests": {"val": {"knn@20": 0.4567, "linear": 0.5125, "linear_top5": 0.9, "odd": "nan"}},
            }
        )
    )
    (run / "views.png").write_bytes(PNG)
    return run


def write_metrics(run: Path, records: list[dict], tail: str = "") -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + tail)


class Page(HTMLParser):
    """Text, attributes and whether all elements are closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.elements, self.pieces = [], [], []
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.pieces.append(data)


def report_of(*runs: Path, out: Path | None = None) -> Page:
    assert main(["report", *map(str, runs), *(["--out", str(out)] if out else [])]) == 0
    default = (runs[0] if len(runs) == 1 else runs[0].parent) / "report.html"
    return Page((out or default).read_text(encoding="utf-8"))


def test_the_file_is_self_contained(tmp_path):
    run = write_run(tmp_path / "demo")
    page = report_of(run)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "data", "poster", "srcset", "action"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"@import|url\(|https?://", (run / "report.html").read_text())


def test_it_tells_the_run(tmp_path):
    page = report_of(write_run(tmp_path / "demo", seed=7))
    for said in (
        f"{recipes.get('demo').model.backbone} by recipe demo, views 2 of 48 and 2 of 32 pixels.",
        "It finished: 390 steps of 256 images, 10 epochs.",
        "begun 2026-01-14 09:12 UTC · A Processor · commit 0123456789ab",
        "Bound by computation: only 1.0% of the time the step waited for views",
        "It was steady: in four fifths of the time it made 300 to 300 images/s.",
        "seed 0 7",  # field, recipe, run
        "data none images.beton",
        "val (1,000) kNN, k = 20 45.7 linear 51.2 linear, top-5 90.0",
        "10 classes, so chance is 10.",
        "The paper gives no comparable number",
        "relic pretrain demo --data images.beton",
        "torch 9.8.7",
    ):
        assert said in page.text, said
    assert page.text.count("linear 51.2") == 1
    pictures = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert [base64.b64decode(picture.split(",")[1]) for picture in pictures] == [PNG]
    charts = [attributes["aria-label"] for tag, attributes in page.elements if attributes.get("class") == "chart"]
    for said in (
        "loss: demo from 1.2 to 1.003",
        "rate: demo from 0.3 to 0.3",
        "RankMe: directions in use: demo from 17.5",
    ):
        assert any(said in chart for chart in charts), said


def test_the_paper_stands_beside_what_it_is_comparable_with(tmp_path):
    page = report_of(write_run(tmp_path / "big", recipe="relicv2_r50_1000ep", views=ViewsConfig()))
    assert "kNN, k = 20 45.7 70.5 68.0 (BYOL) linear 51.2 77.1 75.6 76.5 linear, top-5" in page.text
    assert "The paper's numbers are for ImageNet" in page.text


@pytest.mark.parametrize(
    ("backbone", "view_size", "test", "metric", "expected"),
    [
        ("resnet50", 224, "imagenet_val", "linear", 77.1),
        ("resnet200x2", 224, "val", "linear", 80.6),
        ("resnet50", 224, "ILSVRC2012_val", "knn@10", 70.5),
        ("resnet50", 224, "objectnet", "linear", 25.9),
        ("resnet50", 224, "imagenet_val", "linear_top5", None),
        ("resnet50", 224, "imagenet_v2", "linear", None),
        ("resnet50", 224, "rival", "linear", None),
        ("resnet50", 32, "val", "linear", None),
        ("resnet18", 224, "val", "linear", None),
        ("resnet101", 224, "val", "knn@20", None),
        ("resnet50", 224, "objectnet", "knn@20", None),
    ],
)
def test_which_results_the_paper_has(backbone, view_size, test, metric, expected):
    found = published(backbone=backbone, view_size=view_size, test=test, metric=metric)
    assert (found and found.relicv2) == expected


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("metrics.jsonl", "It has logged no step yet. "),
        ("metrics.jsonl", "No metrics yet: metrics.jsonl is missing or has no step."),
        ("metrics.jsonl", "What bounded the throughput is not known: no step was logged."),
        ("metrics.jsonl", "Health was not measured"),
        ("command.txt", "The command is not known: command.txt is missing."),
        ("environment.json", "Machine and versions are not known: environment.json is missing."),
        ("evaluation.json", "Not evaluated yet: relic evaluate"),
        ("views.png", "No contact sheet: relic views images.beton --masks m.masks --recipe "),
    ],
)
def test_what_is_missing_is_a_sentence(missing, said, tmp_path):
    run = write_run(tmp_path / "demo", masks="m.masks")
    assert said not in report_of(run).text
    (run / missing).unlink()
    assert said in report_of(run).text


def test_only_a_configuration_is_enough(tmp_path):
    run = write_run(tmp_path / "demo")
    for path in run.iterdir():
        if path.name != "config.yaml":
            path.unlink()
    assert "It has logged no step yet." in report_of(run).text


def test_an_unfinished_run_says_how_far_it_came(tmp_path):
    assert "It stands at step 195 of 390 (50%), 5 epochs" in report_of(write_run(tmp_path / "demo", steps=195)).text


def test_a_recipe_of_another_version(tmp_path):
    run = write_run(tmp_path / "demo")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("recipe: demo", "recipe: tomorrow"))
    assert "This version has no recipe of that name to compare with." in report_of(run).text


def test_trouble_is_shown(tmp_path):
    """NaN as the sinks spell it, collapse once however often it was measured, and the half line of a crash."""
    run = write_run(tmp_path / "demo")
    collapsed = [f"features have collapsed (feature_std {value}): check `the predictor`" for value in ("0.01", "0.02")]
    records = [step_record(step, loss="nan" if step > 10 else 1.0, data_wait="inf") for step in (5, 10, 15, 20)]
    records += [
        health_record(step, feature_std="nan", warnings=[w]) for step, w in zip((5, 10), collapsed, strict=True)
    ]
    write_metrics(run, records, tail='{"step": 25, "lo')
    page = report_of(run)
    assert "step 15: the loss was nan" in page.text
    assert "step 20: the loss" not in page.text
    assert page.text.count("features have collapsed") == 1
    assert "check <code>the predictor</code>" in (run / "report.html").read_text()
    assert "`" not in page.text
    assert "1 line of metrics.jsonl could not be read" in page.text


def test_text_of_users_is_escaped(tmp_path):
    run = write_run(tmp_path / "a<b>&c")
    (run / "command.txt").write_text("relic pretrain demo --name '<script>alert(1)</script>'")
    page = report_of(run)
    assert "<script>alert(1)</script>" in page.text
    assert ("script", {}) not in page.elements
    assert "a<b>&c" in page.text


def test_several_runs_side_by_side(tmp_path):
    first = write_run(tmp_path / "one" / "demo")
    second = write_run(tmp_path / "two" / "demo", seed=3, views=replace(VIEWS, background=BackgroundConfig(chance=0.4)))
    third = write_run(tmp_path / "plain")
    (third / "evaluation.json").unlink()
    page = report_of(first, second, third, out=tmp_path / "all.html")
    assert "one/demo, two/demo, plain" in page.text
    assert "field one/demo two/demo plain seed 0 3 0 views.background.chance 0.1 0.4 0.1" in page.text
    assert "linear 51.2 51.2 –" in page.text
    classes = {attributes.get("class") for tag, attributes in page.elements if tag == "path"}
    assert {"line c0", "line c1", "line c2"} <= classes
    assert (report_of(first, third)).text
    assert (tmp_path / "one" / "report.html").is_file()


def test_a_long_run_stays_a_small_file(tmp_path):
    run = write_run(tmp_path / "demo")
    write_metrics(run, [step_record(step) for step in range(1, 8001)])
    report_of(run)
    assert (run / "report.html").stat().st_size < 200_000


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("nowhere", None, "nowhere: no such directory"),
        ("empty", None, "empty: is no run directory (it has no config.yaml)"),
        ("demo", ("evaluation.json", "{"), "evaluation.json is not JSON"),
        ("demo", ("environment.json", "[]"), "environment.json holds list, not an object"),
        ("demo --out no/such/report.html", None, "no/such: no such folder for --out"),
    ],
)
def test_a_mistake_is_one_line(name, damage, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    run = write_run(tmp_path / "demo")
    if damage:
        (run / damage[0]).write_text(damage[1])
    assert main(["report", *name.split()]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.rglob("*report.html*"))


def test_naming_no_run_is_an_error(capsys):
    assert main(["report"]) == 1
    assert "no run was named" in capsys.readouterr().err


def test_a_run_is_readable_without_torch(tmp_path):
    run = write_run(tmp_path / "demo")
    code = (
        "import sys; from relic.cli import main\n"
        f"status = main(['report', {str(run)!r}])\n"
        "sys.exit('imported torch' if 'torch' in sys.modules else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_run(run).total_steps == 390


@pytest.mark.parametrize(
    ("waits", "said"),
    [
        ([0.5] * 4, "Bound by the loader: 50% of the time the step waited for views."),
        ([0.5] * 4, "With views always ready it would have made about 600 images/s instead of 300."),
        ([0.1] * 4, "Bound by computation, the loader close behind: 10% of the time the step waited for views;"),
        ([0.1] * 4, "a faster loader would raise 300 images/s to at most 333."),
        (
            [0.001] * 4,
            "Bound by computation: only 0.1% of the time the step waited for views, so a faster loader would",
        ),
        ([0.9] + [0.0] * 19, "Bound by computation: only 0.0% "),  # the first interval fills the queue
        ([0.0] * 21 + [0.8] * 2 + [0.0] * 18, "Around steps 110 to 125, though, it waited 40% of the time."),
    ],
)
def test_what_bounded_the_run(waits, said):
    records = [step_record(5 * number, data_wait=wait) for number, wait in enumerate(waits, 1)]
    assert said in bottleneck_sentence(records)


def test_uneven_throughput_counts_time_not_intervals():
    """Slow intervals are few but long: 2 of 30 intervals are a third of the time."""
    slow = {"images_per_second": 100.0, "seconds": 35.0}
    records = [step_record(number, **(slow if number > 28 else {})) for number in range(1, 31)]
    said = bottleneck_sentence(records)
    assert "It was uneven: a tenth of the time it made less than 100 images/s, half of it over 300." in said
    records = [step_record(number, images_per_second=300.0 + 10 * (number % 10)) for number in range(1, 31)]
    assert "Bound by computation" in bottleneck_sentence(records)
    assert bottleneck_sentence(records).endswith(" In four fifths of the time it made 300 to 390 images/s.")
    assert "steady" not in bottleneck_sentence(records)
