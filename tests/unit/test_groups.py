"""Which parameters are decayed and adapted, and the optimizers by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relic.models import ResNet, Twin
from relic.optim import Lars, build_optimizer, parameter_groups, set_learning_rate


def twin() -> Twin:
    return Twin(ResNet(18, width=0.125), projector_hidden=8, predictor_hidden=8, projection_dim=4)


def test_biases_and_norms_are_neither_decayed_nor_adapted() -> None:
    module = twin()
    weights, others = parameter_groups(module, weight_decay=1e-6)
    names = {parameter: name for name, parameter in module.named_parameters()}
    assert (weights["weight_decay"], weights["adapt"]) == (1e-6, True)
    assert (others["weight_decay"], others["adapt"]) == (0.0, False)
    assert all(names[parameter].endswith("weight") for parameter in weights["params"])
    assert not any("bn" in names[parameter] for parameter in weights["params"])
    assert {names[parameter].rsplit(".", 1)[1] for parameter in others["params"]} == {"weight", "bias"}
    assert all(parameter.ndim == 1 for parameter in others["params"])


def test_groups_hold_each_trainable_parameter_once_in_order() -> None:
    module = twin()
    trained = list(module.online.parameters())
    groups = parameter_groups(module, weight_decay=0.1)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len(trained)
    expected = [parameter for parameter in trained if parameter.ndim > 1]
    expected += [parameter for parameter in trained if parameter.ndim <= 1]
    assert all(mine is theirs for mine, theirs in zip(grouped, expected, strict=True))


def test_a_group_without_parameters_is_left_out() -> None:
    (group,) = parameter_groups(nn.Linear(2, 2, bias=False), weight_decay=0.1)
    assert group["adapt"]


@pytest.mark.parametrize(("name", "kind"), [("lars", Lars), ("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizers_by_name_take_the_groups_and_the_rate(name, kind: type) -> None:
    module = nn.Linear(3, 2)
    start = [parameter.detach().clone() for parameter in module.parameters()]
    optimizer = build_optimizer(name, module, weight_decay=0.5)
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert all(torch.equal(now, then) for now, then in zip(module.parameters(), start, strict=True))
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    optimizer.step()
    assert not any(torch.equal(now, then) for now, then in zip(module.parameters(), start, strict=True))


def test_options_reach_the_optimizers() -> None:
    module = nn.Linear(3, 2)
    lars = build_optimizer("lars", module, weight_decay=0, momentum=0.8, trust_coefficient=0.02).param_groups[0]
    assert (lars["momentum"], lars["trust_coefficient"]) == (0.8, 0.02)
    sgd = build_optimizer("sgd", module, weight_decay=0, momentum=0.8, nesterov=True).param_groups[0]
    assert (sgd["momentum"], sgd["nesterov"]) == (0.8, True)
    assert build_optimizer("adamw", module, weight_decay=0, momentum=0.8).param_groups[0]["betas"] == (
        0.8,
        0.999,
    )


def test_wrong_names_and_options_are_named() -> None:
    module = nn.Linear(3, 2)
    with pytest.raises(
        ValueError, match=r"unknown optimizer 'LARC': did you mean 'lars'\? \(one of lars, sgd, adamw\)"
    ):
        build_optimizer("LARC", module, weight_decay=0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="optimizer 'lars' has no nesterov momentum: use 'sgd'"):
        build_optimizer("lars", module, weight_decay=0, nesterov=True)
