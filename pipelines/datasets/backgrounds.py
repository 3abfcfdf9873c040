"""Ten families of textured backgrounds for the synthetic images.

Every family draws its colours from a wide range that overlaps the others': texture tells it, not colour.
Each function takes (rng, height, width) and returns float32 RGB [height, width, 3] in about [0, 1].
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from pipelines.datasets.textures import (
    SUBPIXEL_BITS,
    cells,
    coordinates,
    mix,
    noise,
    polygon,
    rgb,
    smoothstep,
    strokes,
    tilted,
)

FLOOR = 208  # side of a texture before it is seen in perspective: above the largest image's 160


def grass(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Blades, longer towards the viewer, over dark earth."""
    hue, saturation, value = rng.uniform(0.12, 0.38), rng.uniform(0.3, 0.75), rng.uniform(0.45, 0.85)
    ground = mix(
        rgb(hue, saturation, value * 0.35),
        rgb(hue - 0.03, saturation, value * 0.75),
        noise(rng, height, width, 24),
    )
    canvas = (ground * 255).astype(np.uint8)
    n = int(height * width * rng.uniform(0.012, 0.022))
    y = np.sort(rng.uniform(-0.05, 1.15, n)) * height
    x = rng.uniform(-0.05, 1.05, n) * width
    length = height * (0.05 + 0.16 * np.clip(y / height, 0, 1)) * rng.uniform(0.6, 1.4, n)
    lean = rng.normal(rng.uniform(-0.4, 0.4), 0.35, n)
    tip = np.stack([x + lean * length, y - length], axis=1)
    light = rng.uniform(0.45, 1.15, n) * value
    warm, cool = rgb(hue - 0.04, saturation * 0.8, 1.0), rgb(hue + 0.04, saturation, 1.0)
    colours = mix(warm, cool, rng.random(n, dtype=np.float32)) * light[:, None]
    root = np.stack([x, y], axis=1)
    strokes(canvas, root, tip, (colours.clip(0, 1) * 255).astype(np.uint8), 1 + (rng.random(n) < y / height * 0.5))
    return canvas.astype(np.float32) * np.float32(1 / 255)


def sky(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A gradient with clouds, at times over a ridge of hills."""
    y, x = coordinates(height, width)
    hue = rng.uniform(0.52, 0.66) if rng.random() < 0.65 else rng.uniform(-0.08, 0.12)
    saturation, value = rng.uniform(0.1, 0.75), rng.uniform(0.45, 0.95)
    upper, lower = (
        rgb(hue, saturation, value * 0.8),
        rgb(hue + rng.uniform(-0.06, 0.06), saturation * 0.45, min(1.0, value * 1.2)),
    )
    gradient = np.broadcast_to(y * np.float32(max(height, width) / height), (height, width))
    picture = mix(upper, lower, gradient)
    bank = noise(rng, height, width, rng.uniform(30, 60), octaves=5, stretch=rng.uniform(1.2, 2.5))
    cover = rng.uniform(0.35, 0.65)
    cloud = smoothstep(cover, cover + rng.uniform(0.15, 0.4), bank)
    lit = mix(lower * 0.75, rgb(hue + 0.5, 0.06, min(1.0, value * 1.25)), smoothstep(cover, 1.0, bank))
    picture = mix(picture, lit, cloud * np.float32(rng.uniform(0.5, 0.95)))
    if rng.random() < 0.45:
        ridge = rng.uniform(0.72, 0.92) * height - noise(rng, 2, width, 1, octaves=1)[0] * 0.02 * height
        for wave in range(1, 4):
            ridge += np.sin(x[0] * wave * rng.uniform(3, 9) + rng.uniform(0, 6)) * height * 0.05 / wave
        below = np.clip(np.arange(height)[:, None] - ridge[None, :], 0, 1).astype(np.float32)
        land = rgb(rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.5), value * rng.uniform(0.25, 0.6))
        picture = mix(picture, land * (0.75 + 0.5 * noise(rng, height, width, 10)[..., None]), below)
    return picture


def brick(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Courses of bricks with mortar between, each brick of its own shade."""
    y, x = coordinates(FLOOR, FLOOR)
    courses = rng.uniform(7, 15)
    v = y * courses
    row = np.floor(v)
    u = x * (courses * rng.uniform(0.4, 0.6)) + row * 0.5
    column = np.floor(u)
    joint = rng.uniform(0.06, 0.14)
    rise = np.minimum(v - row, 1 - (v - row)) * (1 / joint)
    run = np.minimum(u - column, 1 - (u - column)) * (2 / joint)
    face = smoothstep(0.3, 1.0, np.minimum(rise, run))
    shades = rng.normal(1.0, rng.uniform(0.05, 0.16), (64, 64)).astype(np.float32)
    shade = shades[row.astype(np.intp) % 64, column.astype(np.intp) % 64] * (0.8 + 0.4 * noise(rng, FLOOR, FLOOR, 9))
    hue = rng.uniform(-0.03, 0.1) if rng.random() < 0.75 else rng.uniform(0.5, 0.7)
    colour = rgb(hue, rng.uniform(0.05, 0.65), rng.uniform(0.35, 0.85))
    mortar = rgb(rng.uniform(0.05, 0.15), rng.uniform(0, 0.2), rng.uniform(0.3, 0.9)) * (
        0.85 + 0.3 * noise(rng, FLOOR, FLOOR, 4)[..., None]
    )
    return tilted(
        rng, mix(mortar, colour * shade[..., None], face), height, width, tilt=rng.uniform(0, 0.25), turn=0.15
    )


def water(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Waves that shorten towards the far edge, with glints."""
    y, x = coordinates(height, width)
    depth = 1.0 / (y + np.float32(rng.uniform(0.25, 0.9)))
    swell = noise(rng, height, width, rng.uniform(14, 26), stretch=3)
    ripple = noise(rng, height, width, rng.uniform(5, 9), stretch=rng.uniform(2, 4))
    phase = depth * rng.uniform(14, 30) + x * rng.uniform(-6, 6)
    wave = np.sin(phase + swell * rng.uniform(5, 9)) * 0.5 + np.sin(phase * 2.3 + ripple * 7) * 0.25
    crest = np.clip(0.5 + 0.5 * wave + (ripple - 0.5) * 0.5, 0, 1)
    hue, saturation, value = rng.uniform(0.42, 0.66), rng.uniform(0.15, 0.75), rng.uniform(0.4, 0.85)
    deep = rgb(hue, saturation, value * 0.5)
    light = rgb(hue + rng.uniform(-0.1, 0.05), saturation * 0.6, min(1.0, value * 1.2))
    picture = mix(deep, light, crest)
    glint = smoothstep(rng.uniform(0.72, 0.9), 1.0, crest) * np.float32(rng.uniform(0.2, 0.8))
    return mix(picture, rgb(rng.uniform(0.05, 0.15), rng.uniform(0, 0.3), 1.0), glint)


def wood(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Planks with grain."""
    y, _ = coordinates(FLOOR, FLOOR)
    v = y * rng.uniform(2.5, 7)
    plank = np.floor(v).astype(np.intp)[:, 0]
    shift = rng.integers(0, FLOOR, 16)[plank % 16]
    knots = noise(rng, FLOOR, FLOOR, rng.uniform(16, 34), stretch=rng.uniform(5, 10), octaves=2)
    knots = knots[np.arange(FLOOR)[:, None], (np.arange(FLOOR)[None, :] + shift[:, None]) % FLOOR]
    grain = 0.5 + 0.5 * np.sin(knots * rng.uniform(40, 90))
    fibre = noise(rng, FLOOR, FLOOR, 2, stretch=20, octaves=2)
    tone = rng.normal(1.0, rng.uniform(0.05, 0.15), 16).astype(np.float32)[plank % 16][:, None]
    hue, saturation, value = rng.uniform(0.02, 0.13), rng.uniform(0.12, 0.7), rng.uniform(0.35, 0.9)
    board = mix(rgb(hue, saturation, value), rgb(hue - 0.02, saturation * 1.1, value * 0.6), 0.6 * grain + 0.4 * fibre)
    fraction = v - np.floor(v)
    seam = smoothstep(0.0, 0.05, np.minimum(fraction, 1 - fraction))
    return tilted(
        rng,
        board * (tone * (0.35 + 0.65 * seam))[..., None],
        height,
        width,
        tilt=rng.uniform(0, 0.5),
        turn=0.3 if rng.random() < 0.6 else math.pi,
    )


def sand(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Wind ripples and grains."""
    y, x = coordinates(FLOOR, FLOOR)
    dunes = noise(rng, FLOOR, FLOOR, rng.uniform(30, 70))
    ripple = np.sin((y + 0.15 * x) * rng.uniform(50, 110) + dunes * rng.uniform(5, 12))
    ripple = np.where(ripple > 0, ripple, ripple * 0.6) * np.float32(rng.uniform(0.04, 0.14))
    grain = rng.normal(0, rng.uniform(0.03, 0.09), (FLOOR, FLOOR)).astype(np.float32)
    hue, saturation, value = rng.uniform(0.03, 0.15), rng.uniform(0.08, 0.55), rng.uniform(0.5, 0.9)
    light = 0.85 + 0.25 * (dunes - 0.5) + ripple + grain
    picture = rgb(hue, saturation, value) * light[..., None]
    return tilted(rng, picture, height, width, tilt=rng.uniform(0, 0.7), turn=0.6)


def foliage(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Layers of leaves, brighter towards the viewer, over shade."""
    hue = rng.uniform(0.2, 0.4) if rng.random() < 0.7 else rng.uniform(0.0, 0.14)
    saturation, value = rng.uniform(0.35, 0.8), rng.uniform(0.5, 0.95)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = (rgb(hue, saturation, value * 0.18) * 255).astype(np.uint8)
    size = rng.uniform(8, 17)
    n = int(2.6 * height * width / size**2)
    centre = rng.uniform(-0.05, 1.05, (n, 2)) * (width, height)
    angle = rng.normal(rng.uniform(0, 6.3), 0.9, n)
    length = size * rng.uniform(0.6, 1.3, n)
    layer = np.linspace(0.3, 1.0, n) * rng.uniform(0.7, 1.2, n) * value
    colours = mix(rgb(hue - 0.04, saturation, 1), rgb(hue + 0.05, saturation * 0.8, 1), rng.random(n, dtype=np.float32))
    colours = (np.clip(colours * layer[:, None], 0, 1) * 255).tolist()
    along = np.stack([np.cos(angle), np.sin(angle)], axis=1) * length[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * rng.uniform(0.25, 0.45)
    outline = np.array([[-1, 0], [-0.4, 0.85], [0.2, 0.9], [1, 0], [0.2, -0.9], [-0.4, -0.85]])
    leaves = centre[:, None] + outline[None, :, :1] * along[:, None] + outline[None, :, 1:] * across[:, None]
    for leaf, colour in zip(leaves, colours, strict=True):
        polygon(canvas, leaf, colour)
    strokes(
        canvas,
        centre - along,
        centre + along * 0.8,
        (np.asarray(colours) * 0.75).astype(np.uint8),
        np.ones(n),
    )
    return canvas.astype(np.float32) * np.float32(1 / 255)


def bokeh(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Lights of a night scene, out of focus."""
    hue = rng.uniform(0, 1)
    dusk = mix(
        rgb(hue, 0.6, rng.uniform(0.04, 0.2)),
        rgb(hue + 0.15, 0.5, rng.uniform(0.1, 0.4)),
        noise(rng, height, width, 60, octaves=2),
    )
    radius = rng.uniform(5, 14)
    warmth, spread = rng.uniform(0, 1), rng.uniform(0.05, 0.4)
    picture = dusk
    for _ in range(3):  # lights of one layer cover, those of different layers add up
        layer = np.zeros((height, width, 3), np.uint8)
        for _ in range(int(rng.integers(5, 16))):
            at = (rng.uniform(0, 1, 2) * (width, height) * 16).astype(int).tolist()
            colour = rgb(warmth + rng.normal(0, spread), rng.uniform(0.2, 0.9), 1.0) * rng.uniform(0.15, 0.6)
            size = int(radius * rng.uniform(0.5, 1.3) * 16)
            cv2.circle(layer, at, size, (colour * 255).tolist(), -1, cv2.LINE_AA, SUBPIXEL_BITS)
            cv2.circle(layer, at, size, (colour * 300).clip(0, 255).tolist(), 1, cv2.LINE_AA, SUBPIXEL_BITS)
        picture = picture + cv2.GaussianBlur(layer, (0, 0), 0.8).astype(np.float32) * np.float32(1 / 255)
    return picture


def gravel(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Packed stones."""
    cell = rng.uniform(9, 18)
    labels, rise = cells(rng, FLOOR, FLOOR, cell)
    count = int(labels.max()) + 1
    hue, saturation = rng.uniform(0, 1), rng.uniform(0.02, 0.3)
    value = rng.uniform(0.45, 0.9)
    tone = rng.normal(1.0, rng.uniform(0.12, 0.28), (count, 1)).astype(np.float32)
    tint = (
        mix(
            rgb(hue, saturation, value),
            rgb(hue + 0.12, saturation, value),
            rng.random(count, dtype=np.float32),
        )
        * tone
    )
    slope = cv2.Sobel(rise, cv2.CV_32F, 1, 1, ksize=3) * 0.08 + cv2.Sobel(rise, cv2.CV_32F, 0, 1, ksize=3) * 0.08
    light = 0.25 + 0.75 * rise - slope + 0.25 * (noise(rng, FLOOR, FLOOR, 4) - 0.5)
    return tilted(rng, tint[labels] * light[..., None], height, width, tilt=rng.uniform(0, 0.55), turn=math.pi)


def carpet(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A woven ornament, mirrored and repeated, with pile."""
    y, x = coordinates(FLOOR, FLOOR)
    repeat = rng.uniform(3, 7)
    u = np.abs((x * repeat) % 1.0 - 0.5)
    v = np.abs((y * repeat) % 1.0 - 0.5)
    a, b, c, d = rng.uniform(6, 22, 4)
    figure = np.sin(a * u + b * v * v) + np.sin(c * u * v * 4) + np.cos(d * np.hypot(u, v))
    figure = figure + (noise(rng, FLOOR, FLOOR, 3, octaves=1) - 0.5) * 0.5
    hue, saturation, value = rng.uniform(0, 1), rng.uniform(0.2, 0.75), rng.uniform(0.3, 0.8)
    ground, first = (
        rgb(hue, saturation, value),
        rgb(hue + rng.uniform(0.08, 0.5), saturation * 0.8, value * rng.uniform(0.5, 1.4)),
    )
    second = rgb(hue + rng.uniform(0.3, 0.7), saturation * 0.5, value * 1.3)
    low = rng.uniform(-0.4, 0.4)
    picture = mix(
        mix(ground, first, smoothstep(low, low + 0.3, figure)),
        second,
        smoothstep(low + 0.9, low + 1.1, figure),
    )
    pile = 1 + rng.normal(0, rng.uniform(0.05, 0.12), (FLOOR, FLOOR)).astype(np.float32)
    pile *= 0.8 + 0.4 * noise(rng, FLOOR, FLOOR, 40)
    return tilted(rng, picture * pile[..., None], height, width, tilt=rng.uniform(0, 0.5), turn=math.pi)
