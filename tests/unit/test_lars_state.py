"""LARS as an optimizer of torch: saved state, types, skipped parameters, no wait for the device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from relic.optim import Lars, build_optimizer, clip_gradients, set_learning_rate
from relic.optim.foreach import trust_ratios


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        set_learning_rate(optimizer, 0.1 + step)
        optimizer.zero_grad()
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        module(inputs).square().mean().backward()
        optimizer.step()


def test_a_saved_state_continues_with_the_same_bits(tmp_path) -> None:
    torch.manual_seed(0)
    straight = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    resumed = copy.deepcopy(straight)
    optimizer = build_optimizer("lars", straight, weight_decay=0.1)
    train(straight, optimizer, range(6))

    first = build_optimizer("lars", resumed, weight_decay=0.1)
    train(resumed, first, range(3))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = build_optimizer("lars", resumed, weight_decay=0.7, momentum=0.5)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(resumed, second, range(3, 6))
    assert all(
        torch.equal(mine, other) for mine, other in zip(straight.parameters(), resumed.parameters(), strict=True)
    )


def test_parameters_without_gradient_stay() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Lars([used, unused], lr=1.0, weight_decay=0.1)
    used.sum().backward()
    optimizer.step()
    assert torch.equal(unused, torch.ones(2, 2))
    assert unused not in optimizer.state
    assert not torch.equal(used, torch.ones(2, 2))


def test_the_gradient_itself_is_not_changed() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.full((2, 2), 3.0)
    Lars([parameter], lr=1.0, weight_decay=0.1).step()
    assert torch.equal(parameter.grad, torch.full((2, 2), 3.0))


def test_bfloat16_norms_are_computed_in_float32() -> None:
    parameter = torch.ones(1, 3, dtype=torch.bfloat16)
    (ratio,) = trust_ratios([parameter], [torch.tensor([[4.0, 0.0, 0.0]], dtype=torch.bfloat16)], 1.0)
    assert ratio.dtype == torch.float32
    assert ratio.item() == pytest.approx(3**0.5 / 4, rel=1e-6)


def test_bfloat16_parameters_are_updated() -> None:
    parameter = nn.Parameter(torch.ones(256, 256, dtype=torch.bfloat16))
    parameter.grad = torch.full_like(parameter, 2.0)
    Lars([parameter], lr=1.0, trust_coefficient=0.5).step()
    assert torch.equal(parameter, torch.full_like(parameter, 0.5))


def test_a_closure_is_evaluated_with_gradients() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = Lars([parameter], lr=1.0)

    def closure() -> float:
        loss = parameter.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert not torch.equal(parameter, torch.ones(2, 2))


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_a_step_waits_for_no_device(name) -> None:
    # Fake tensors have no values: whatever reads one on the host raises.
    with FakeTensorMode():
        module = nn.Linear(3, 2)
        # torch's own look at a rate when they are built, once.
        optimizer = build_optimizer(name, module, weight_decay=0.1, lr=torch.zeros(()) if name == "lars" else 0.0)
        for rate in (1.0, 0.5):
            set_learning_rate(optimizer, rate)
            module(torch.ones(4, 3)).sum().backward()
            clip_gradients(module.parameters(), 1.0)
            optimizer.step()


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_buffers_saved_in_another_memory_format_are_put_in_order(name) -> None:
    def steps(saved: dict | None, memory_format: torch.memory_format, count: int) -> tuple[nn.Module, dict]:
        torch.manual_seed(0)
        module = nn.Conv2d(3, 4, 3).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
        optimizer = build_optimizer(name, module, weight_decay=0.1)
        if saved is not None:
            optimizer.load_state_dict(copy.deepcopy(saved))
        set_learning_rate(optimizer, 0.1)
        for _ in range(count):
            for parameter in module.parameters():
                # Plain memory, as a gradient set by hand may have; autograd's has the parameter's layout.
                parameter.grad = torch.arange(parameter.numel(), dtype=torch.float32).view(parameter.shape).sin()
            optimizer.step()
        return module, optimizer.state_dict()

    _, saved = steps(None, torch.contiguous_format, 2)
    expected, _ = steps(saved, torch.contiguous_format, 1)
    module, _ = steps(saved, torch.channels_last, 1)
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    for mine, other in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_a_copied_optimizer_steps_like_the_original() -> None:
    module = nn.Linear(3, 2)
    optimizer = build_optimizer("lars", module, weight_decay=0.1)
    train(module, optimizer, range(2))
    copied_module, copied = copy.deepcopy((module, optimizer))
    train(module, optimizer, range(2, 4))
    train(copied_module, copied, range(2, 4))
    assert all(torch.equal(*pair) for pair in zip(module.parameters(), copied_module.parameters(), strict=True))


@pytest.mark.parametrize("setting", ["lr", "momentum", "weight_decay", "trust_coefficient"])
def test_negative_settings_are_named(setting: str) -> None:
    with pytest.raises(ValueError, match=f"LARS {setting}=-1 is negative: use 0 or more"):
        Lars([nn.Parameter(torch.ones(1))], **{setting: -1})
