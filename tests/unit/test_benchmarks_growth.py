"""Growth: lines through points, and what is varied is what is rendered; the interpreter's lock is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from making import encoded

from benchmarks import gil, growth
from benchmarks.__main__ import main
from pipelines import engine


def test_a_line_is_the_least_squares_line():
    series = growth.Series(name="", unit="", expected="", x=[0, 1, 2, 3], milliseconds=[1, 3, 5, 7])
    assert series.line() == pytest.approx((2, 1, 1))
    series.milliseconds = [1, 3, 5, 3]
    slope, intercept, fit = series.line()
    assert (slope, intercept) == pytest.approx((0.8, 1.8))
    assert fit == pytest.approx(1 - 1.2 / 2)  # rests -0.8, 0.4, 1.6, -1.2: variance 1.2 of 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jpegs").mkdir()
    for number in range(2):
        (tmp_path / "jpegs" / f"{number}.jpg").write_bytes(encoded(60, 80, number))
    return tmp_path


def test_what_is_varied_is_what_is_rendered(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(growth, "IMAGE_SIDES", (30, 50))
    monkeypatch.setattr(growth, "VIEW_COUNTS", (1, 3))
    monkeypatch.setattr(growth, "VIEW_SIDES", (20, 40))
    monkeypatch.setattr(growth, "SIGMAS", (0.0, 1.5))
    calls: list[tuple] = []

    def render(name, picture, rows, outputs, settings):
        calls.append((picture.shape[0], len(outputs), outputs[0].shape[0], set(rows["blur_sigma"].tolist())))

    monkeypatch.setattr(engine, "render", render)
    out, records = folder / "growth.png", folder / "growth.json"
    arguments = ["--images", str(folder / "jpegs"), "--out", str(out), "--repeats", "1", "--json", str(records)]
    assert main(["growth", *arguments]) == 0
    assert out.stat().st_size > 10_000
    # Four series of two rounds, the first of which warms up: in each two points, each over two images.
    assert len(calls) == 32
    points = [calls[first : first + 2] for first in range(0, 32, 2)]
    assert [{call[0] for call in point} for point in points[:4]] == [{30}, {50}] * 2
    assert [{call[1] for call in point} for point in points[4:8]] == [{1}, {3}] * 2
    assert [{call[2] for call in point} for point in points[8:12]] == [{20}, {40}] * 2
    assert [set.union(*(call[3] for call in point)) for point in points[12:]] == [{0.0}, {np.float32(1.5)}] * 2
    written = json.loads(records.read_text())
    assert [record["benchmark"] for record in written] == [f"growth, {n}" for n in ("image", "views", "side", "blur")]
    assert written[3]["x"] == [0.0, 1.5]
    assert len(written[0]["milliseconds"]) == 2
    assert capsys.readouterr().err.count("R²") == 4


def test_the_lock_is_measured_on_a_whole_loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    monkeypatch.setattr(gil, "IMAGES", 64)
    monkeypatch.setattr(gil, "PASSES", 2)
    held = gil.microseconds_per_image()
    assert 5 < held < 50_000
    calls = []
    slow = engine.render

    def render(*arguments, **named):
        calls.append(arguments)
        slow(*arguments, **named)

    monkeypatch.setattr(engine, "render", render)
    assert main(["views", "--images", str(tmp_path), "--gil"]) == 0
    assert len(calls) == 64 * 3
    assert "µs per image: one process can serve up to" in capsys.readouterr().out
