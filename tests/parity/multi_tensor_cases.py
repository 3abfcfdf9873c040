"""The multi-tensor kernels against the references; run by test_multi_tensor.py in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from relic.kernels import multi_tensor
from relic.optim.reference import lars_

SHAPES = [(1,), (3, 5), (8192,), (2047,), (4, 3, 3, 3), (2, 3, 1, 1), (97, 170)]
SETTINGS = {"momentum": 0.9, "weight_decay": 0.01, "trust_coefficient": 0.5}
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2e-2}
"""Relative to the largest element."""


def tensors(seed: int, shapes=SHAPES, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return [one.contiguous(memory_format=torch.channels_last) if one.ndim == 4 else one for one in made]


def clones(given: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in given]


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], tolerance: float) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        difference = (mine.double() - other.double()).abs().max()
        scale = other.double().abs().max().clamp(min=1.0)  # the inputs are of size 1
        assert difference <= tolerance * scale, f"{tuple(mine.shape)}: {difference}"


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize(
    ("parameter", "gradient"),
    [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)],
)
def test_lars_equals_the_reference(adapt: bool, parameter: torch.dtype, gradient: torch.dtype) -> None:
    w, g, m = tensors(0, dtype=parameter), tensors(1, dtype=gradient), tensors(2, dtype=parameter)
    w[1].zero_()  # both norms may be 0, or one
    g[3].zero_()
    w[2].zero_()
    g[2].zero_()
    # In float32: the kernel rounds to bf16 once, where the reference would after each operation.
    expected_w, gradients, expected_m = ([tensor.float().clone() for tensor in given] for given in (w, g, m))
    for lr in (0.3, torch.tensor(0.7)):
        multi_tensor.lars_(w, g, m, lr=lr, adapt=adapt, **SETTINGS)
        for one in zip(expected_w, gradients, expected_m, strict=True):
            lars_(*one, lr=lr, adapt=adapt, **SETTINGS)
    assert_close(w, expected_w, TOLERANCE[parameter])
    assert_close(m, expected_m, TOLERANCE[parameter])


def test_gradients_of_another_layout_and_address_are_followed() -> None:
    w, m = tensors(0), tensors(2)
    expected_w, expected_m = clones(w), clones(m)
    for seed in range(3):
        g = [gradient.contiguous() for gradient in tensors(seed)]
        # One element off: no address is a multiple of 16 bytes.
        g = [torch.cat([torch.zeros(1), gradient.flatten()])[1:].view(gradient.shape) for gradient in g]
        multi_tensor.lars_(w, g, m, lr=0.1, adapt=True, **SETTINGS)
        for one in zip(expected_w, g, expected_m, strict=True):
            lars_(*one, lr=0.1, adapt=True, **SETTINGS)
    assert_close(w, expected_w, 1e-6)


def test_many_tensors_are_told_apart() -> None:
    shapes = [(1 + place % 7, 1 + place % 3) for place in range(60)]
    w, g, m = tensors(0, shapes), tensors(1, shapes), tensors(2, shapes)
    expected_w, expected_m = clones(w), clones(m)
    multi_tensor.lars_(w, g, m, lr=0.1, adapt=True, **SETTINGS)
    for one in zip(expected_w, g, expected_m, strict=True):
        lars_(*one, lr=0.1, adapt=True, **SETTINGS)
    assert_close(w, expected_w, 1e-6)
    assert_close(m, expected_m, 1e-6)


def test_norms_of_more_chunks_than_a_turn_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_tensor, "SUMS", 2)
    test_lars_equals_the_reference(True, torch.float32, torch.float32)


@pytest.mark.parametrize(("target", "online"), [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)])
@pytest.mark.parametrize("weight", [0.0, 0.004, 1.0])
def test_lerp_equals_that_of_torch(target: torch.dtype, online: torch.dtype, weight: float) -> None:
    old, new = tensors(0, dtype=target), tensors(1, dtype=online)
    for given in (weight, torch.tensor(weight, dtype=torch.float64)):
        moved = clones(old)
        multi_tensor.lerp_(moved, new, given)
        assert_close(moved, [a.lerp(b.to(target), weight) for a, b in zip(old, new, strict=True)], 1e-6)
        if weight in (0.0, 1.0):
            ends = old if weight == 0.0 else new
            assert all(torch.equal(mine, end.to(target)) for mine, end in zip(moved, ends, strict=True))


def test_the_bits_are_the_same_at_every_run() -> None:
    results = []
    for _ in range(2):
        w, g, m = tensors(0), tensors(1), tensors(2)
        multi_tensor.lars_(w, g, m, lr=0.1, adapt=True, **SETTINGS)
        results.append(w)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
