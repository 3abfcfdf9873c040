"""The operations on all views of one size at once, in plain torch: what `pipelines.kernels.photometric` is held to.

It reads the same lines as the kernels do, and waits for the device at every operation that not all views take.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipelines.kernels.settings import (
    BACKGROUND,
    GRAY,
    MASK_X,
    MASK_Y,
    OPERATION,
    PLATE,
    SIGMA,
    SOLARIZE,
    STRENGTH,
)
from pipelines.ops import background, blur, color, solarize
from pipelines.ops.normalize import scale_and_shift
from pipelines.views import KEEP, SWAP
from saliency.store import SIDE


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
    """Finish views that hold geometry alone; arguments and result as in `pipelines.kernels.photometric.finish`."""
    if len(views) == 0:
        return torch.empty_like(views, dtype=dtype)
    planes = views.permute(0, 3, 1, 2).to(torch.float32) / 255
    if masks is not None:
        for number in (lines[:, BACKGROUND] != KEEP).nonzero().flatten().tolist():
            planes[number] = _with_background(planes[number], lines[number], masks[number], plates, fill)
    mode: color.JitterMode = "relicv2" if relicv2 else "torchvision"
    for place in range(4):
        for operation in color.FIELDS:
            chosen = lines[:, OPERATION + place] == operation
            strength = lines[chosen, STRENGTH + place].view(-1, 1, 1, 1)
            _replace(planes, chosen, lambda part, op=operation, by=strength: color.jitter(part, op, by, mode))
    _replace(planes, lines[:, GRAY] > 0, color.reference_grayscale)
    blurred = lines[:, SIGMA] > 0
    _replace(planes, blurred, lambda part: blur.batched(part, lines[blurred, SIGMA].double()))
    _replace(planes, lines[:, SOLARIZE] > 0, solarize.reference)
    levels = (planes * 255).clamp(0, 255).round().permute(0, 2, 3, 1)
    if dtype == torch.uint8:
        return levels.to(dtype).contiguous()
    scale, shift = scale_and_shift(views.device)
    return torch.addcmul(shift, levels, scale).to(dtype).contiguous()


def _with_background(
    view: Tensor, line: Tensor, bits: Tensor, plates: Tensor | None, fill: tuple[float, float, float]
) -> Tensor:
    """Blend fill or plate behind one view, float32 [3, S, S], by the packed bits of its mask, uint8 [2048]."""
    size = view.shape[-1]
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    mask = ((bits[:, None] >> shifts) & 1).view(1, SIDE, SIDE).to(torch.float32)
    pixel = torch.arange(size, dtype=torch.float64, device=view.device)
    y, x = ((line[at] + pixel * line[at + 1].double()).clamp(0, SIDE - 1) for at in (MASK_Y, MASK_X))
    behind = torch.tensor(fill, dtype=torch.float32, device=view.device).view(3, 1, 1)
    if plates is not None and line[BACKGROUND] == SWAP:
        behind = background.reference_plate(plates[int(line[PLATE])], size)
    return background.reference(view, background.bilinear(mask, y, x)[0], behind)


def _replace(planes: Tensor, chosen: Tensor, operation: Callable[[Tensor], Tensor]) -> None:
    if chosen.any():
        planes[chosen] = operation(planes[chosen])
