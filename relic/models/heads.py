"""The multi-layer perceptrons after the backbone: projector, predictor, and ReLIC's critic."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(in_features: int, hidden_features: int, out_features: int, *, layers: int = 2) -> nn.Sequential:
    """Build Linear(bias) -> BN -> ReLU, repeated, and a last Linear without bias.

    torch's default initialisation is kept: what follows each Linear (batch norm, or the loss's normalisation)
    ignores its scale, and LARS adapts to it.

    Args:
        in_features: D of the input [N, D].
        hidden_features: width of every hidden layer.
        out_features: D of the output [N, D].
        layers: number of Linear layers: 2 as in BYOL, 4 for ReLIC's critic.

    Raises:
        ValueError: for less than two layers.
    """
    if layers < 2:
        raise ValueError(f"a head of {layers} layers has no hidden layer: use 2 or more")
    widths = [in_features, *[hidden_features] * (layers - 1)]
    modules: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        modules += [nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules, nn.Linear(hidden_features, out_features, bias=False))
