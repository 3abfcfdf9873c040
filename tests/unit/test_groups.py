"""Which parameters are decayed and adapted, and the optimizers by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relic.models import ResNet, Twin
from relic.optim import Lars, build_optimizer, clip_gradients, parameter_groups, set_learning_rate


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


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_a_rate_that_is_a_tensor_is_filled_in_place(name) -> None:
    results = []
    for lr in (0.0, torch.zeros(())):
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        optimizer = build_optimizer(name, module, weight_decay=0.1, lr=lr)
        for rate in (0.5, torch.tensor(0.25)):
            set_learning_rate(optimizer, rate)
            assert not isinstance(lr, torch.Tensor) or all(group["lr"] is lr for group in optimizer.param_groups)
            module.zero_grad()
            module(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        results.append(module.weight.detach())
    torch.testing.assert_close(*results, rtol=1e-6, atol=0)
    assert torch.equal(torch.as_tensor(lr), torch.tensor(0.25))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_loss_scaler_that_is_off_leaves_fused_steps_alone(name) -> None:
    results = []
    for scaler in (None, torch.amp.GradScaler("cpu", enabled=False)):
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        optimizer = build_optimizer(name, module, weight_decay=0.1)
        set_learning_rate(optimizer, 0.5)
        module(torch.ones(1, 3)).sum().backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        results.append(module.weight.detach())
    assert torch.equal(*results)


def gradients(*values: list[float], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    parameters = [nn.Parameter(torch.zeros(len(value), dtype=dtype)) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value, dtype=dtype)
    return [*parameters, nn.Parameter(torch.ones(1))]  # the last one has no gradient


def test_gradients_are_clipped_to_the_global_norm() -> None:
    parameters = gradients([3.0, 0.0], [4.0])
    assert clip_gradients(parameters, None) == 5.0
    assert torch.equal(parameters[0].grad, torch.tensor([3.0, 0.0]))
    assert clip_gradients(parameters, 5.0) == 5.0
    assert clip_gradients(parameters, 10.0) == 5.0
    assert torch.equal(parameters[1].grad, torch.tensor([4.0]))
    assert clip_gradients(parameters, 1.0) == 5.0
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.8]))


def test_norms_are_float32_whatever_the_gradients_are() -> None:
    norm = clip_gradients([*gradients([300.0] * 4, dtype=torch.float16), *gradients([0.0])], None)
    assert (norm.dtype, norm.shape, norm.item()) == (torch.float32, (), 600.0)
    assert torch.isnan(clip_gradients(gradients([float("nan")]), 1.0))
    assert clip_gradients(gradients([0.0]), 1.0) == 0.0
    assert clip_gradients(gradients(), 1.0) == 0.0


def test_a_norm_to_clip_to_is_positive() -> None:
    with pytest.raises(ValueError, match=r"max_norm 0\.0 is not positive: give None to clip nothing"):
        clip_gradients([], 0.0)


def test_wrong_names_and_options_are_named() -> None:
    module = nn.Linear(3, 2)
    with pytest.raises(
        ValueError, match=r"unknown optimizer 'LARC': did you mean 'lars'\? \(one of lars, sgd, adamw\)"
    ):
        build_optimizer("LARC", module, weight_decay=0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="optimizer 'lars' has no nesterov momentum: use 'sgd'"):
        build_optimizer("lars", module, weight_decay=0, nesterov=True)
