"""LARS against a float64 transcription of the official form, and against two forms it is mistaken for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from relic.optim import Lars

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
