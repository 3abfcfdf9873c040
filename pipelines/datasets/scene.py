"""From a painted object and a background to a photograph: pose, light, shadow, clutter, camera."""

from __future__ import annotations

import math

import cv2
import numpy as np

from pipelines.datasets.objects import SIDE, Painted
from pipelines.datasets.textures import coordinates, mix, noise, polygon, rgb

# Share of the image asked for; fitting into the frame and thin parts keep the true one in 0.08 … 0.45.
COVERAGE = (0.10, 0.42)


def lamp(rng: np.random.Generator, height: int, width: int, light: float) -> np.ndarray:
    """Make uneven, slightly coloured light, brighter towards `light`: factors float32 [H, W, 3] about 1."""
    y, x = coordinates(height, width)
    falloff = (x - 0.5) * math.cos(light) + (y - 0.5) * math.sin(light)
    cast = rgb(rng.uniform(0, 1), rng.uniform(0, 0.18), 1.0)
    level = 1 + rng.uniform(0, 0.6) * falloff
    if rng.random() < 0.25:  # cast shade, as of trees
        level = level * (1 - rng.uniform(0.2, 0.5) * np.round(noise(rng, height, width, 40, octaves=2)))
        level = cv2.GaussianBlur(level.astype(np.float32), (0, 0), 3.0)
    return (level * rng.uniform(0.8, 1.15))[..., None].astype(np.float32) * cast


def clutter(rng: np.random.Generator, picture: np.ndarray, light: float) -> np.ndarray:
    """Strew a few small things (chips, leaves, scraps) that belong to no class."""
    height, width = picture.shape[:2]
    side = math.sqrt(height * width)
    for _ in range(int(rng.integers(1, 5))):
        corners = int(rng.integers(3, 8))
        around = np.sort(rng.uniform(0, 2 * math.pi, corners))
        size = side * rng.uniform(0.025, 0.07)
        outline = np.stack([np.cos(around), np.sin(around) * rng.uniform(0.3, 1)], 1) * size
        outline = outline + rng.uniform(0, 1, 2) * (width, height)
        stencil = np.zeros((2, height, width), np.uint8)
        polygon(stencil[0], outline, 255)
        polygon(stencil[1], outline - np.array([math.cos(light), math.sin(light)]) * size * 0.4, 255)
        shape, shade = stencil.astype(np.float32) * np.float32(1 / 255)
        picture = picture * (1 - 0.4 * shade[..., None])
        picture = mix(picture, rgb(rng.uniform(0, 1), rng.uniform(0, 0.7), rng.uniform(0.2, 0.9)), shape)
    return picture


def colours(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Draw an object's colours [3, 3]: any hue, the first two apart, not both lost in the background."""
    around = picture.mean(axis=(0, 1))
    best, distance = np.zeros((3, 3), np.float32), -1.0
    for _ in range(3):
        hue, saturation, value = rng.uniform(0, 1), rng.uniform(0.05, 0.9), rng.uniform(0.3, 0.95)
        second = value * rng.uniform(0.35, 0.65) if value > 0.6 else min(1.0, value * rng.uniform(1.6, 2.4))
        trio = np.stack(
            [
                rgb(hue, saturation, value),
                rgb(hue + rng.normal(0, 0.12), saturation * rng.uniform(0.4, 1.1), second),
                rgb(rng.uniform(0, 1), rng.uniform(0.1, 0.8), rng.uniform(0.3, 0.9)),
            ]
        )
        apart = float(np.abs(trio[:2].mean(axis=0) - around).sum())
        if apart > distance:
            best, distance = trio, apart
    return best


def placed(rng: np.random.Generator, painted: Painted, lean: float, height: int, width: int) -> Painted:
    """Pose an object in the frame: turned by up to `lean` radians, mirrored, squeezed, sheared, scaled.

    Returns:
        alpha float32 [H, W] in [0, 1], albedo float32 [H, W, 3], relief float32 [H, W] in pixels.
    """
    alpha, albedo, relief = painted
    angle, squeeze = rng.uniform(-lean, lean), math.exp(rng.uniform(-0.2, 0.2))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    pose = rotation @ np.array([[squeeze, rng.uniform(-0.2, 0.2)], [0, 1 / squeeze]])
    if rng.random() < 0.5:
        pose[:, 0] *= -1
    y, x = np.nonzero(alpha[::3, ::3] > 127)
    outline = pose @ (np.stack([x, y]) * 3.0)
    low, high = outline.min(axis=1), outline.max(axis=1)
    wanted = math.exp(rng.uniform(*np.log(COVERAGE))) * height * width / float((alpha > 127).sum())
    fit = 0.98 * min(width / (high[0] - low[0]), height / (high[1] - low[1]))
    scale = min(math.sqrt(wanted), fit)  # the pose has determinant ±1
    slack = np.array([width, height]) - (high - low) * scale
    transform = np.concatenate([pose * scale, (rng.beta(2, 2, 2) * slack - low * scale)[:, None]], axis=1)
    layers = [
        cv2.warpAffine(layer, transform, (width, height), flags=cv2.INTER_LINEAR)
        for layer in (
            alpha.astype(np.float32) * np.float32(1 / 255),
            albedo.astype(np.float32),
            relief.astype(np.float32),
        )
    ]
    return layers[0], layers[1], layers[2] * np.float32(scale * SIDE / 2)


def shaded(rng: np.random.Generator, albedo: np.ndarray, relief: np.ndarray, light: float) -> np.ndarray:
    """Light a relief from `light` (radians in the picture's plane): diffuse, ambient and a highlight."""
    slope_x = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    slope_y = cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    upright = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    height = rng.uniform(0.6, 1.2)
    towards = np.array([math.cos(light), math.sin(light), height]) / math.hypot(1, height)
    diffuse = np.clip((towards[2] - slope_x * towards[0] - slope_y * towards[1]) * upright, 0, 1)
    halfway = np.array([towards[0], towards[1], towards[2] + 1])
    halfway /= np.linalg.norm(halfway)
    gloss = np.clip((halfway[2] - slope_x * halfway[0] - slope_y * halfway[1]) * upright, 0, 1)
    ambient = rng.uniform(0.3, 0.55)
    shine = max(0.0, rng.uniform(-0.3, 0.5)) * gloss ** int(rng.integers(12, 50))
    return albedo * (ambient + (1.25 - ambient) * diffuse)[..., None] + shine[..., None]


def shadow(rng: np.random.Generator, alpha: np.ndarray, light: float) -> np.ndarray:
    """Cast a soft shadow away from the light: factors float32 [H, W, 1] for the background."""
    height, width = alpha.shape
    reach = rng.uniform(0.02, 0.08) * math.sqrt(height * width)
    move = np.array([[1, 0, -math.cos(light) * reach], [0, 1, -math.sin(light) * reach]])
    moved = cv2.warpAffine(alpha, move, (width, height))
    soft = cv2.GaussianBlur(moved, (0, 0), rng.uniform(1.5, 5.0))
    return 1 - np.float32(rng.uniform(0.25, 0.65)) * soft[..., None]


def photographed(rng: np.random.Generator, picture: np.ndarray, *, gray_share: float) -> np.ndarray:
    """Expose, defocus slightly, darken the corners, add sensor noise, quantise: uint8 [H, W, 3]."""
    height, width = picture.shape[:2]
    y, x = coordinates(height, width)
    corner = ((x - x.mean()) ** 2 + (y - y.mean()) ** 2) * 2
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(0.35, 0.8))
    picture = picture * (1 - rng.uniform(0, 0.4) * corner)[..., None]
    metered = 0.4 / max(float(picture.mean()), 0.02)  # a camera pulls the mean towards mid-grey, not all the way
    gain = min(metered, 3.0) ** 0.6 * math.exp(rng.normal(0, 0.15))
    picture = np.clip(picture * (rng.normal(1, 0.04, 3).astype(np.float32) * np.float32(gain)), 0, 1)
    picture = picture ** np.float32(math.exp(rng.normal(-0.05, 0.12)))
    grain = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(0.004, 0.025))
    picture = picture + grain * (0.5 + picture)
    if rng.random() < gray_share:
        luma = picture @ np.array([0.299, 0.587, 0.114], np.float32)
        picture = np.repeat(luma[..., None], 3, axis=2)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
