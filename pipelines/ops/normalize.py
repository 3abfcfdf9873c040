"""Normalise and cast: uint8 channels-last views to what the network eats."""

from __future__ import annotations

from functools import lru_cache

import torch

from pipelines.config import IMAGENET_MEAN, IMAGENET_STD


def normalize(view: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return (view / 255 - mean) / std as a channels-last tensor.

    Args:
        view: uint8 [N, H, W, 3]; floating views are normalised already and only permuted and cast.
        dtype: float32, bfloat16 or float16; the arithmetic is float32.

    Returns:
        `dtype` [N, 3, H, W] in channels-last memory, since the permuted view needs no copy.
    """
    if view.is_floating_point():
        return view.to(dtype).permute(0, 3, 1, 2)
    scale, shift = scale_and_shift(view.device)
    return torch.addcmul(shift, view.to(torch.float32), scale).to(dtype).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def scale_and_shift(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 [3] each: a normalised value is grey level * scale + shift."""
    # the type is named: what a process's default type was at the first call would stay in the cache
    mean, std = (torch.tensor(value, dtype=torch.float32, device=device) for value in (IMAGENET_MEAN, IMAGENET_STD))
    return 1 / (255 * std), -mean / std
