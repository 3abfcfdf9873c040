"""The order of layers, and which of them have biases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relic.models import mlp


def test_two_layers_are_linear_norm_relu_linear() -> None:
    head = mlp(5, 7, 3)
    assert [type(module) for module in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [name for name, _ in head.named_parameters()] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "3.weight",
    ]
    assert head(torch.randn(4, 5)).shape == (4, 3)


def test_four_layers_repeat_the_hidden_width() -> None:
    linears = [module for module in mlp(5, 7, 3, layers=4) if isinstance(module, nn.Linear)]
    assert [(linear.in_features, linear.out_features) for linear in linears] == [
        (5, 7),
        (7, 7),
        (7, 7),
        (7, 3),
    ]
    assert [linear.bias is not None for linear in linears] == [True, True, True, False]


def test_one_layer_is_no_head() -> None:
    with pytest.raises(ValueError, match="a head of 1 layers has no hidden layer: use 2 or more"):
        mlp(5, 7, 3, layers=1)
