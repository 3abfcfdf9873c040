"""The target's moving average: all dtypes, decays on the device, the bits of one parameter at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relic.models.twin import Network, Twin


def twin(online: torch.dtype, target: torch.dtype) -> Twin:
    """Return networks whose every parameter differs by 1 at least."""
    made = Twin.__new__(Twin)
    nn.Module.__init__(made)
    torch.manual_seed(0)
    made.online = Network(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(2, 2)).to(online)
    made.target = Network(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), None).to(target).requires_grad_(False)
    with torch.no_grad():
        for new, old in zip(averaged(made.online), averaged(made.target), strict=True):
            old.copy_(torch.rand_like(old))
            new.copy_(old + 1 + torch.rand_like(old))
    return made


def averaged(network: Network) -> list[torch.Tensor]:
    return [*network.backbone.parameters(), *network.projector.parameters()]


@pytest.mark.parametrize("online", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("number", [float, torch.tensor])
def test_every_parameter_of_every_dtype_moves(online: torch.dtype, target: torch.dtype, number) -> None:
    moved = twin(online, target)
    before = [parameter.clone() for parameter in averaged(moved.target)]
    moved.update_target(number(0.9))
    for old, now, new in zip(before, averaged(moved.target), averaged(moved.online), strict=True):
        assert now.dtype == target
        assert (now > old).all()
        torch.testing.assert_close(now.double(), 0.9 * old.double() + 0.1 * new.double(), rtol=2**-7, atol=0)


def test_a_float32_target_of_a_bf16_network_moves_by_small_steps() -> None:
    moved = twin(torch.bfloat16, torch.float32)
    before = [parameter.clone() for parameter in averaged(moved.target)]
    moved.update_target(0.9999)
    for old, now, new in zip(before, averaged(moved.target), averaged(moved.online), strict=True):
        torch.testing.assert_close(now - old, 1e-4 * (new.float() - old), rtol=5e-3, atol=0)


def test_the_bits_are_those_of_one_parameter_at_a_time() -> None:
    moved = twin(torch.float32, torch.float32)
    expected = [
        old.lerp(new, 1.0 - 0.996) for old, new in zip(averaged(moved.target), averaged(moved.online), strict=True)
    ]
    moved.update_target(0.996)
    assert all(torch.equal(*pair) for pair in zip(averaged(moved.target), expected, strict=True))


def test_a_decay_on_the_device_gives_the_bits_of_a_number() -> None:
    ours, theirs = twin(torch.float32, torch.float32), twin(torch.float32, torch.float32)
    ours.update_target(torch.tensor(0.99999, dtype=torch.float64))
    theirs.update_target(0.99999)
    assert all(torch.equal(*pair) for pair in zip(averaged(ours.target), averaged(theirs.target), strict=True))


def test_buffers_stay() -> None:
    moved = twin(torch.float32, torch.float32)
    norm = moved.online.projector
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean.fill_(3.0)
    moved.update_target(0.5)
    assert all((buffer != 3).all() for buffer in moved.target.buffers())
