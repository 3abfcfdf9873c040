"""Solarize: invert what is at or above one half."""

from __future__ import annotations

import torch


def reference(view: torch.Tensor) -> torch.Tensor:
    """Return where(view < 1/2, view, 1 - view); float32 [3, H, W] in [0, 1]."""
    return torch.where(view < 0.5, view, 1.0 - view)
