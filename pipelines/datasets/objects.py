"""Ten classes of objects for the synthetic images: each a shape family with its own texture, in any colour.

Each function takes (rng, colours float32 [3, 3]) and paints on a canvas of SIDE × SIDE pixels:
alpha uint8 [SIDE, SIDE], albedo RGB float32 [SIDE, SIDE, 3], relief float32 [SIDE, SIDE] in half sides.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike

from pipelines.datasets.textures import cells, mix, noise, polygon, rgb, smoothstep

SIDE = 144
Painted = tuple[np.ndarray, np.ndarray, np.ndarray]

V, U = np.meshgrid(*[np.linspace(-1, 1, SIDE, dtype=np.float32)] * 2, indexing="ij")  # downwards, rightwards
RADIUS, ANGLE = np.hypot(U, V), np.arctan2(V, U)


def cross(rng: np.random.Generator, colours: np.ndarray) -> Painted:
    """A plus of four beams with chevrons along them."""
    half = rng.uniform(0.2, 0.34)
    reach = rng.uniform(0.72, 0.95, 4)
    alpha = _blank()
    for turn in range(4):
        beam = np.array(
            [
                [-half, -half],
                [reach[turn], -half * rng.uniform(0.8, 1.15)],
                [reach[turn], half],
                [-half, half],
            ]
        )
        _fill(alpha, _turned(beam, turn * math.pi / 2))
    along, across = np.maximum(np.abs(U), np.abs(V)), np.minimum(np.abs(U), np.abs(V))
    chevron = np.sin((along + across * rng.uniform(0.6, 1.3)) * rng.uniform(22, 38))
    albedo = mix(colours[0], colours[1], smoothstep(-0.3, 0.3, chevron))
    return alpha, albedo, _bevel(alpha, 0.14) + 0.012 * chevron


def donut(rng: np.random.Generator, colours: np.ndarray) -> Painted:
    """A ring of dough, glazed, with sprinkles."""
    hole, outer = rng.uniform(0.24, 0.42), 0.93
    wobble = _wave(rng, ANGLE, 2, 5, 0.03)
    ring = RADIUS + wobble
    alpha = _coverage(np.minimum(outer - ring, ring - hole))
    middle, half = (hole + outer) / 2, (outer - hole) / 2
    relief = np.sqrt(np.clip(1 - ((ring - middle) / half) ** 2, 0, 1)) * half * 0.8
    glazed = smoothstep(
        0.0, 0.06, half * rng.uniform(0.65, 0.85) - np.abs(ring - middle) + _wave(rng, ANGLE, 5, 11, 0.05)
    )
    albedo = mix(colours[1] * (0.85 + 0.3 * noise(rng, SIDE, SIDE, 8)[..., None]), colours[0], glazed)
    canvas = (albedo * 255).clip(0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(45, 90))):
        at = rng.uniform(hole, outer), rng.uniform(0, 2 * math.pi)
        centre = np.array([math.cos(at[1]), math.sin(at[1])]) * at[0]
        turn = rng.uniform(0, math.pi)
        arm = np.array([math.cos(turn), math.sin(turn)]) * 0.055
        side = np.array([-arm[1], arm[0]]) * 0.4
        colour = (rgb(rng.uniform(0, 1), rng.uniform(0.1, 0.9), rng.uniform(0.5, 1)) * 255).tolist()
        polygon(
            canvas,
            _pixels(np.stack([centre - arm - side, centre + arm - side, centre + arm + side, centre - arm + side])),
            colour,
        )
    return alpha, mix(albedo, canvas.astype(np.float32) * np.float32(1 / 255), glazed), relief


def fish(rng: np.random.Generator, colours: np.ndarray) -> Painted:
    """A body with tail and fins, striped across."""
    slender, tail = rng.uniform(0.34, 0.55), rng.uniform(0.3, 0.5)
    s = np.linspace(0, 1, 24)
    upper = slender * np.sin(math.pi * s ** rng.uniform(0.7, 1.0)) ** 0.8 + 0.02
    x = 0.93 - 1.45 * s
    body = np.concatenate([np.stack([x, -upper], 1), np.stack([x, upper * rng.uniform(0.8, 1.0)], 1)[::-1]])
    alpha = _blank()
    fork = rng.uniform(-0.85, -0.65)
    _fill(alpha, [[-0.42, -0.05], [-0.97, -tail], [fork, 0], [-0.97, tail], [-0.42, 0.05]])
    fin = rng.uniform(0.15, 0.3)
    _fill(alpha, [[0.35, -slender * 0.8], [-0.25, -slender - fin], [-0.35, -slender * 0.5]])
    _fill(alpha, [[0.2, slender * 0.6], [-0.2, slender + fin * 0.8], [-0.2, slender * 0.5]])
    _fill(alpha, body)
    bend = U + 0.25 * V * V + 0.12 * (noise(rng, SIDE, SIDE, 40, octaves=2) - 0.5)
    stripe = smoothstep(-0.25, 0.25, np.sin(bend * rng.uniform(11, 22) + rng.uniform(0, 6)) + rng.uniform(-0.3, 0.3))
    albedo = mix(colours[0], colours[1], stripe)
    scales = np.cos(U * 70) * np.cos(V * 70)
    albedo = mix(albedo, np.minimum(colours[2] + 0.3, 1), smoothstep(0.1, slender, V) * 0.6) * (
        1 + 0.12 * scales[..., None]
    )
    eye = np.hypot(U - 0.62, V + slender * 0.22)
    albedo = mix(albedo, rgb(0.12, 0.1, 0.95), smoothstep(0.1, 0.08, eye))
    albedo = mix(albedo, rgb(0, 0, 0.05), smoothstep(0.06, 0.04, eye))
    return alpha, albedo, _bevel(alpha, 0.4)


def kite(rng: np.random.Generator, colours: np.ndarray) -> Painted:
    """A flat convex polygon with a chequer and a hem."""
    corners = int(rng.integers(4, 7))
    angles = (np.arange(corners) + rng.uniform(-0.22, 0.22, corners)) * (2 * math.pi / corners)
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.78, 0.97, (corners, 1))
    alpha = _blank()
    _fill(alpha, points)
    turn, fields = rng.uniform(0, math.pi / 2), rng.uniform(2.2, 4.2)
    u = (U * math.cos(turn) + V * math.sin(turn)) * fields
    v = (V * math.cos(turn) - U * math.sin(turn)) * fields
    odd = ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)
    albedo = mix(colours[0], colours[1], odd) * (0.9 + 0.2 * noise(rng, SIDE, SIDE, 20)[..., None])
    inner = cv2.distanceTransform(alpha, cv2.DIST_L2, 3) * (2 / SIDE)
    return alpha, mix(colours[2], albedo, smoothstep(0.05, 0.07, inner)), _bevel(alpha, 0.05)


def moon(rng: np.random.Generator, colours: np.ndarray) -> Painted:
    """A crescent with craters."""
    offset, bite = rng.uniform(0.38, 0.6), rng.uniform(0.62, 0.8)
    alpha = _coverage(np.minimum(0.95 - RADIUS, np.hypot(U - offset, V) - bite))
    relief = _bevel(alpha, 0.3) * 0.7
    floor = 0.5 + 0.5 * noise(rng, SIDE, SIDE, 26, octaves=4)
    for _ in range(int(rng.integers(16, 30))):
        at = rng.uniform(1.6, 4.7), rng.uniform(0.3, 0.95)
        size = rng.uniform(0.05, 0.16)
        rim = np.hypot(U - at[1] * math.cos(at[0]), V - at[1] * math.sin(at[0])) * (1 / size)
        pit = np.exp(-((rim - 1) ** 2) * 12) * 0.6 - smoothstep(1.0, 0.5, rim)
        relief = relief + pit * size * 0.35
        floor = floor + pit * 0.2
    return alpha, mix(colours[1] * 0.7, colours[0], np.clip(floor, 0, 1)), relief


def mug(rng: np.random.Generator, colours: np.ndarray) -> Painted:
    """A cup with a handle, banded around."""
    top, bottom, rim = rng.uniform(0.5, 0.6), rng.uniform(0.38, 0.58), rng.uniform(0.1, 0.2)
    height, shift = rng.uniform(0.62, 0.85), -0.22
    level = (V + height) / (2 * height)
    half = top + (bottom - top) * level
    lower = height + rim * 0.6 * np.sqrt(np.clip(1 - ((U - shift) / bottom) ** 2, 0, 1)) - rim * 0.6
    wall = np.minimum(np.minimum(half - np.abs(U - shift), lower - V), V + height)
    mouth = (1 - np.hypot((U - shift) / top, (V + height) / rim)) * rim
    grip = np.hypot((U - shift - top) / rng.uniform(0.36, 0.46), (V + 0.05) / rng.uniform(0.42, 0.55))
    thick = rng.uniform(0.13, 0.2)
    handle = np.minimum((thick - np.abs(grip - 0.85)) * 0.45, U - shift - 0.3)
    alpha = _coverage(np.maximum(np.maximum(wall, mouth), handle))
    around = level + rim * 0.4 * np.sqrt(np.clip(1 - ((U - shift) / top) ** 2, 0, 1))
    zigzag = rng.uniform(0, 0.06) * np.abs((np.arcsin(np.clip((U - shift) / top, -1, 1)) * 2.5) % 1 - 0.5)
    band = smoothstep(-0.2, 0.2, np.sin((around + zigzag) * rng.uniform(14, 26)) + rng.uniform(-0.4, 0.4))
    body = (wall > 0) | (mouth > 0)
    albedo = mix(colours[0], colours[1], np.where(body, band, 0))
    drink = smoothstep(0.02, 0.05, mouth)
    albedo = mix(mix(albedo, colours[0] * 1.1, smoothstep(-0.02, 0.0, mouth)), colours[2] * 0.35, drink)
    round_wall = np.sqrt(np.clip(1 - ((U - shift) / (half + 0.01)) ** 2, 0, 1)) * half
    relief = np.where(mouth > 0, float(top) * 0.8, np.where(wall > 0, round_wall, _bevel(alpha, 0.1) * 0.8))
    return alpha, albedo, cv2.GaussianBlur(relief.astype(np.float32), (0, 0), 1.0)


def pebble(rng: np.random.Generator, colours: np.ndarray) -> Painted:
    """A smooth stone, speckled, at times with a vein."""
    edge = 0.8 + _wave(rng, ANGLE, 2, 4, 0.16)
    alpha = _coverage(edge * rng.uniform(0.95, 1.1) - RADIUS)
    grain = noise(rng, SIDE, SIDE, 4, octaves=2)
    albedo = mix(colours[0], colours[1], smoothstep(0.52, 0.66, grain))
    albedo = mix(albedo, colours[2], smoothstep(0.62, 0.72, noise(rng, SIDE, SIDE, 5, octaves=2)))
    albedo = albedo * (0.8 + 0.4 * noise(rng, SIDE, SIDE, 40)[..., None])
    if rng.random() < 0.4:
        vein = np.abs(V + rng.uniform(-0.3, 0.3) + 0.3 * noise(rng, SIDE, SIDE, 50) * np.sign(U + 2))
        albedo = mix(albedo, np.minimum(colours[0] + 0.35, 1), smoothstep(0.07, 0.04, vein))
    return alpha, albedo, _bevel(alpha, 0.7)


def snail(rng: np.random.Generator, colours: np.ndarray) -> Painted:
    """A spiral shell on a soft body with horns."""
    at_u, at_v, size = rng.uniform(-0.22, -0.08), rng.uniform(-0.2, -0.1), rng.uniform(0.6, 0.72)
    u, v = U - at_u, V - at_v
    r = np.hypot(u, v) * (1 / size)
    theta = np.arctan2(v, u)
    turns = rng.uniform(2.0, 3.4)
    winding = (theta / (2 * math.pi) + np.log(np.maximum(r, 0.03)) * (turns / 2.2)) % 1.0
    groove = np.minimum(winding, 1 - winding)
    foot = rng.uniform(0.62, 0.72)
    body = np.array(
        [
            [-0.97, foot + 0.2],
            [-0.5, foot - 0.15],
            [0.3, foot - 0.25],
            [0.62, 0.0],
            [0.78, -0.12],
            [0.95, -0.02],
            [0.95, 0.2],
            [0.8, foot],
            [0.7, foot + 0.2],
        ]
    )
    alpha = _blank()
    for lean in (0.05, 0.2):
        horn = np.array([[0.78, -0.05], [0.76 + lean, -0.5], [0.82 + lean, -0.5], [0.9, -0.02]])
        _fill(alpha, horn)
    _fill(alpha, body)
    shell = smoothstep(-0.015, 0.015, 1 - r)
    alpha = np.maximum(alpha, (shell * 255).astype(np.uint8))
    growth = 0.5 + 0.5 * np.sin(theta * rng.integers(14, 24) + np.log(np.maximum(r, 0.03)) * 9)
    spiral = mix(mix(colours[0], colours[1], smoothstep(0.12, 0.3, groove)), colours[0] * 0.6, growth * 0.35)
    skin = colours[2] * (0.7 + 0.5 * noise(rng, SIDE, SIDE, 5)[..., None])
    relief = np.where(
        shell > 0.5,
        np.sqrt(np.clip(1 - r * r, 0, 1)) * size * 0.5 + groove * 0.25 * size,
        _bevel(alpha, 0.15) * 0.5,
    )
    return alpha, mix(skin, spiral, shell), relief.astype(np.float32)


def starfish(rng: np.random.Generator, colours: np.ndarray) -> Painted:
    """Rounded arms, swaying, with rows of warts."""
    arms, waist = int(rng.choice([5, 5, 5, 6, 7])), rng.uniform(0.3, 0.45)
    theta = ANGLE + rng.uniform(-0.5, 0.5) * RADIUS * RADIUS
    phase = np.abs((theta * (arms / (2 * math.pi))) % 1.0 - 0.5) * 2  # 1 on an arm's axis, 0 between two arms
    edge = waist + (0.95 - waist) * phase ** rng.uniform(1.6, 2.6)
    alpha = cv2.GaussianBlur(_coverage((edge - RADIUS) * 0.7), (0, 0), 1.5)
    alpha = (smoothstep(0.35, 0.65, alpha.astype(np.float32) * np.float32(1 / 255)) * 255).astype(np.uint8)
    pitch = rng.uniform(26, 40)
    side = np.sin((1 - phase) * (math.pi / arms)) * RADIUS
    wart = np.clip(np.cos(RADIUS * pitch) * np.cos(side * pitch) + rng.normal(0, 0.08, (SIDE, SIDE)), 0, 1).astype(
        np.float32
    )
    albedo = mix(
        colours[0] * (0.8 + 0.3 * noise(rng, SIDE, SIDE, 12)[..., None]),
        colours[1],
        smoothstep(0.3, 0.7, wart),
    )
    return alpha, albedo, _bevel(alpha, 0.3) * 0.8 + wart * 0.03


def tree(rng: np.random.Generator, colours: np.ndarray) -> Painted:
    """A forked trunk with bark and a crown of clumps of leaves."""
    wood, crown = _blank(), _blank()
    trunk, fork = rng.uniform(0.07, 0.13), rng.uniform(0.1, 0.35)
    _fill(wood, [[-trunk * 1.5, 0.97], [-trunk * 0.8, fork], [trunk * 0.8, fork], [trunk * 1.5, 0.97]])
    for lean in np.linspace(-1, 1, int(rng.integers(3, 6))) + rng.normal(0, 0.1):
        x, y = lean * rng.uniform(0.45, 0.62), fork - 0.45 - 0.35 * (1 - abs(lean)) + rng.normal(0, 0.06)
        half = trunk * 0.5
        _fill(wood, [[-half, fork + 0.1], [x - half / 2, y], [x + half / 2, y], [half, fork + 0.1]])
        for _ in range(int(rng.integers(2, 4))):
            centre = np.array([x, y]) + rng.normal(0, 0.1, 2)
            clump = rng.uniform(0.2, 0.32) * (1 + _wave(rng, np.linspace(0, 2 * math.pi, 24), 4, 9, 0.12))
            around = np.linspace(0, 2 * math.pi, 24)
            blob = centre + np.stack([np.cos(around), np.sin(around) * 0.85], 1) * clump[:, None]
            _fill(crown, np.clip(blob, -0.97, 0.97))
    labels, rise = cells(rng, SIDE, SIDE, rng.uniform(5, 8))
    leaf = rng.uniform(0.45, 1.2, int(labels.max()) + 1).astype(np.float32)[labels]
    leaves = mix(colours[0], colours[1], smoothstep(0.8, 1.1, leaf)) * (leaf * (0.5 + 0.5 * rise))[..., None]
    bark = colours[2] * (0.35 + 0.5 * noise(rng, SIDE, SIDE, 30, stretch=0.12)[..., None])
    alpha = np.maximum(wood, crown)
    leafy = crown.astype(np.float32) * np.float32(1 / 255)
    return alpha, mix(bark, leaves, leafy), _bevel(alpha, 0.3) * 0.6 + rise * leafy * 0.05


def _blank() -> np.ndarray:
    return np.zeros((SIDE, SIDE), np.uint8)


def _pixels(points: np.ndarray) -> np.ndarray:
    return (points + 1) * ((SIDE - 1) / 2)


def _fill(canvas: np.ndarray, points: ArrayLike) -> None:
    """Fill a polygon with corners [n, 2] in half sides from the centre."""
    polygon(canvas, _pixels(np.asarray(points)), 255)


def _turned(points: np.ndarray, angle: float) -> np.ndarray:
    cosine, sine = math.cos(angle), math.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def _coverage(inside: np.ndarray) -> np.ndarray:
    """Antialias a signed distance (positive inside, in half sides)."""
    return (np.clip(inside * (SIDE / 2) + 0.5, 0, 1) * 255).astype(np.uint8)


def _wave(rng: np.random.Generator, angle: np.ndarray, low: int, high: int, amplitude: float) -> np.ndarray:
    """Sum a few random harmonics low … high − 1 of an angle."""
    total = np.zeros_like(angle)
    for k in range(low, high):
        total += np.cos(k * angle + rng.uniform(0, 2 * math.pi)) * (
            amplitude * rng.uniform(0.3, 1) / math.sqrt(high - low)
        )
    return total


def _bevel(alpha: np.ndarray, width: float) -> np.ndarray:
    """Round a flat shape off: a quarter circle of radius `width` (half sides) rises from its outline."""
    inner = np.minimum(cv2.distanceTransform((alpha > 127).astype(np.uint8), cv2.DIST_L2, 5) * (2 / SIDE / width), 1)
    dome = np.sqrt(np.clip(1 - (1 - inner) ** 2, 0, 1)) * width
    return cv2.GaussianBlur(dome, (0, 0), 2.0)
