"""What a provider is given, and what it must do: make the same views of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipelines.config import BackgroundConfig, PhotometricConfig, ViewsConfig
from pipelines.views import draw

if TYPE_CHECKING:  # they import torch, which is part of some providers' cold start
    from pipelines.engine.settings import Output
    from pipelines.ops.color import JitterMode


@dataclass(frozen=True, kw_only=True)
class Work:
    """The images, and the views that are to be made of them."""

    jpegs: list[bytes]
    """JPEG files, RGB or grayscale."""
    recipe: ViewsConfig
    """Sizes, interpolation, jitter mode, chances."""
    rows: np.ndarray
    """`pipelines.views.ROW` [images, views]; drawn for the jitter of `recipe`."""
    seed: int
    """Seed of the rows, and of providers that draw their own numbers."""
    threads: int
    """Threads that a provider may use."""
    output: Output
    """uint8 grey levels, or views normalised by ImageNet's mean and deviation."""
    batch_size: int
    """Images whose views end together in one buffer per view."""
    photometric: bool = True
    """False: jitter, grayscale, blur and solarize are left to a device, whose time is not counted."""

    @property
    def sizes(self) -> list[int]:
        """Return the side of every view in pixels."""
        large, small = self.recipe.large, self.recipe.small
        return [large.size] * large.count + [small.size] * small.count


class Provider(Protocol):
    """One way to make the views."""

    note: str
    """What a reader of its figures must know, in one sentence; empty if nothing."""

    def run(self, indices: Sequence[int]) -> dict[str, float]:
        """Make all views of these images, batch by batch in memory; return seconds by stage, summed over threads."""
        ...

    def views(self, index: int) -> list[np.ndarray] | None:
        """Return the views of one image as grey levels, float32 [S, S, 3]; None where they do not follow the rows."""
        ...


def benchmark_recipe(jitter: JitterMode) -> ViewsConfig:
    """Return the default recipe without backgrounds, which no peer has."""
    return replace(ViewsConfig(), photometric=PhotometricConfig(jitter=jitter), background=BackgroundConfig(chance=0.0))


def draw_rows(recipe: ViewsConfig, seed: int, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Draw `ROW` [images, views] for images of (height, width)."""
    heights, widths = np.array(sizes, np.int64).reshape(-1, 2).T
    return draw(recipe, seed=seed, epoch=0, indices=np.arange(len(sizes)), heights=heights, widths=widths)
