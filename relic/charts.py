"""Line charts as inline SVG: no script, colours from the page's style sheet, readable at phone width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

MOST_POINTS = 240  # per line; more would only fatten the file, since a chart is about that many pixels wide
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 22


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    """Values that are not finite leave a gap."""
    color: int = 0
    """Which of the style sheet's colours: class `c0`, `c1`, ..."""


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    width: int = 340,
    height: int = 180,
    bottom: float | None = None,
    top: float | None = None,
    percent: bool = False,
    filled: bool = False,
) -> str:
    """Draw lines over a common x axis.

    Lines of more than `MOST_POINTS` points are averaged; a pale band then shows the smallest and largest value.

    Args:
        series: the lines; empty ones are left out.
        title: what a screen reader says.
        x_label: name of the x axis.
        width, height: of the view box; the page scales it.
        bottom, top: ends of the y axis; None takes those of the data.
        percent: whether y is a share, written in percent.
        filled: whether the area under a line is tinted.

    Returns:
        An <svg> element; an empty string where there is nothing finite to draw.
    """
    lines = [(line, _thin(line)) for line in series]
    lines = [(line, points) for line, points in lines if len(points)]
    if not lines:
        return ""
    everything = np.concatenate([points for _, points in lines])
    x_low, x_high = float(everything[:, 0].min()), float(everything[:, 0].max())
    if 0 <= x_low < 0.1 * x_high:
        x_low = 0.0
    y_ticks = _ticks(
        float(everything[:, 2].min()) if bottom is None else bottom,
        float(everything[:, 3].max()) if top is None else top,
        4,
    )
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: np.ndarray | float, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        across = (np.asarray(x) - x_low) / ((x_high - x_low) or 1)
        up = (np.clip(y, y_low, y_high) - y_low) / (y_high - y_low)
        return _LEFT + across * (width - _LEFT - _RIGHT), height - _BOTTOM - up * (height - _TOP - _BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(_spoken(title, lines))}">'
    ]
    for tick in y_ticks:
        _, y = place(x_low, tick)
        scale, unit = (100, "%") if percent else (1, "")
        label = _tick_text(scale * tick, scale * (y_ticks[1] - y_low)) + unit
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{width - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>')
    parts += _x_axis(x_low, x_high, x_label, width, height, place)
    for line, points in lines:
        parts += _line(line, points, place, baseline=y_low if filled else None)
    return "".join(parts) + "</svg>"


def _line(line: Series, points: np.ndarray, place, *, baseline: float | None) -> list[str]:
    parts = []
    xs, ys = place(points[:, 0], points[:, 1])
    if (points[:, 3] > points[:, 2]).any():
        _, low = place(points[:, 0], points[:, 2])
        _, high = place(points[:, 0], points[:, 3])
        band = _path(np.r_[xs, xs[::-1]], np.r_[high, low[::-1]])
        parts.append(f'<path class="band c{line.color}" d="{band}Z"/>')
    if baseline is not None:
        _, floor = place(points[:, 0], np.full(len(points), baseline))
        parts.append(f'<path class="area c{line.color}" d="{_path(np.r_[xs, xs[::-1]], np.r_[ys, floor])}Z"/>')
    parts.append(f'<path class="line c{line.color}" d="{_path(xs, ys)}"/>')
    if len(points) <= 30:
        parts += [
            f'<circle class="dot c{line.color}" cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in zip(xs, ys, strict=True)
        ]
    return parts


def _x_axis(low: float, high: float, label: str, width: int, height: int, place) -> list[str]:
    step = _step(high - low, max(width // 65, 2))
    inside = (
        [tick for tick in np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step] if high > low else [low]
    )
    parts = []
    for tick in inside:
        x, _ = place(tick, 0)
        if x < width - 52:  # the axis' name stands at the right end
            anchor = "start" if x < _LEFT + 8 else "middle"
            parts.append(f'<text x="{x:.1f}" y="{height - 6}" text-anchor="{anchor}">{_tick_text(tick, step)}</text>')
    parts.append(f'<text class="axis" x="{width - _RIGHT}" y="{height - 6}" text-anchor="end">{escape(label)}</text>')
    return parts


def _thin(line: Series) -> np.ndarray:
    """Return float64 [points, 4]: x, mean, smallest and largest y of at most `MOST_POINTS` buckets."""
    points = np.array([line.x, line.y], np.float64).T.reshape(-1, 2)
    points = points[np.isfinite(points).all(1)]
    if len(points) <= MOST_POINTS:
        return np.c_[points, points[:, 1:], points[:, 1:]]
    buckets = np.array_split(points, MOST_POINTS)
    return np.array([[b[-1, 0], b[:, 1].mean(), b[:, 1].min(), b[:, 1].max()] for b in buckets])


def _ticks(low: float, high: float, count: int) -> np.ndarray:
    """Return round values that span low to high."""
    if high <= low:
        pad = abs(low) * 0.05 or 1.0
        low, high = low - pad, high + pad
    step = _step(high - low, count)
    return np.arange(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1) * step


def _step(span: float, count: int) -> float:
    """Return 1, 2 or 5 times a power of ten, so that about `count` steps cover the span."""
    if span <= 0:
        return 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999) * power


def _tick_text(value: float, step: float) -> str:
    """Write a tick with no more digits than its step needs: 0.9975, 1.5k, 2e-5."""
    if abs(value) < step * 1e-6:
        return "0"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if step >= size / 2:
            return f"{value / size:,.6g}{letter}"
    digits = max(math.ceil(-math.log10(step) - 1e-9), 0)
    text = f"{value:,.{digits}f}" if digits <= 4 else f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return text.replace("-", "−")


def _path(xs: np.ndarray, ys: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def _spoken(title: str, lines: list[tuple[Series, np.ndarray]]) -> str:
    ends = "; ".join(f"{line.name} from {points[0, 1]:.4g} to {points[-1, 1]:.4g}" for line, points in lines)
    return f"{title}: {ends}"
