"""LARS against a float64 transcription of the official form, two forms it is mistaken for, and its own reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from relic.optim import Lars
from relic.optim.foreach import BLOCK_BYTES
from relic.optim.reference import lars_

MOMENTUM, DECAY, TRUST = 0.9, 0.01, 1e-3
RATES = [0.5, 1.0, 3.0, 0.2, 0.0, 0.7]


def transcription(w: np.ndarray, gradients: list[np.ndarray], *, adapt: bool, decay: float, form: str) -> np.ndarray:
    m = np.zeros_like(w)
    for g, lr in zip(gradients, RATES, strict=True):
        norm_w, norm_g = np.linalg.norm(w), np.linalg.norm(g)
        g = g + decay * w
        norm = np.linalg.norm(g) if form != "apex" else norm_g + decay * norm_w
        g = g * (TRUST * norm_w / norm if adapt and norm_w > 0 and norm > 0 else 1.0)
        m = MOMENTUM * m + (lr * g if form == "lr inside the buffer" else g)
        w = w - (m if form == "lr inside the buffer" else lr * m)
    return w


def trajectory(
    w: np.ndarray, gradients: list[np.ndarray], *, adapt: bool, decay: float, dtype: torch.dtype
) -> np.ndarray:
    parameter = torch.nn.Parameter(torch.tensor(w, dtype=dtype))
    group = {"params": [parameter], "adapt": adapt, "weight_decay": decay}
    optimizer = Lars([group], momentum=MOMENTUM, trust_coefficient=TRUST)
    for g, lr in zip(gradients, RATES, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = torch.tensor(g, dtype=dtype)
        optimizer.step()
    return parameter.detach().double().numpy()


def problem(start: str = "random") -> tuple[np.ndarray, list[np.ndarray]]:
    generator = np.random.default_rng(3)
    w = np.zeros((6, 5)) if start == "zero" else generator.normal(size=(6, 5))
    gradients = [0.02 * generator.normal(size=(6, 5)) for _ in RATES]
    if start == "no gradient":
        gradients = [np.zeros((6, 5)) for _ in RATES]
    return w, gradients


@pytest.mark.parametrize("start", ["random", "zero", "no gradient"])
@pytest.mark.parametrize(("adapt", "decay"), [(True, DECAY), (True, 0.0), (False, 0.0), (False, DECAY)])
def test_updates_follow_the_official_form(start: str, adapt: bool, decay: float) -> None:
    w, gradients = problem(start)
    expected = transcription(w, gradients, adapt=adapt, decay=decay, form="official")
    exact = trajectory(w, gradients, adapt=adapt, decay=decay, dtype=torch.float64)
    single = trajectory(w, gradients, adapt=adapt, decay=decay, dtype=torch.float32)
    np.testing.assert_allclose(exact, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["apex", "lr inside the buffer"])
def test_the_comparison_rejects_other_forms(form: str) -> None:
    w, gradients = problem()
    ours = trajectory(w, gradients, adapt=True, decay=DECAY, dtype=torch.float64)
    np.testing.assert_allclose(ours, transcription(w, gradients, adapt=True, decay=DECAY, form="official"), rtol=1e-12)
    wrong = transcription(w, gradients, adapt=True, decay=DECAY, form=form)
    assert np.abs(ours - wrong).max() > 1e-6


def network(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """Return parameters of odd sizes and layouts, two larger than a block, one of 0, and one without gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (BLOCK_BYTES // 4, 1),
        (1,),
        (7, 5, 3, 3),
        (9, 4, 1, 1),
        (130, 1000),
        (BLOCK_BYTES // 4 + 3,),
        (3, 5),
        (2, 2),
    ]
    values = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    values[2] = values[2].to(memory_format=torch.channels_last)
    values[6].zero_()
    parameters = [torch.nn.Parameter(value) for value in values]
    for place, parameter in enumerate(parameters[:-1]):
        noise = torch.randn(parameter.shape, generator=generator).to(dtype)
        parameter.grad = torch.zeros_like(parameter) if place == 3 else torch.zeros_like(parameter).copy_(noise)
    return parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rate", [float, torch.tensor])
@pytest.mark.parametrize(("adapt", "decay"), [(True, 0.01), (True, 0.0), (False, 0.0), (False, 0.01)])
def test_all_parameters_at_once_get_the_bits_of_one_by_one(dtype, rate, adapt: bool, decay: float) -> None:
    ours, theirs = network(dtype), network(dtype)
    optimizer = Lars(ours, weight_decay=decay, adapt=adapt)
    buffers = [torch.zeros_like(parameter) for parameter in theirs]
    settings = {"momentum": 0.9, "weight_decay": decay, "trust_coefficient": 1e-3, "adapt": adapt}
    for value in (0.5, 30.0, 0.0, 0.7):
        optimizer.param_groups[0]["lr"] = rate(value)
        optimizer.step()
        for parameter, buffer in zip(theirs, buffers, strict=True):
            if parameter.grad is not None:
                lars_(parameter.detach(), parameter.grad, buffer, lr=rate(value), **settings)
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    for parameter, buffer in zip(ours[:-1], buffers, strict=False):
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], buffer)
    assert ours[-1] not in optimizer.state


def test_one_group_may_hold_several_dtypes() -> None:
    ours, theirs = ([*network(torch.bfloat16)[:3], *network(torch.float32)[1:3]] for _ in range(2))
    Lars(ours, lr=1.0, weight_decay=0.1).step()
    settings = {"momentum": 0.9, "weight_decay": 0.1, "trust_coefficient": 1e-3, "adapt": True}
    for parameter in theirs:
        assert parameter.grad is not None
        lars_(parameter.detach(), parameter.grad, torch.zeros_like(parameter), lr=1.0, **settings)
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
