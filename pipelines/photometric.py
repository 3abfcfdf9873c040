"""The half of the views that a device can do: background, jitter, grayscale, blur, solarize, normalise and cast.

One operation of torch, so that `torch.compile` and CUDA graphs take it as one node: Triton's kernels on a GPU
(`pipelines.kernels.photometric`), plain torch elsewhere (`pipelines.ops.batched`).
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipelines.config import ViewsConfig
from pipelines.contract import Batch
from pipelines.kernels import settings
from pipelines.ops import batched


@torch.library.custom_op("relic_pipelines::photometric", mutates_args=())
def photometric(
    views: Tensor,
    lines: Tensor,
    masks: Tensor | None,
    plates: Tensor | None,
    relicv2: bool,
    fill: list[float],
    dtype: torch.dtype,
) -> Tensor:
    """Finish views that hold geometry alone; no gradient flows.

    Args:
        views: uint8 [N, S, S, 3], contiguous.
        lines: float32 [N, COLUMNS], of `pipelines.kernels.settings.settings_of`.
        masks: uint8 [N, 2048], packed; None: every background is kept.
        plates: uint8 [P, h, w, 3]; None: backgrounds get the fill.
        relicv2: whether jitter is the official code's, or torchvision's.
        fill: red, green and blue in [0, 1].
        dtype: uint8 for grey levels; else bfloat16, float16 or float32, normalised.

    Returns:
        `dtype` [N, S, S, 3].
    """
    return finish_on(views.device)(views, lines, masks, plates, relicv2=relicv2, fill=tuple(fill), dtype=dtype)


@photometric.register_fake
def _(views, lines, masks, plates, relicv2, fill, dtype):
    return torch.empty_like(views, dtype=dtype)


def finish_on(device: torch.device) -> Callable[..., Tensor]:
    """Return who finishes views on a device: the kernels, or plain torch."""
    if device.type == "cuda" and _has_triton():
        from pipelines.kernels.photometric import finish

        return finish
    return batched.finish


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a device must know of a batch besides its pixels; pinned for CUDA."""

    lines: list[Tensor]
    """float32 [N, COLUMNS] per view, large ones first."""
    masks: Tensor | None
    """uint8 [N, 2048], packed."""


class Finisher:
    """Finish batches on a device; the background plates lie there.

    Args:
        recipe: the views.
        device: where batches are.
        dtype: uint8 for grey levels; else normalised.
        plates: uint8 [P, h, w, 3], or None.
        quiet: say nothing where Triton is missing.

    Raises:
        ValueError: more plates than a device can tell apart.
    """

    def __init__(
        self,
        recipe: ViewsConfig,
        device: torch.device,
        dtype: torch.dtype,
        plates: np.ndarray | None,
        *,
        quiet: bool = False,
    ):
        if plates is not None and len(plates) > settings.MOST_PLATES:
            raise ValueError(
                f"{len(plates)} background plates: a device tells {settings.MOST_PLATES} apart, give fewer"
            )
        if device.type == "cuda" and not _has_triton() and not quiet:
            print(
                "Triton is missing: views are finished by slower torch operations: pip install triton", file=sys.stderr
            )
        self.recipe, self.device, self.dtype = recipe, device, dtype
        self._plates = None if plates is None else torch.from_numpy(np.array(plates)).to(device)
        self._fill = [level / 255 for level in recipe.background.fill]

    def drawn(self, rows: np.ndarray, heights: np.ndarray, widths: np.ndarray, masks: np.ndarray | None) -> Drawn:
        """Translate a batch's rows for the device.

        Args:
            rows: `pipelines.views.ROW` [N, views].
            heights, widths: int [N], of the stored images.
            masks: uint8 [N, 2048], packed; None: every background is kept.
        """
        recipe = self.recipe
        sizes = [recipe.large.size] * recipe.large.count + [recipe.small.size] * recipe.small.count
        sides = {"heights": heights, "widths": widths, "num_plates": 0 if self._plates is None else len(self._plates)}
        mode = recipe.photometric.jitter
        lines = [settings.settings_of(rows[:, view], size, mode=mode, **sides) for view, size in enumerate(sizes)]
        return Drawn(
            lines=[self._pinned(torch.from_numpy(each)) for each in lines],
            masks=None if masks is None else self._pinned(torch.from_numpy(masks)),
        )

    def finish(self, batch: Batch, drawn: Drawn) -> Batch:
        """Finish all views of a batch that lies on the device; waits for nothing there."""
        masks = None if drawn.masks is None else drawn.masks.to(self.device, non_blocking=True)
        views = []
        for number, (view, lines) in enumerate(zip((*batch.large, *batch.small), drawn.lines, strict=True)):
            # small views keep their background: without masks their kernel is a smaller one
            of_view = masks if number < self.recipe.large.count else None
            relicv2 = self.recipe.photometric.jitter == "relicv2"
            sent = lines.to(self.device, non_blocking=True)
            views.append(photometric(view, sent, of_view, self._plates, relicv2, self._fill, self.dtype))
        return replace(batch, large=views[: self.recipe.large.count], small=views[self.recipe.large.count :])

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self.device.type == "cuda" else tensor
