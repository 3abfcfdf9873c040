"""Gaussian blur with a fixed number of taps and a reflected border (the edge pixel is not repeated)."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def radius(size: int) -> int:
    """Return the kernel's radius for a view of `size` pixels: 11 (23 taps) at 224, 4 (9 taps) at 96, as official."""
    return size // 10 // 2


def reference(view: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur float32 [3, H, W] with all 2 radius + 1 taps, normalised to sum one. Sigma 0 leaves the view as it is."""
    if sigma <= 0 or radius(view.shape[-1]) == 0:
        return view
    return batched(view[None], torch.tensor([sigma], dtype=torch.float64, device=view.device))[0]


def batched(views: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Blur float32 [N, 3, H, W], H = W >= 20, each view with its own sigma of float64 [N], all above zero."""
    count, channels, _, size = views.shape
    reach = radius(size)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64, device=views.device)
    weights = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    kernels = (weights / weights.sum(1, keepdim=True)).to(torch.float32).repeat_interleave(channels, 0)
    planes = F.pad(views, (reach, reach, reach, reach), mode="reflect").reshape(
        1, count * channels, size + 2 * reach, -1
    )
    rows = F.conv2d(planes, kernels.view(-1, 1, 2 * reach + 1, 1), groups=count * channels)
    return F.conv2d(rows, kernels.view(-1, 1, 1, 2 * reach + 1), groups=count * channels).view(views.shape)
