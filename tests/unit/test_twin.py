"""What the target network averages and keeps, and what small views leave untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from relic.models import ResNet, Twin, frozen_running_statistics


def small_twin(**options) -> Twin:
    torch.manual_seed(0)
    backbone = ResNet(18, width=0.125, stem="cifar", zero_init_residual=False)
    return Twin(backbone, projector_hidden=16, predictor_hidden=12, projection_dim=8, **options)


def views(size: int = 16) -> torch.Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))


def move_online(twin: Twin) -> None:
    with torch.no_grad():
        for parameter in twin.online.parameters():
            parameter.add_(torch.randn_like(parameter))


def target_parameters(twin: Twin) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in twin.target.named_parameters()}


def buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_target_starts_as_a_copy_without_gradient_and_predictor() -> None:
    twin = small_twin()
    view = views()
    assert torch.equal(twin.target_forward(view), twin.online.projector(twin.online.backbone(view)))
    assert not twin.target_forward(view.requires_grad_()).requires_grad
    assert not any(parameter.requires_grad for parameter in twin.target.parameters())
    assert all(parameter.requires_grad for parameter in twin.online.parameters())
    assert twin.target.predictor is None
    storages = {parameter.data_ptr() for parameter in twin.online.parameters()}
    assert not storages & {parameter.data_ptr() for parameter in twin.target.parameters()}


def test_online_output_is_the_prediction_and_trains_every_online_parameter() -> None:
    twin = small_twin()
    output = twin.online_forward(views())
    assert output.shape == (4, 8)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in twin.online.parameters())
    assert all(parameter.grad is None for parameter in twin.target.parameters())


def test_without_predictor_projections_are_compared() -> None:
    twin = small_twin(predictor=False, head_layers=4)
    assert twin.online.predictor is None
    view = views()
    assert torch.equal(twin.online_forward(view), twin.target_forward(view))
    assert sum(isinstance(module, nn.Linear) for module in twin.online.projector) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_update_averages_every_parameter(dtype: torch.dtype) -> None:
    twin = small_twin().to(dtype)
    move_online(twin)
    before = target_parameters(twin)
    twin.update_target(0.75)
    online = dict(twin.online.named_parameters())
    for name, parameter in twin.target.named_parameters():
        expected = 0.75 * before[name].double() + 0.25 * online[name].detach().double()
        torch.testing.assert_close(parameter.double(), expected.to(dtype).double())
        assert not torch.equal(parameter, before[name]), name


def test_update_averages_mixed_types() -> None:
    twin = small_twin()
    twin.online.projector.to(torch.bfloat16)
    twin.target.projector.to(torch.bfloat16)
    move_online(twin)
    twin.update_target(0.0)
    online = dict(twin.online.named_parameters())
    assert all(torch.equal(parameter, online[name]) for name, parameter in twin.target.named_parameters())


def test_decay_one_keeps_the_target_and_zero_copies_the_online_network() -> None:
    twin = small_twin()
    move_online(twin)
    before = target_parameters(twin)
    twin.update_target(1.0)
    assert equal(target_parameters(twin), before)
    twin.update_target(0.0)
    online = dict(twin.online.named_parameters())
    assert all(torch.equal(parameter, online[name]) for name, parameter in twin.target.named_parameters())


def test_update_leaves_running_statistics_to_each_network() -> None:
    twin = small_twin()
    twin.online_forward(views())
    before = buffers(twin)
    twin.update_target(0.5)
    assert equal(buffers(twin), before)
    online, target = twin.online.backbone.bn1.running_mean, twin.target.backbone.bn1.running_mean
    assert not torch.equal(online, target)
    twin.target_forward(views())
    assert torch.equal(online, target)


def test_update_waits_for_no_device() -> None:
    # Tensors on "meta" have no values: whatever reads one on the host raises.
    with torch.device("meta"):
        small_twin().update_target(0.9)


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_decay_out_of_range_is_named(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"target decay {decay} is not in \[0, 1\]"):
        small_twin().update_target(decay)


def convert_to_sync(module: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(module)


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("wrap", [lambda module: module, convert_to_sync, compiled], ids=["plain", "sync", "compiled"])
def test_frozen_statistics_normalise_by_the_batch_and_leave_no_trace(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5), nn.BatchNorm1d(5)
    )
    network = wrap(network)
    network(views(8))
    before, expected = buffers(network), copy.deepcopy(network)(2 * views(8) + 1)
    with frozen_running_statistics(network):
        frozen = network(2 * views(8) + 1)
    assert torch.equal(frozen, expected)
    assert equal(buffers(network), before)
    network(views(8))
    assert not equal(buffers(network), before)


def test_frozen_statistics_survive_a_batch_that_is_not_finite() -> None:
    norm = nn.BatchNorm1d(2)
    with frozen_running_statistics(norm):
        norm(torch.full((3, 2), float("inf")))
    assert norm.running_mean is not None
    assert norm.running_mean.isfinite().all()


def test_frozen_statistics_end_with_the_context_even_after_an_error() -> None:
    norm, without = nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)
    both = nn.ModuleList([norm, without])
    with (
        pytest.raises(RuntimeError, match="stop"),
        frozen_running_statistics(both),
        frozen_running_statistics(both),
    ):
        raise RuntimeError("stop")
    assert norm.track_running_stats
    assert not without.track_running_stats


def test_frozen_statistics_are_used_in_evaluation() -> None:
    norm = nn.BatchNorm1d(2).eval()
    batch = torch.randn(3, 2) + 7
    expected = norm(batch)
    with frozen_running_statistics(norm):
        assert torch.equal(norm(batch), expected)
