"""Procedural textures: the noise, colours, cells and strokes that the synthetic images are painted with."""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np

SUBPIXEL_BITS = 4  # cv2 draws polygons at 1/16 pixel with this shift


def noise(
    rng: np.random.Generator, height: int, width: int, cell: float, *, octaves: int = 3, stretch: float = 1.0
) -> np.ndarray:
    """Make fractal value noise.

    Args:
        cell: size in pixels of the coarsest lump, vertically.
        octaves: each next one has half the cell and half the amplitude.
        stretch: how many times longer than high a lump is.

    Returns:
        float32 [height, width] that spans [0, 1].
    """
    total = np.zeros((height, width), np.float32)
    amplitude = 1.0
    for _ in range(octaves):
        rows = max(2, round(height / cell) + 1)
        columns = max(2, round(width / (cell * stretch)) + 1)
        lumps = rng.random((rows, columns), dtype=np.float32)
        total += amplitude * cv2.resize(lumps, (width, height), interpolation=cv2.INTER_CUBIC)
        cell, amplitude = max(cell / 2, 1.0), amplitude / 2
    return stretched(total)


def stretched(values: np.ndarray) -> np.ndarray:
    """Scale an array linearly to [0, 1] (a constant one to 0)."""
    low, high = float(values.min()), float(values.max())
    return (values - low) * (1.0 / max(high - low, 1e-6))


def smoothstep(low: float, high: float, values: np.ndarray) -> np.ndarray:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((values - low) * (1.0 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Convert one HSV colour, each component in [0, 1] (the hue wraps), to float32 RGB."""
    return np.array(
        colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)), np.float32
    )


def mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Blend two colours (or pictures [H, W, 3]) by a weight [H, W]: 0 gives the first."""
    return first + (second - first) * weight[..., None]


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel coordinates (y [H, 1], x [1, W]) in units of the longer side, float32."""
    scale = 1.0 / max(height, width)
    return (
        np.arange(height, dtype=np.float32)[:, None] * np.float32(scale),
        np.arange(width, dtype=np.float32)[None, :] * np.float32(scale),
    )


def cells(rng: np.random.Generator, height: int, width: int, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Split a picture into irregular cells (Voronoi regions of a jittered grid).

    Returns:
        labels int32 [H, W], counted from 0, and height float32 [H, W]: 1 amid a cell, 0 at its edge.
    """
    rows, columns = max(2, round(height / cell)), max(2, round(width / cell))
    jitter = rng.random((2, rows, columns))
    y = ((np.arange(rows)[:, None] + jitter[0]) * (height / rows)).astype(np.intp)
    x = ((np.arange(columns)[None, :] + jitter[1]) * (width / columns)).astype(np.intp)
    away = np.full((height, width), 255, np.uint8)
    away[np.minimum(y, height - 1), np.minimum(x, width - 1)] = 0
    _, labels = cv2.distanceTransformWithLabels(away, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    edge = np.full((height, width), 255, np.uint8)
    edge[:, 1:][labels[:, 1:] != labels[:, :-1]] = 0
    edge[1:][labels[1:] != labels[:-1]] = 0
    inner = cv2.distanceTransform(edge, cv2.DIST_L2, 3)
    return labels - 1, np.sqrt(np.minimum(inner * (2.0 / cell), 1.0))


def polygon(canvas: np.ndarray, points: np.ndarray, colour: tuple[float, ...] | int) -> None:
    """Fill a polygon with float pixel corners [n, 2] (x, y), antialiased, in a uint8 canvas."""
    fixed = np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], colour, cv2.LINE_AA, SUBPIXEL_BITS)


def strokes(
    canvas: np.ndarray, starts: np.ndarray, ends: np.ndarray, colours: np.ndarray, thickness: np.ndarray
) -> None:
    """Draw antialiased lines in order: ends float [n, 2] (x, y), uint8 colours [n, 3], pixels thick [n]."""
    scale = 1 << SUBPIXEL_BITS
    lines = np.round(np.concatenate([starts, ends], axis=1) * scale).astype(int).tolist()
    for (x0, y0, x1, y1), colour, width in zip(lines, colours.tolist(), thickness.tolist(), strict=True):
        cv2.line(canvas, (x0, y0), (x1, y1), colour, int(width), cv2.LINE_AA, SUBPIXEL_BITS)


def tilted(
    rng: np.random.Generator, texture: np.ndarray, height: int, width: int, *, tilt: float, turn: float
) -> np.ndarray:
    """Look at a flat texture as at a floor.

    Args:
        texture: float32 [S, S, 3] with S above both sides.
        tilt: 0 seen from above … 0.8 far away at the upper edge.
        turn: at most this many radians of rotation.

    Returns:
        float32 [height, width, 3].
    """
    side = texture.shape[0]
    angle = rng.uniform(-turn, turn)
    far, near = 0.48, 0.48 * (1.0 - tilt)
    aspect = height / max(height, width)
    corners = np.array([[-far, -aspect / 2], [far, -aspect / 2], [near, aspect / 2], [-near, aspect / 2]])
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    source = (corners @ rotation.T + 0.5) * side
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    transform = cv2.getPerspectiveTransform(target.astype(np.float32), source.astype(np.float32))
    return cv2.warpPerspective(
        texture,
        transform,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
