"""The engine without a C++ compiler: the same fixed-point arithmetic in numba, so the same bytes, several times slower.

It follows pipelines/engine/source step by step (taps.h, resample.h, color.h, blur.h, render.h), where the formulas are
derived. Pixels stand as there: plane[3 x + channel, y]. int16 grey levels times 2^6 while resizing and blurring, times
2^4 in colour.
"""

from __future__ import annotations

import math

import numpy as np

from pipelines.config import ViewsConfig
from pipelines.engine.numba_color import apply_colors, inline, jit, limit, multiply
from pipelines.engine.settings import ITEMS, SETTINGS, settings_of
from pipelines.views import JITTER_ORDERS, KEEP, ROW, SWAP

DOWN_ONE, ACROSS_ONE = 18725, 7 << 12  # taps.h
_BLOCK = 32  # lines that are transposed together, for the cache's sake


def render(
    image: np.ndarray,
    rows: np.ndarray,
    outputs: list[np.ndarray],
    settings: np.ndarray,
    mask: np.ndarray | None,
    plates: np.ndarray | None,
    slot: int = 0,
) -> None:
    """Render all views of an image; arguments as `pipelines.engine.render`."""
    check(image, rows, outputs, settings, mask, plates, slot)
    no_mask, no_plate = np.zeros((0, 0), np.uint8), np.zeros((0, 0, 3), np.uint8)
    levels = no_mask if mask is None else mask.astype(np.uint8) * np.uint8(128)
    chosen = settings[0]
    image = image if image.flags.writeable else image.copy()  # numba compiles anew for read-only arrays
    for view, batch in enumerate(outputs):
        output = batch[slot] if batch.ndim == 4 else batch
        row, plate = rows[view], no_plate
        if plates is not None and row["background"] == SWAP:
            plate = plates[int(row["plate"]) % len(plates)].copy()
        pixels = np.empty(output.shape, np.uint8)
        _render_view(image, rows, view, settings, levels, plate, pixels)
        if chosen["output"] == 0:
            output[...] = pixels
            continue
        values = pixels.astype(np.float32) * chosen["scale"] + chosen["shift"]
        if chosen["output"] == 2:
            output[...] = values
        else:  # round to nearest, ties to even
            bits = values.view(np.uint32)
            output[...] = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)


def check(
    image: np.ndarray,
    rows: np.ndarray,
    outputs: list[np.ndarray],
    settings: np.ndarray,
    mask: np.ndarray | None,
    plates: np.ndarray | None,
    slot: int,
) -> None:
    """Refuse what compiled code would read or write beyond; raises ValueError, in the words of module.cpp."""
    for array, what, dimensions in ((image, "the image", 3), (mask, "the mask", 2)):
        if array is None:
            continue
        shaped = array.ndim == dimensions and (dimensions == 2 or array.shape[2] == 3) and array.size > 0
        if not shaped or array.dtype not in ((np.uint8,) if dimensions == 3 else (np.uint8, np.bool_)):
            raise ValueError(f"{what} must be uint8 [height, width{', 3' if dimensions == 3 else ''}], not empty")
    if plates is not None and (plates.ndim != 4 or plates.dtype != np.uint8 or plates.shape[3] != 3 or not plates.size):
        raise ValueError("plates must be uint8 [P, height, width, 3], not empty")
    if settings.dtype != SETTINGS or settings.shape != (1,):
        raise ValueError("settings are not SETTINGS")
    if rows.dtype != ROW or rows.shape != (len(outputs),):
        raise ValueError(f"rows must be ROW, one for each of the {len(outputs)} outputs")
    item = np.dtype(list(ITEMS.values())[settings[0]["output"]])
    for number, (row, output) in enumerate(zip(rows, outputs, strict=True)):
        shape = output.shape[-3:]
        if output.ndim not in (3, 4) or shape[0] != shape[1] or shape[2] != 3 or output.dtype != item or not shape[0]:
            raise ValueError(f"output {number} must be [size, size, 3] or [N, size, size, 3] of {item}")
        if not 0 <= slot < (len(output) if output.ndim == 4 else 1):
            raise ValueError(f"output {number} has no slot {slot}")
        bottom, right = int(row["top"]) + int(row["height"]), int(row["left"]) + int(row["width"])
        inside = bottom <= image.shape[0] and right <= image.shape[1]
        if min(row["top"], row["left"]) < 0 or min(row["height"], row["width"]) < 1 or not inside:
            raise ValueError(f"row {number}: its box leaves the image of {image.shape[0]} x {image.shape[1]}")
        if row["order"] >= len(JITTER_ORDERS):
            raise ValueError(f"row {number}: its order {row['order']} is not one of {len(JITTER_ORDERS)}")


def compile_all() -> None:
    """Compile everything, or load it from numba's cache."""
    row, view = np.zeros(1, ROW), np.zeros((1, 1, 3), np.uint8)
    row["height"] = row["width"] = 1
    render(np.zeros((1, 1, 3), np.uint8), row, [view], settings_of(ViewsConfig()), None, None)


@jit
def _filter(x, bilinear):  # pragma: no cover - compiled
    one, two, zero = np.float32(1), np.float32(2), np.float32(0)
    if bilinear:
        return one - x if x < one else zero
    if x < one:
        return (np.float32(1.5) * x - np.float32(2.5)) * x * x + one
    if x < two:
        return ((np.float32(2.5) - np.float32(0.5) * x) * x - np.float32(4)) * x + two
    return zero


@jit
def _resize_taps(length, block, size, bilinear, one):  # pragma: no cover - compiled
    available = (length + block - 1) // block
    scale = length / block / size
    stretch = max(scale, 1.0)
    support = (1 if bilinear else 2) * stretch
    inverse = np.float32(1.0 / stretch)
    first, weights = np.empty(size, np.int32), np.zeros((size, int(2 * support) + 2), np.int32)
    exact = np.empty(weights.shape[1], np.float32)
    for i in range(size):
        center = scale * (i + 0.5)
        start = max(int(center - support + 0.5), 0)
        count = min(int(center + support + 0.5), available) - start
        offset = np.float32(start - center + 0.5)
        total = np.float32(0)
        for t in range(count):
            exact[t] = _filter(abs(np.float32(offset + np.float32(t)) * inverse), bilinear)
            total += exact[t]
        factor, rest = np.float32(one) / total, one
        for t in range(count):
            weights[i, t] = np.int32(np.rint(exact[t] * factor))
            rest -= weights[i, t]
        weights[i, min(int(center) - start, count - 1)] += rest
        first[i] = start
    return first, weights


@jit
def _block_of(length, size):  # pragma: no cover - compiled
    return max(length // (128 * size), 1)


@jit
def _reduce(image, row, down, across):  # pragma: no cover - compiled
    """Return the window's rounded means of blocks, uint8 [height, width * 3] (reduce.h)."""
    height, width = (row.height + down - 1) // down, (row.width + across - 1) // across
    out = np.empty((height, width * 3), np.uint8)
    for y in range(height):
        for x in range(width):
            rows, columns = min(down, row.height - y * down), min(across, row.width - x * across)
            for c in range(3):
                total = np.int64(0)
                for i in range(rows):
                    for j in range(columns):
                        total += image[row.top + y * down + i, row.left + x * across + j, c]
                out[y, 3 * x + c] = (total + rows * columns // 2) // (rows * columns)
    return out


@jit
def _sample_taps(start, step, grid, size, one):  # pragma: no cover - compiled
    first, weights = np.empty(size, np.int32), np.empty((size, 2), np.int32)
    for i in range(size):
        position = min(max(start + step * i, 0.0), float(grid - 1))
        first[i] = int(position)
        weights[i, 1] = np.int32(np.rint(np.float32(position - first[i]) * np.float32(one)))
        weights[i, 0] = one - weights[i, 1]
    return first, weights


@jit
def _resample(rows, top, left, width, channels, down, across, size):  # pragma: no cover - compiled
    """Resize uint8 [height, width * channels]; int16 [size * channels, size] in columns, grey levels times 2^6."""
    down_first, down_weights = down
    across_first, across_weights = across
    samples, last = width * channels, rows.shape[0] - 1
    sums, block = np.empty(samples, np.int32), np.empty((_BLOCK, samples), np.int16)
    stripe = np.empty((samples, size), np.int16)
    for start in range(0, size, _BLOCK):
        lines = min(_BLOCK, size - start)
        for y in range(lines):
            sums[:] = 1 << 7
            for t in range(down_weights.shape[1]):
                weight = np.int32(down_weights[start + y, t])
                if weight != 0:
                    row = rows[min(top + down_first[start + y] + t, last), left * channels : left * channels + samples]
                    for i in range(samples):
                        sums[i] += weight * row[i]
            for i in range(samples):
                block[y, i] = sums[i] >> 8
        for i in range(samples):
            for y in range(lines):
                stripe[i, start + y] = block[y, i]
    plane = np.empty((size * channels, size), np.int16)
    column = np.empty(size, np.int32)
    for x in range(size):
        for c in range(channels):
            column[:] = 0
            for t in range(across_weights.shape[1]):
                weight = across_weights[x, t]
                if weight != 0:
                    source = stripe[min((across_first[x] + t) * channels + c, samples - 1)]
                    for y in range(size):
                        column[y] += multiply(source[y], weight)
            plane[x * channels + c] = column
    return plane


@jit
def _render_view(image, rows, number, settings, mask, plate, output):  # pragma: no cover - compiled
    row, size = rows[number], output.shape[0]
    bilinear, official = settings[0].interpolation == 1, settings[0].jitter == 0
    lines = image.reshape(image.shape[0], image.shape[1] * 3)
    block_y, block_x = _block_of(row.height, size), _block_of(row.width, size)
    down = _resize_taps(row.height, block_y, size, bilinear, DOWN_ONE)
    across = _resize_taps(row.width, block_x, size, bilinear, ACROSS_ONE)
    if block_y > 1 or block_x > 1:
        reduced = _reduce(image, row, block_y, block_x)
        plane = _resample(reduced, 0, 0, reduced.shape[1] // 3, 3, down, across, size)
    else:
        # The window's own rows end at its lower edge: padded taps must not read beyond it, though they weigh nothing.
        plane = _resample(lines[: row.top + row.height], row.top, row.left, row.width, 3, down, across, size)
    if row.flip:
        for x in range(size // 2):
            for c in range(3):
                for y in range(size):
                    a, b = plane[3 * x + c, y], plane[3 * (size - 1 - x) + c, y]
                    plane[3 * x + c, y], plane[3 * (size - 1 - x) + c, y] = b, a
    for k in range(3 * size):
        for y in range(size):
            plane[k, y] = limit((np.int32(plane[k, y]) + 32) >> 6, 0, 255) << 4
    if mask.size > 0 and row.background != KEEP:
        _blend(plane, row, image.shape[0], image.shape[1], mask, plate, settings[0].fill, size)
    blur_sigma, solarize = 0.0, False
    if settings[0].photometric:
        apply_colors(plane, row, settings[0].orders[row.order], official, size)
        blur_sigma, solarize = float(row.blur_sigma), bool(row.solarize)
    shift = _blur(plane, blur_sigma, size)
    view = output.reshape(size, 3 * size)
    for start in range(0, size, _BLOCK):
        for k in range(3 * size):
            for y in range(start, min(start + _BLOCK, size)):
                v = np.int32(plane[k, y])
                if solarize:
                    v = min(v, (255 << shift) - v)
                half = 7 + (v >> 4 & 1) if shift == 4 else 32
                view[y, k] = limit((v + half) >> shift, 0, 255)


@jit
def _blend(plane, row, height, width, mask, plate, fill, size):  # pragma: no cover - compiled
    down, across = mask.shape[0] / height, mask.shape[1] / width
    step_y, step_x = row.height * down / size, row.width * across / size
    cover = _resample(
        mask,
        0,
        0,
        mask.shape[1],
        1,
        _sample_taps(row.top * down + 0.5 * step_y - 0.5, step_y, mask.shape[0], size, DOWN_ONE),
        _sample_taps(row.left * across + 0.5 * step_x - 0.5, step_x, mask.shape[1], size, ACROSS_ONE),
        size,
    )
    swapped = plate.size > 0
    behind = plane
    if swapped:
        step_y, step_x = plate.shape[0] / size, plate.shape[1] / size
        behind = _resample(
            plate.reshape(plate.shape[0], plate.shape[1] * 3),
            0,
            0,
            plate.shape[1],
            3,
            _sample_taps(0.5 * step_y - 0.5, step_y, plate.shape[0], size, DOWN_ONE),
            _sample_taps(0.5 * step_x - 0.5, step_x, plate.shape[1], size, ACROSS_ONE),
            size,
        )
    for x in range(size):
        for y in range(size):
            share = limit(4 * np.int32(cover[size - 1 - x if row.flip else x, y]), 0, 32767)
            for c in range(3):
                back = (np.int32(behind[3 * x + c, y]) + 2) >> 2 if swapped else np.int32(fill[c]) << 4
                plane[3 * x + c, y] = back + multiply(plane[3 * x + c, y] - back, share)


@jit
def _kernel(sigma, size):  # pragma: no cover - compiled
    longest = size // 20 if sigma > 0 else 0
    taps = np.zeros(longest + 1, np.float64)
    total = 1.0
    for i in range(1, longest + 1):
        taps[i] = math.exp(-0.5 * (i / sigma) * (i / sigma))
        total += 2 * taps[i]
    reach, dropped, whole = longest, 0.0, total
    while reach > 0:
        dropped += 2 * taps[reach]
        if dropped > 0.003 * whole:
            break
        total = whole - dropped
        reach -= 1
    weights = np.zeros(reach + 1, np.int32)
    center = 1 << 15
    for i in range(1, reach + 1):
        weights[i] = np.int32(np.rint(taps[i] / total * (1 << 15)))
        center -= 2 * weights[i]
    weights[0] = center
    return weights


@inline
def _reflected(i, size):  # pragma: no cover - compiled
    return -i if i < 0 else 2 * (size - 1) - i if i >= size else i


@jit
def _blur(plane, sigma, size):  # pragma: no cover - compiled
    """Blur in place; return the number of fractional bits that the plane then has."""
    weights = _kernel(sigma, size)
    reach = len(weights) - 1
    if reach == 0:
        return 4
    across, column = np.empty_like(plane), np.empty(size + 2 * reach, np.int32)
    sums = np.empty(size, np.int32)
    for x in range(size):
        for c in range(3):
            for y in range(size):
                sums[y] = multiply(plane[3 * x + c, y] << 2, weights[0])
            for i in range(1, reach + 1):
                before, after = plane[3 * _reflected(x - i, size) + c], plane[3 * _reflected(x + i, size) + c]
                for y in range(size):
                    sums[y] += multiply((before[y] << 2) + (after[y] << 2), weights[i])
            across[3 * x + c] = sums
    for k in range(3 * size):
        for y in range(-reach, size + reach):
            column[y + reach] = across[k, _reflected(y, size)]
        center = column[reach : reach + size]
        for y in range(size):
            sums[y] = multiply(center[y], weights[0])
        for i in range(1, reach + 1):
            above, below = column[reach - i : reach - i + size], column[reach + i : reach + i + size]
            for y in range(size):
                sums[y] += multiply(above[y] + below[y], weights[i])
        plane[k] = sums
    return 6
