"""Several views through one network: one forward pass each, or all of a size in one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from relic.models.batch_norm import set_views


def run_views(network: nn.Module, views: list[Tensor], *, concatenate: bool) -> list[Tensor]:
    """Map every view [B, 3, H, W] to the network's output [B, D], each normalised by its own batch statistics.

    Args:
        network: its batch norms are `ViewBatchNorm` where `concatenate` is set.
        views: of one size.
        concatenate: one forward pass for all views.
    """
    if not concatenate or len(views) < 2:
        return [network(view) for view in views]
    set_views(network, len(views))
    try:
        return list(network(torch.cat(views)).chunk(len(views)))
    finally:
        set_views(network, 1)
