"""Inline charts: the line lies where the numbers are, ticks are round, long series keep their extremes."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from relic.charts import MOST_POINTS, Series, _tick_text, line_chart


def points_of(svg: str, kind: str = "line") -> np.ndarray:
    path = re.search(rf'class="{kind} c\d+" d="M([^"Z]+)', svg)
    assert path is not None
    return np.array([[float(value) for value in point.split()] for point in path[1].split("L")])


def grid_of(svg: str) -> list[tuple[str, float]]:
    """Return label and height of the horizontal rules."""
    rules = re.findall(r'<path class="grid" d="M[\d.]+ ([\d.]+)H[\d.]+"/><text[^>]*>([^<]+)</text>', svg)
    return [(label, float(height)) for height, label in rules]


def test_points_lie_between_their_ticks():
    svg = line_chart([Series(name="a", x=[0, 50, 100], y=[0.0, 2.0, 1.0])], title="t", x_label="step")
    heights = dict(grid_of(svg))
    assert list(heights) == ["0", "0.5", "1.0", "1.5", "2.0"]
    assert 0 < heights["2.0"] < heights["0"] < 180 - 12  # the names of the x axis lie below
    points = points_of(svg)
    np.testing.assert_allclose(points[:, 1], [heights["0"], heights["2.0"], heights["1.0"]], atol=0.11)
    np.testing.assert_allclose(points[1, 0], points[[0, 2], 0].mean(), atol=0.11)
    assert re.findall(r'text-anchor="(?:start|middle)">([^<]+)', svg) == ["0", "20", "40", "60", "80"]


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        ([0.99, 0.9999], ["0.990", "0.995", "1.000"]),
        ([0, 23_400], ["0", "10k", "20k", "30k"]),
        ([0, 6_100_000], ["0", "2M", "4M", "6M", "8M"]),
        ([1000, 1900], ["1k", "1.5k", "2k"]),
        ([0, 8e-6], ["0", "2e−6", "4e−6", "6e−6", "8e−6"]),
        ([-3.5, -1.2], ["−4", "−3", "−2", "−1"]),
        ([5.0, 5.0], ["4.6", "4.8", "5.0", "5.2", "5.4"]),
    ],
)
def test_ticks_are_round_and_span_the_data(y, labels):
    assert [
        label for label, _ in grid_of(line_chart([Series(name="a", x=[1, 2], y=y)], title="t", x_label="x"))
    ] == labels


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [(1500, 500, "1.5k"), (15e-6, 5e-6, "1.5e−5"), (-0.25, 0.05, "−0.25"), (1e-17, 0.1, "0"), (12_000, 200, "12,000")],
)
def test_tick_text(value, step, text):
    assert _tick_text(value, step) == text


def test_shares_are_written_in_percent():
    svg = line_chart([Series(name="a", x=[1, 2], y=[0.1, 0.2])], title="t", x_label="h", bottom=0, top=1, percent=True)
    assert [label for label, _ in grid_of(svg)] == ["0%", "50%", "100%"]


def test_a_long_series_is_averaged_and_keeps_its_extremes_as_a_band():
    values = np.tile([0.0, 1.0], 5000)
    svg = line_chart([Series(name="a", x=list(range(10_000)), y=values.tolist())], title="t", x_label="step")
    heights = dict(grid_of(svg))
    line, band = points_of(svg), points_of(svg, "band")
    assert len(line) == MOST_POINTS
    assert np.ptp(line[:, 1]) < 5
    assert {band[:, 1].min(), band[:, 1].max()} == {heights["1.0"], heights["0"]}


def test_values_that_are_not_finite_are_left_out():
    svg = line_chart([Series(name="a", x=[1, 2, 3], y=[1.0, math.nan, 2.0])], title="t", x_label="x")
    assert len(points_of(svg)) == 2
    assert "nan" not in svg
    assert line_chart([Series(name="a", x=[1], y=[math.inf])], title="t", x_label="x") == ""
    assert line_chart([], title="t", x_label="x") == ""


def test_names_are_escaped_and_read_aloud():
    svg = line_chart([Series(name='<"a">', x=[1, 2], y=[3, 4])], title="loss & more", x_label="step")
    assert 'aria-label="loss &amp; more: &lt;&quot;a&quot;&gt; from 3 to 4"' in svg
