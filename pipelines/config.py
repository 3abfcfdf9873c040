"""What the views of an image are: a recipe that `pipelines.views.draw` turns into a table of numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How the boxes of one size of view are drawn."""

    count: int
    """Views of this size per image."""
    size: int
    """Side of the view in pixels."""
    area: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height, drawn log-uniformly."""
    placement: Literal["random", "center"] = "random"
    """`random`: RandomResizedCrop. `center`: the central square whose side is `center_share` of the shorter side."""
    center_share: float = 0.875
    """Side of the central square as a share of the image's shorter side (224/256 in the evaluation protocols)."""


@dataclass(frozen=True, kw_only=True)
class PhotometricConfig:
    """Chances and strengths of what follows the crop. Pairs are for odd views (first, third, ...) and even views."""

    flip: float = 0.5
    """Chance of a horizontal flip."""
    jitter: Literal["relicv2", "torchvision"] = "relicv2"
    """Official jitter (additive brightness, contrast about each channel's mean, saturation in HSV) or torchvision's."""
    jitter_chance: float = 0.8
    """Chance that the four jitter operations are applied, in random order."""
    brightness: float = 0.4
    """Largest brightness change."""
    contrast: float = 0.4
    """Largest contrast change."""
    saturation: float = 0.2
    """Largest saturation change."""
    hue: float = 0.1
    """Largest hue shift, in turns of the colour circle."""
    grayscale: float = 0.2
    """Chance of grayscale."""
    blur: tuple[float, float] = (1.0, 0.1)
    """Chance of Gaussian blur in odd and even views."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest sigma in pixels of the view."""
    solarize: tuple[float, float] = (0.0, 0.2)
    """Chance of solarizing (inverting what is above one half) in odd and even views."""


NO_PHOTOMETRIC = PhotometricConfig(flip=0.0, jitter_chance=0.0, grayscale=0.0, blur=(0.0, 0.0), solarize=(0.0, 0.0))
FLIP_ONLY = PhotometricConfig(jitter_chance=0.0, grayscale=0.0, blur=(0.0, 0.0), solarize=(0.0, 0.0))


@dataclass(frozen=True, kw_only=True)
class BackgroundConfig:
    """What happens to the background of large views where a mask is known."""

    chance: float = 0.1
    """Chance that a large view takes the background-removed copy (p_m; 0.1 is an assumption, sweep 0 to 0.4)."""
    mode: Literal["remove", "swap"] = "remove"
    """`remove`: constant fill. `swap`: a background plate chosen by the table."""
    fill: tuple[int, int, int] = (128, 128, 128)
    """RGB grey levels of the constant fill (an assumption: the paper is silent)."""


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """All views of one image: `large.count` large views, then `small.count` small ones."""

    large: CropConfig = field(default_factory=lambda: CropConfig(count=4, size=224))
    """Large views: both networks see them."""
    small: CropConfig = field(default_factory=lambda: CropConfig(count=2, size=96, area=(0.05, 0.25)))
    """Small views: only the online network sees them."""
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)
    """Flip, jitter, grayscale, blur, solarize."""
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    """Background removal or swap."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Antialiased filter of the resize."""


def evaluation_views(size: int, *, center_share: float = 0.875) -> ViewsConfig:
    """Return the recipe of a test image: one centre crop resized to `size`, nothing else."""
    return ViewsConfig(
        large=CropConfig(count=1, size=size, placement="center", center_share=center_share),
        small=CropConfig(count=0, size=1),
        photometric=NO_PHOTOMETRIC,
        background=BackgroundConfig(chance=0.0),
    )


def supervised_views(size: int, *, area: tuple[float, float] = (0.08, 1.0)) -> ViewsConfig:
    """Return the recipe of linear and supervised training: one random crop of `size` and a flip."""
    return ViewsConfig(
        large=CropConfig(count=1, size=size, area=area),
        small=CropConfig(count=0, size=1),
        photometric=FLIP_ONLY,
        background=BackgroundConfig(chance=0.0),
    )
