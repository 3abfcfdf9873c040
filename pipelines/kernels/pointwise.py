"""What a tile of pixels goes through on a GPU: the operations of `pipelines.ops`, on three vectors of channels."""

from __future__ import annotations

from pipelines.kernels import settings
from pipelines.kernels.optional import constexpr, jit, tl
from pipelines.ops.color import LUMA
from pipelines.views import BRIGHTNESS, CONTRAST, HUE, KEEP, SATURATION, SWAP
from saliency.store import SIDE

# Triton sees no module's names but those that say they are constants.
_BACKGROUND, _PLATE = constexpr(settings.BACKGROUND), constexpr(settings.PLATE)
_MASK_Y, _MASK_X = constexpr(settings.MASK_Y), constexpr(settings.MASK_X)
_BRIGHTNESS, _CONTRAST = constexpr(BRIGHTNESS), constexpr(CONTRAST)
_SATURATION, _HUE = constexpr(SATURATION), constexpr(HUE)
_KEEP, _SWAP, _SIDE = constexpr(KEEP), constexpr(SWAP), constexpr(SIDE)
_RED, _GREEN, _BLUE = (constexpr(weight) for weight in LUMA)


@jit
def clamped(value):
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@jit
def remainder(value, divisor: tl.constexpr):
    """Return value mod divisor in [0, divisor): `%` of floats keeps the sign, as in C."""
    return value - divisor * tl.floor(value / divisor)


@jit
def luma(red, green, blue):
    return _RED * red + _GREEN * green + _BLUE * blue


@jit
def hsv(red, green, blue):
    value, smallest = tl.maximum(tl.maximum(red, green), blue), tl.minimum(tl.minimum(red, green), blue)
    chroma = value - smallest
    divisor = tl.where(chroma > 0, chroma, 1.0)
    of_green = tl.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0)
    hue = tl.where(value == red, remainder((green - blue) / divisor, 6.0), of_green)
    return hue, chroma / tl.where(value > 0, value, 1.0), value


@jit
def rgb_channel(hue, chroma, value, OFFSET: tl.constexpr):
    k = remainder(OFFSET + hue, 6.0)
    return value - chroma * clamped(tl.minimum(k, 4.0 - k))


@jit
def jitter(red, green, blue, operation, strength, red_mean, green_mean, blue_mean, RELICV2: tl.constexpr):
    """Apply one jitter operation and clamp; `operation` is one number for the whole view."""
    if operation == _BRIGHTNESS:
        if RELICV2:
            red, green, blue = red + strength, green + strength, blue + strength
        else:
            red, green, blue = red * strength, green * strength, blue * strength
    elif operation == _CONTRAST:
        red = strength * (red - red_mean) + red_mean
        green = strength * (green - green_mean) + green_mean
        blue = strength * (blue - blue_mean) + blue_mean
    elif operation == _SATURATION:
        if RELICV2:
            hue, saturation, value = hsv(red, green, blue)
            chroma = value * clamped(strength * saturation)
            red, green, blue = (
                rgb_channel(hue, chroma, value, 5.0),
                rgb_channel(hue, chroma, value, 3.0),
                rgb_channel(hue, chroma, value, 1.0),
            )
        else:
            gray = luma(red, green, blue)
            red = strength * (red - gray) + gray
            green = strength * (green - gray) + gray
            blue = strength * (blue - gray) + gray
    elif operation == _HUE:
        hue, saturation, value = hsv(red, green, blue)
        chroma = value * saturation
        turned = remainder(hue + 6.0 * strength, 6.0)
        red, green, blue = (
            rgb_channel(turned, chroma, value, 5.0),
            rgb_channel(turned, chroma, value, 3.0),
            rgb_channel(turned, chroma, value, 1.0),
        )
    return clamped(red), clamped(green), clamped(blue)


@jit
def mask_bit(bits, y, x):
    """Return 1.0 where pixel (y, x) of a mask is salient: eight pixels a byte, the leftmost in its highest bit."""
    byte = tl.load(bits + y * (_SIDE // 8) + x // 8).to(tl.int32)
    return ((byte >> (7 - x % 8)) & 1).to(tl.float32)


@jit
def between(position, last):
    """Return the two grid places around a position held in [0, last], and the weight of the second."""
    held = tl.minimum(tl.maximum(position, 0.0), tl.zeros_like(position) + last)
    low = tl.floor(held).to(tl.int32)
    return low, tl.minimum(low + 1, last), held - low.to(tl.float32)


@jit
def plate_channel(plate, above, below, left, right, down, along, broad, CHANNEL: tl.constexpr):
    upper_left = tl.load(plate + (above * broad + left) * 3 + CHANNEL).to(tl.float32)
    upper_right = tl.load(plate + (above * broad + right) * 3 + CHANNEL).to(tl.float32)
    lower_left = tl.load(plate + (below * broad + left) * 3 + CHANNEL).to(tl.float32)
    lower_right = tl.load(plate + (below * broad + right) * 3 + CHANNEL).to(tl.float32)
    left_side = upper_left * (1 - down) + lower_left * down
    right_side = upper_right * (1 - down) + lower_right * down
    return (left_side * (1 - along) + right_side * along) / 255


@jit
def pixels_of(
    views, line, bits, plates, high, broad, fill_red, fill_green, fill_blue, view, pixel, inside,
    SIZE: tl.constexpr, HAS_MASKS: tl.constexpr, HAS_PLATES: tl.constexpr,
):  # fmt: skip
    """Return red, green and blue of a tile in [0, 1], its background removed or swapped where the line says so."""
    start = views + (view.to(tl.int64) * (SIZE * SIZE) + pixel) * 3
    red = tl.load(start, mask=inside, other=0).to(tl.float32) / 255
    green = tl.load(start + 1, mask=inside, other=0).to(tl.float32) / 255
    blue = tl.load(start + 2, mask=inside, other=0).to(tl.float32) / 255
    if HAS_MASKS:
        background = tl.load(line + _BACKGROUND).to(tl.int32)
        if background != _KEEP:
            row, column = (pixel // SIZE).to(tl.float32), (pixel % SIZE).to(tl.float32)
            mask = bits + view.to(tl.int64) * (_SIDE * _SIDE // 8)
            above, below, down = between(tl.load(line + _MASK_Y) + row * tl.load(line + _MASK_Y + 1), _SIDE - 1)
            left, right, along = between(tl.load(line + _MASK_X) + column * tl.load(line + _MASK_X + 1), _SIDE - 1)
            left_side = mask_bit(mask, above, left) * (1 - down) + mask_bit(mask, below, left) * down
            right_side = mask_bit(mask, above, right) * (1 - down) + mask_bit(mask, below, right) * down
            cover = left_side * (1 - along) + right_side * along
            behind_red = tl.zeros_like(red) + fill_red
            behind_green = tl.zeros_like(red) + fill_green
            behind_blue = tl.zeros_like(red) + fill_blue
            if HAS_PLATES:  # noqa: SIM102 - one is known to the compiler, the other to the device
                if background == _SWAP:
                    plate = plates + tl.load(line + _PLATE).to(tl.int64) * high * broad * 3
                    above, below, down = between((row + 0.5) * high / SIZE - 0.5, high - 1)
                    left, right, along = between((column + 0.5) * broad / SIZE - 0.5, broad - 1)
                    behind_red = plate_channel(plate, above, below, left, right, down, along, broad, 0)
                    behind_green = plate_channel(plate, above, below, left, right, down, along, broad, 1)
                    behind_blue = plate_channel(plate, above, below, left, right, down, along, broad, 2)
            red = behind_red + cover * (red - behind_red)
            green = behind_green + cover * (green - behind_green)
            blue = behind_blue + cover * (blue - behind_blue)
    return red, green, blue


@jit
def packed(value):
    """Return a value of [0, 1] as it stands between the passes."""
    return (tl.floor(value * 65535 + 0.5) - 32768).to(tl.int16)


@jit
def store_level(place, value, mask, scale, shift, NORMALIZED: tl.constexpr):
    """Round a value of [0, 1] to its grey level, and write it, or what normalising makes of it."""
    level = tl.floor(clamped(value) * 255 + 0.5)
    if NORMALIZED:
        level = level * scale + shift
    tl.store(place, level.to(place.dtype.element_ty), mask=mask)
