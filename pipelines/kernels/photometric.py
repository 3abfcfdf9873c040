"""Background, jitter, grayscale, blur, solarize, normalise and cast on a GPU, for all views of one size.

Passes over a view of S × S pixels, with what they move to and from memory per pixel (three channels):

    means_kernel    reads 3 bytes            only views with contrast: the operations before it, then sums of the tile
    colour_kernel   reads 3, writes 3 k or 6 all pointwise work; k bytes per channel of the result, or 16-bit levels
                                             where a blur follows
    blur_kernel     reads 6, writes 6        only blurred views: along y
    blur_kernel     reads 6, writes 3 k      along x, then solarize, normalise and cast

Contrast works about the mean of what it is given, so a view with contrast is read twice; the sums of the tiles are
added up by every program of `colour_kernel` (98 numbers per channel at 224), in one order: the same bits at every run,
no atomics. The operations before contrast are computed twice, which is cheaper than to store their result.

Every kernel runs over all views of the batch, and a program whose view needs nothing of it ends at once: no shape
depends on data, the host waits for nothing, and a CUDA graph can hold it all. The blur sizes its taps by σ: with
reach r = min(R, ⌈3σ⌉) it reads 2r + 1 levels per result, neighbours of which lie in the caches.

Between the passes a level v of [0, 1] stands as the 16-bit integer 65535 v - 32768: an error of 1/510 grey level.
Arithmetic is float32. Hue and saturation take about 60 operations per pixel each, the rest about 80. An H100 does 20
float32 operations per byte: memory bounds all passes but the first, which has 27; an A100 does 10, and its units bound
both pointwise kernels. `python -m benchmarks
gpu-budget` prints it.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from pipelines.kernels import settings
from pipelines.kernels.optional import constexpr, jit, tl
from pipelines.kernels.pointwise import jitter, luma, packed, pixels_of, store_level
from pipelines.ops import blur
from pipelines.ops.normalize import scale_and_shift

TILE = 512
"""Pixels, or levels of the blur, per program: 4 per thread."""
CHUNK_BYTES = 1 << 24
"""Views are finished some at a time, so that what stands between the passes takes at most two times so many bytes and
stays in the second level cache: 55 views of 224 × 224."""

# Triton sees no module's names but those that say they are constants.
_OPERATION, _STRENGTH, _COLUMNS = (
    constexpr(settings.OPERATION),
    constexpr(settings.STRENGTH),
    constexpr(settings.COLUMNS),
)
_CONTRAST_PLACE, _NO_OPERATION = constexpr(settings.CONTRAST_PLACE), constexpr(settings.NO_OPERATION)
_GRAY, _SIGMA, _SOLARIZE = constexpr(settings.GRAY), constexpr(settings.SIGMA), constexpr(settings.SOLARIZE)


def finish(
    views: Tensor,
    lines: Tensor,
    masks: Tensor | None,
    plates: Tensor | None,
    *,
    relicv2: bool,
    fill: tuple[float, float, float],
    dtype: torch.dtype,
) -> Tensor:
    """Finish views that hold geometry alone, in four launches per `CHUNK_BYTES`.

    Args:
        views: uint8 [N, S, S, 3], contiguous.
        lines: float32 [N, COLUMNS], of `pipelines.kernels.settings.settings_of`.
        masks: uint8 [N, 2048], the masks' bits as their store packs them; None: every background is kept.
        plates: uint8 [P, h, w, 3]; None: backgrounds get the fill.
        relicv2: whether jitter is the official code's, or torchvision's.
        fill: red, green and blue in [0, 1].
        dtype: uint8 for grey levels; else bfloat16, float16 or float32, normalised.

    Returns:
        `dtype` [N, S, S, 3].
    """
    count, size = views.shape[:2]
    out = torch.empty(views.shape, dtype=dtype, device=views.device)
    if count == 0:
        return out
    pixels = size * size
    cut = tiles_of(size)
    tiles, level_tiles = cut["TILES"], -(-3 * pixels // TILE)
    chunk = min(max(CHUNK_BYTES // (6 * pixels), 1), count)
    sums = torch.empty((chunk, tiles, 3), dtype=torch.float32, device=views.device)
    wide, narrow = (torch.empty((chunk, size, size, 3), dtype=torch.int16, device=views.device) for _ in range(2))
    normal = torch.stack(scale_and_shift(views.device))
    kind = {"NORMALIZED": dtype.is_floating_point}
    operations = {"SIZE": size, "RELICV2": relicv2}
    behind = {"HAS_MASKS": masks is not None, "HAS_PLATES": plates is not None}
    # without masks or plates their pointers are not followed
    backgrounds = plates if plates is not None else views[:1]
    high, broad = backgrounds.shape[1:3]
    with torch.cuda.device(views.device) if views.is_cuda else nullcontext():
        for first in range(0, count, chunk):
            part = slice(first, first + chunk)
            given, drawn, written = views[part], lines[part], out[part]
            bits = masks[part] if masks is not None else given
            number, reach = len(given), blur.radius(size)
            places = (given, drawn, bits, backgrounds, high, broad, *fill)
            means_kernel[(tiles, number)](*places, sums, **operations, **behind, TILE=TILE)
            colour_kernel[(tiles, number)](*places, sums, normal, wide, written, **operations, **behind, **cut, **kind)
            if reach:
                along = {"SIZE": size, "REACH": reach, "TILE": TILE, **kind}
                blur_kernel[(level_tiles, number)](drawn, wide, narrow, normal, written, **along, VERTICAL=True)
                blur_kernel[(level_tiles, number)](drawn, narrow, narrow, normal, written, **along, VERTICAL=False)
    return out


def tiles_of(size: int) -> dict[str, int]:
    """Return how `colour_kernel` divides a view; SUMS is the power of two that `tl.arange` wants."""
    tiles = -(-size * size // TILE)
    return {"TILE": TILE, "TILES": tiles, "SUMS": 1 << (tiles - 1).bit_length()}


# -- kernels ----------------------------------------------------------------------------------------------------------


@jit
def means_kernel(
    views,  # [N, SIZE, SIZE, 3] uint8
    lines,  # [N, COLUMNS] float32
    bits,  # [N, 2048] uint8, unused without HAS_MASKS
    plates,  # [P, high, broad, 3] uint8, unused without HAS_PLATES
    high,
    broad,
    fill_red,
    fill_green,
    fill_blue,
    sums,  # [N, tiles, 3] float32, written for views with contrast
    SIZE: tl.constexpr,
    RELICV2: tl.constexpr,
    HAS_MASKS: tl.constexpr,
    HAS_PLATES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Sum the channels (torchvision: the luma) of a tile of what contrast is going to be given."""
    tile, view = tl.program_id(0), tl.program_id(1)
    line = lines + view * _COLUMNS
    contrast_place = tl.load(line + _CONTRAST_PLACE).to(tl.int32)
    if contrast_place < _NO_OPERATION:
        pixel = tile * TILE + tl.arange(0, TILE)
        inside = pixel < SIZE * SIZE
        red, green, blue = pixels_of(
            views, line, bits, plates, high, broad, fill_red, fill_green, fill_blue, view, pixel, inside,
            SIZE, HAS_MASKS, HAS_PLATES,
        )  # fmt: skip
        for place in tl.range(0, contrast_place):
            operation = tl.load(line + _OPERATION + place).to(tl.int32)
            strength = tl.load(line + _STRENGTH + place)
            if operation < _NO_OPERATION:
                red, green, blue = jitter(red, green, blue, operation, strength, 0.0, 0.0, 0.0, RELICV2)
        if not RELICV2:
            red = luma(red, green, blue)
            green, blue = red, red
        place = sums + (view * tl.num_programs(0) + tile) * 3
        tl.store(place, tl.sum(tl.where(inside, red, 0.0)))
        tl.store(place + 1, tl.sum(tl.where(inside, green, 0.0)))
        tl.store(place + 2, tl.sum(tl.where(inside, blue, 0.0)))


@jit
def colour_kernel(
    views,  # [N, SIZE, SIZE, 3] uint8
    lines,  # [N, COLUMNS] float32
    bits,  # [N, 2048] uint8, unused without HAS_MASKS
    plates,  # [P, high, broad, 3] uint8, unused without HAS_PLATES
    high,
    broad,
    fill_red,
    fill_green,
    fill_blue,
    sums,  # [N, TILES, 3] float32, of means_kernel
    normal,  # [2, 3] float32: scale and shift of the channels
    wide,  # [N, SIZE, SIZE, 3] int16, written for views that are blurred
    out,  # [N, SIZE, SIZE, 3], written for the others
    SIZE: tl.constexpr,
    RELICV2: tl.constexpr,
    HAS_MASKS: tl.constexpr,
    HAS_PLATES: tl.constexpr,
    NORMALIZED: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    SUMS: tl.constexpr,
):
    """Do all that a tile needs but the blur and what follows it."""
    tile, view = tl.program_id(0), tl.program_id(1)
    line = lines + view * _COLUMNS
    pixel = tile * TILE + tl.arange(0, TILE)
    inside = pixel < SIZE * SIZE
    red, green, blue = pixels_of(
        views, line, bits, plates, high, broad, fill_red, fill_green, fill_blue, view, pixel, inside,
        SIZE, HAS_MASKS, HAS_PLATES,
    )  # fmt: skip
    number = tl.arange(0, SUMS)
    is_summed = number < tl.where(tl.load(line + _CONTRAST_PLACE) < _NO_OPERATION, TILES, 0)
    parts = sums + (view * TILES + number) * 3
    red_mean = tl.sum(tl.load(parts, mask=is_summed, other=0.0)) / (SIZE * SIZE)
    green_mean = tl.sum(tl.load(parts + 1, mask=is_summed, other=0.0)) / (SIZE * SIZE)
    blue_mean = tl.sum(tl.load(parts + 2, mask=is_summed, other=0.0)) / (SIZE * SIZE)
    for place in tl.range(0, 4):
        operation = tl.load(line + _OPERATION + place).to(tl.int32)
        strength = tl.load(line + _STRENGTH + place)
        if operation < _NO_OPERATION:
            red, green, blue = jitter(
                red, green, blue, operation, strength, red_mean, green_mean, blue_mean, RELICV2
            )  # fmt: skip
    if tl.load(line + _GRAY) > 0:
        red = luma(red, green, blue)
        green, blue = red, red
    start = (view.to(tl.int64) * (SIZE * SIZE) + pixel) * 3
    if tl.load(line + _SIGMA) > 0:
        tl.store(wide + start, packed(red), mask=inside)
        tl.store(wide + start + 1, packed(green), mask=inside)
        tl.store(wide + start + 2, packed(blue), mask=inside)
    else:
        if tl.load(line + _SOLARIZE) > 0:
            red = tl.where(red < 0.5, red, 1 - red)
            green = tl.where(green < 0.5, green, 1 - green)
            blue = tl.where(blue < 0.5, blue, 1 - blue)
        store_level(out + start, red, inside, tl.load(normal), tl.load(normal + 3), NORMALIZED)
        store_level(out + start + 1, green, inside, tl.load(normal + 1), tl.load(normal + 4), NORMALIZED)
        store_level(out + start + 2, blue, inside, tl.load(normal + 2), tl.load(normal + 5), NORMALIZED)


@jit
def level_at(source, place, inside):
    return tl.load(source + place, mask=inside, other=0).to(tl.float32)


@jit
def mirrored(place, SIZE: tl.constexpr):
    """Bring a row or column beyond the border back inside; the edge is not repeated."""
    place = tl.abs(place)
    return SIZE - 1 - tl.abs(SIZE - 1 - place)


@jit
def blur_kernel(
    lines,  # [N, COLUMNS] float32
    source,  # [N, SIZE, SIZE, 3] int16
    target,  # [N, SIZE, SIZE, 3] int16, written if VERTICAL
    normal,  # [2, 3] float32: scale and shift of the channels
    out,  # [N, SIZE, SIZE, 3], written else
    SIZE: tl.constexpr,
    REACH: tl.constexpr,
    VERTICAL: tl.constexpr,
    NORMALIZED: tl.constexpr,
    TILE: tl.constexpr,
):
    """Blur a tile of levels along y, or along x and finish it, where its view has a σ."""
    tile, view = tl.program_id(0), tl.program_id(1)
    line = lines + view * _COLUMNS
    sigma = tl.load(line + _SIGMA)
    if sigma > 0:
        level = tile * TILE + tl.arange(0, TILE)
        inside = level < SIZE * SIZE * 3
        row, within = level // (SIZE * 3), level % (SIZE * 3)
        column, channel = within // 3, within % 3
        start = view.to(tl.int64) * (SIZE * SIZE * 3)
        picture = source + start
        reach = tl.minimum(tl.ceil(3 * sigma).to(tl.int32), REACH)
        total = level_at(picture, level, inside)
        weights = sigma * 0 + 1.0
        for offset in tl.range(1, reach + 1):
            weight = tl.exp(-0.5 * (offset / sigma) * (offset / sigma))
            if VERTICAL:
                before = mirrored(row - offset, SIZE) * (SIZE * 3) + within
                after = mirrored(row + offset, SIZE) * (SIZE * 3) + within
            else:
                before = row * (SIZE * 3) + mirrored(column - offset, SIZE) * 3 + channel
                after = row * (SIZE * 3) + mirrored(column + offset, SIZE) * 3 + channel
            total += weight * (level_at(picture, before, inside) + level_at(picture, after, inside))
            weights += 2 * weight
        blurred = total / weights
        if VERTICAL:
            tl.store(target + start + level, tl.floor(blurred + 0.5).to(tl.int16), mask=inside)
        else:
            value = (blurred + 32768) / 65535
            if tl.load(line + _SOLARIZE) > 0:
                value = tl.where(value < 0.5, value, 1 - value)
            scale = tl.load(normal + channel, mask=inside, other=0.0)
            shift = tl.load(normal + 3 + channel, mask=inside, other=0.0)
            store_level(out + start + level, value, inside, scale, shift, NORMALIZED)
