"""The colour operations of the numba twin (source/color.h): int16 columns, grey levels times 2^4."""

from __future__ import annotations

import math

import numba
import numpy as np

from pipelines.views import BRIGHTNESS, CONTRAST, HUE, SATURATION

jit = numba.njit(nogil=True, cache=True, error_model="numpy")
inline = numba.njit(nogil=True, cache=True, inline="always", error_model="numpy")
FULL = 255 << 4


@inline
def multiply(a, b):  # pragma: no cover - compiled
    return np.int32(np.int32(np.int32(a) * np.int32(b) + np.int32(1 << 14)) >> 15)


@inline
def limit(a, low, high):  # pragma: no cover - compiled
    return np.int32(min(max(a, low), high))


@inline
def _scale_of(factor):  # pragma: no cover - compiled
    size = abs(factor)
    shift = 1 if size < 2 else 2 if size < 4 else 3
    return limit(np.int32(np.rint(factor * (1 << (15 - shift)))), -32767, 32767), shift


@inline
def _scaled(a, scale):  # pragma: no cover - compiled
    return multiply(np.int32(np.int16(np.int32(a) << scale[1])), scale[0])


@inline
def _luma(r, g, b):  # pragma: no cover - compiled
    return (multiply(r << 3, 9794) + multiply(g << 3, 19235) + multiply(b << 3, 3736) + 4) >> 3


@jit
def apply_colors(plane, row, order, official, size):  # pragma: no cover - compiled
    neutral = 0.0 if official else 1.0
    for i in range(4):
        operation = order[i]
        if operation == BRIGHTNESS and row.brightness != neutral:
            _brighten(plane, row.brightness, official)
        elif operation == CONTRAST and row.contrast != 1:
            _contrast(plane, row.contrast, official, size)
        elif operation == SATURATION and row.saturation != 1:
            _saturate(plane, row.saturation, official, size)
        elif operation == HUE and row.hue != 0:
            _rotate(plane, row.hue, size)
    if row.gray:
        for x in range(size):
            for y in range(size):
                r, g, b = np.int32(plane[3 * x, y]), np.int32(plane[3 * x + 1, y]), np.int32(plane[3 * x + 2, y])
                plane[3 * x, y] = plane[3 * x + 1, y] = plane[3 * x + 2, y] = _luma(r, g, b)


@jit
def _brighten(plane, brightness, official):  # pragma: no cover - compiled
    added, scale = np.int32(np.rint(np.float64(brightness) * FULL)), _scale_of(np.float64(brightness))
    for k in range(plane.shape[0]):
        for y in range(plane.shape[1]):
            v = np.int32(plane[k, y])
            plane[k, y] = limit(v + added if official else _scaled(v, scale), 0, FULL)


@jit
def _contrast(plane, contrast, official, size):  # pragma: no cover - compiled
    means = np.zeros(3, np.float64)
    for c in range(3):
        total = np.int64(0)
        for x in range(size):
            for y in range(size):
                total += plane[3 * x + c, y]
        means[c] = total / (size * size)
    if not official:
        means[:] = 0.2989 * means[0] + 0.5870 * means[1] + 0.1140 * means[2]
    scale = _scale_of(np.float64(contrast))
    for c in range(3):
        offset = np.int32(np.rint((1 - np.float64(contrast)) * means[c]))
        for x in range(size):
            for y in range(size):
                plane[3 * x + c, y] = limit(_scaled(plane[3 * x + c, y], scale) + offset, 0, FULL)


@inline
def _value_and_chroma(r, g, b):  # pragma: no cover - compiled
    value = max(np.int32(r), np.int32(g), np.int32(b))
    return value, value - min(np.int32(r), np.int32(g), np.int32(b))


@jit
def _saturate(plane, saturation, official, size):  # pragma: no cover - compiled
    scale = _scale_of(max(np.float64(saturation), 0.0) if official else np.float64(saturation))
    for x in range(size):
        red, green, blue = plane[3 * x], plane[3 * x + 1], plane[3 * x + 2]
        if not official:
            for y in range(size):
                gray = _luma(np.int32(red[y]), np.int32(green[y]), np.int32(blue[y]))
                red[y] = limit(_scaled(red[y] - gray, scale) + gray, 0, FULL)
                green[y] = limit(_scaled(green[y] - gray, scale) + gray, 0, FULL)
                blue[y] = limit(_scaled(blue[y] - gray, scale) + gray, 0, FULL)
            continue
        exceeds = False
        if saturation > 1:
            for y in range(size):
                value, chroma = _value_and_chroma(red[y], green[y], blue[y])
                exceeds |= _scaled(chroma, scale) > value
        for y in range(size):
            value, chroma = _value_and_chroma(red[y], green[y], blue[y])
            if exceeds and _scaled(chroma, scale) > value:
                for channel in (red, green, blue):
                    product = np.float32((value - channel[y]) * value)
                    channel[y] = limit(value - np.int32(np.rint(product / np.float32(max(chroma, 1)))), 0, FULL)
            else:
                red[y] = limit(value - _scaled(value - red[y], scale), 0, FULL)
                green[y] = limit(value - _scaled(value - green[y], scale), 0, FULL)
                blue[y] = limit(value - _scaled(value - blue[y], scale), 0, FULL)


@inline
def _hue_channel(value, chroma, position, turns):  # pragma: no cover - compiled
    distance = abs(position + multiply(4 * chroma, turns))
    distance = min(distance, 6 * chroma - distance)
    return value - limit(2 * chroma - distance, 0, chroma)


@jit
def _rotate(plane, hue, size):  # pragma: no cover - compiled
    turns = np.empty(3, np.int32)
    for c in range(3):
        sixths = 3 - 2 * c + 6 * np.float64(hue)
        sixths -= 6 * math.floor((sixths + 3) / 6)
        turns[c] = np.int32(np.rint(sixths * 8192))
    for x in range(size):
        red, green, blue = plane[3 * x], plane[3 * x + 1], plane[3 * x + 2]
        for y in range(size):
            r, g, b = np.int32(red[y]), np.int32(green[y]), np.int32(blue[y])
            value, chroma = _value_and_chroma(r, g, b)
            position = r - g - 2 * chroma
            position = b - r + 2 * chroma if value == g else position
            position = g - b if value == r else position
            red[y] = _hue_channel(value, chroma, position, turns[0])
            green[y] = _hue_channel(value, chroma, position, turns[1])
            blue[y] = _hue_channel(value, chroma, position, turns[2])
