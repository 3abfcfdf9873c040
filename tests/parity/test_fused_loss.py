"""The fused loss against the reference in float64 on hard outputs, and what the reference does not promise."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from relic.kernels import relic_loss as kernels
from relic.losses import RelicLoss, all_negatives, draw_negatives, fused, reference_loss, sampled_negatives
from relic.losses.relic import NORM_FLOOR

WEIGHTS: dict[str, Any] = {"temperature": 0.2, "contrastive_weight": 0.3, "invariance_weight": 5.0}
SIZES = [(6, 4, 33, 129, 10), (3, 2, 17, 5, 16), (1, 1, 2, 1, 1), (5, 7, 9, 31, 3), (2, 2, 64, 256, 1)]
"""Online and target views, images, features, negatives."""
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
FAMILIES = ["random", "aligned", "identical", "opposite", "zero images", "zero", "tiny", "duplicates"]


def outputs_of(
    family: str, sizes: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Return online and target outputs and negatives of one of FAMILIES."""
    num_online, num_target, num_images, features, num_negatives = sizes
    generator = torch.Generator().manual_seed(3)
    online = torch.randn(num_online, num_images, features, generator=generator, dtype=torch.float64)
    target = torch.randn(num_target, num_images, features, generator=generator, dtype=torch.float64)
    negatives = torch.from_numpy(draw_negatives(num_images, num_negatives, seed=1, step=2))
    if family == "aligned":
        target[:] = online[0] + 0.01 * target
    elif family == "identical":
        online[:], target[:] = online[0, 0], online[0, 0]
    elif family == "opposite":
        target[:] = -3 * online[0]
    elif family == "zero images":
        online[:, ::2], target[-1, 1::3] = 0, 0
    elif family == "zero":
        online[:], target[:] = 0, 0
    elif family == "tiny":
        online *= NORM_FLOOR / 100
    elif family == "duplicates":
        negatives[:] = negatives[:, :1]
    return online.to(dtype), target.to(dtype), negatives


def evaluated(
    function: Callable[..., RelicLoss], online: Tensor, *rest: Tensor | None, **options
) -> tuple[Tensor, Tensor]:
    """Return the three values, and the gradient of the total in float64 with respect to unit vectors.

    Outputs of length 1e-6 have gradients a million times larger than those of length 1, which would hide behind them.
    """
    leaf = online.clone().requires_grad_()
    loss = function(leaf, *rest, **WEIGHTS, **options)
    (gradient,) = torch.autograd.grad(loss.total, leaf)
    assert gradient.dtype == online.dtype
    return torch.stack(loss).detach().double(), gradient.double() * lengths(online)


def lengths(online: Tensor) -> Tensor:
    return online.double().norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)


def assert_agree(mine: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor], tolerance: float) -> None:
    torch.testing.assert_close(mine[0], truth[0], rtol=tolerance, atol=tolerance)
    # Cancelling gradients are held to what they are made of: a unit vector takes at most about 1 / images.
    scale = max(truth[1].abs().max().item(), 1e-2 / truth[1].shape[1])
    assert (mine[1] - truth[1]).abs().max().item() <= tolerance * scale


@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "all others"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_values_and_gradients_are_the_references(sizes: tuple[int, ...], family: str, is_listed: bool) -> None:
    for dtype, tolerance in TOLERANCES.items():
        online, target, negatives = outputs_of(family, sizes, dtype)
        listed = negatives if is_listed else None
        truth = evaluated(reference_loss, online.double(), target.double(), listed)
        assert_agree(evaluated(fused.relic_loss, online, target, listed), truth, tolerance)
        if dtype == torch.float32:
            assert_agree(evaluated(reference_loss, online, target, listed), truth, tolerance)


@pytest.mark.parametrize("num_negatives", range(8))
def test_any_number_of_negatives_and_any_anchors(num_negatives: int) -> None:
    online, target, negatives = outputs_of("random", (3, 2, 8, 6, 7))
    negatives = negatives[:, :num_negatives]
    for anchors in (range(8), range(3, 8), range(2, 3)):
        rows = negatives[anchors.start : anchors.stop]
        truth = evaluated(reference_loss, online, target, rows, anchors=anchors)
        assert_agree(evaluated(fused.relic_loss, online, target, rows, anchors=anchors), truth, 1e-12)


@pytest.mark.parametrize("block", [1, 40, 100, 150, 10**6])
def test_blocks_of_any_size_give_one_result(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    online, target, _ = outputs_of("random", (5, 2, 7, 6, 1))
    monkeypatch.setattr(all_negatives, "CPU_BLOCK", block)
    for anchors in (range(7), range(2, 6)):
        truth = evaluated(reference_loss, online, target, None, anchors=anchors)
        assert_agree(evaluated(fused.relic_loss, online, target, None, anchors=anchors), truth, 1e-12)


def test_outputs_need_not_be_contiguous() -> None:
    online, target, negatives = outputs_of("random", (3, 2, 8, 6, 4))
    apart = (online.permute(2, 0, 1).contiguous().permute(1, 2, 0), target[:, :, ::2].repeat_interleave(2, -1))
    rows = negatives.T.contiguous().T
    for listed in (rows, None):
        truth = evaluated(reference_loss, apart[0], apart[1].contiguous(), listed)
        assert_agree(evaluated(fused.relic_loss, *apart, listed), truth, 1e-12)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(threads: Callable[[int], None], dtype: torch.dtype) -> None:
    inputs = outputs_of("random", (6, 4, 301, 129, 10), dtype)
    results = []
    for number in (1, 2, 5, 1):
        threads(number)
        results.append(evaluated(fused.relic_loss, *inputs))
    for values, gradient in results[1:]:
        assert torch.equal(values, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_a_float16_gradient_meets_its_loss_scale_before_it_is_rounded() -> None:
    online, target, negatives = outputs_of("random", (6, 4, 33, 129, 10), torch.float16)
    online = 500 * online  # gradients of 1e-8, where float16 ends
    (truth,) = torch.autograd.grad(
        reference_loss(wide := online.double().requires_grad_(), target.double(), negatives, **WEIGHTS).total, wide
    )
    loss = fused.relic_loss(online.requires_grad_(), target, negatives, **WEIGHTS)
    (scaled,) = torch.autograd.grad(loss.total * 2**14, online)
    assert (scaled.double() / 2**14 - truth).abs().max() <= 2e-3 * truth.abs().max()


def test_backward_twice_and_through_what_follows() -> None:
    online, target, negatives = outputs_of("random", (3, 2, 8, 6, 4))
    leaf = online.requires_grad_()
    total = fused.relic_loss(leaf, target, negatives, **WEIGHTS).total
    (once,) = torch.autograd.grad(total, leaf, retain_graph=True)
    (twice,) = torch.autograd.grad(-3 * total, leaf)
    torch.testing.assert_close(twice, -3 * once)


def test_what_runs_on_a_device_reads_none_of_its_values() -> None:
    real = outputs_of("random", (3, 2, 8, 6, 4))
    with FakeTensorMode() as mode:
        online, target, negatives = (mode.from_tensor(tensor) for tensor in real)
        terms, gradient = all_negatives.loss_and_gradient(online, target, range(1, 5), **WEIGHTS, with_gradient=True)
        offsets, entries = kernels.named_by(negatives, 8)
    assert gradient is not None
    assert [list(tensor.shape) for tensor in (terms, gradient, offsets, entries)] == [[2], [3, 8, 6], [9], [32]]


@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "all others"])
def test_no_gradient_is_computed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch, is_listed: bool) -> None:
    online, target, negatives = outputs_of("random", (3, 2, 8, 6, 4))
    module = sampled_negatives if is_listed else all_negatives
    original, wanted = module.loss_and_gradient, []

    def spy(*arguments, **options):
        wanted.append(options["with_gradient"])
        return original(*arguments, **options)

    monkeypatch.setattr(module, "loss_and_gradient", spy)
    listed = negatives if is_listed else None
    without = fused.relic_loss(online, target.requires_grad_(), listed, **WEIGHTS)
    assert not without.total.requires_grad
    online.requires_grad_()
    with torch.no_grad():
        fused.relic_loss(online, target, listed, **WEIGHTS)
    with_gradient = fused.relic_loss(online, target, listed, **WEIGHTS)
    assert wanted == [False, False, True]
    assert torch.equal(torch.stack(without), torch.stack(with_gradient).detach())


def test_memory_with_negatives_has_no_square_of_the_batch() -> None:
    num_images = 1024
    online, target, negatives = outputs_of("random", (6, 4, num_images, 4, 10), torch.float32)
    leaf = online.requires_grad_()
    fused.relic_loss(leaf, target, negatives, **WEIGHTS)  # compiles
    tracemalloc.start()
    fused.relic_loss(leaf, target, negatives, **WEIGHTS).total.backward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * num_images * num_images  # one pair's logits; the reference holds those of 24


class LargestTensor(TorchFunctionMode):
    """Notes the elements of the largest result."""

    elements = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_memory_with_all_others_has_no_square_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_negatives, "CPU_BLOCK", 2000)
    online, target, _ = outputs_of("random", (6, 4, 200, 3, 1))
    with LargestTensor() as largest:
        all_negatives.loss_and_gradient(online, target, range(200), **WEIGHTS, with_gradient=True)
    assert online.numel() <= largest.elements <= max(2000, online.numel())


def test_a_negative_that_is_no_image_is_refused() -> None:
    online, target, negatives = outputs_of("random", (3, 2, 8, 6, 4))
    for wrong in (-1, 8):
        negatives[3, 1] = wrong
        with pytest.raises(IndexError, match="are not all among the 8 images"):
            fused.relic_loss(online, target, negatives, **WEIGHTS)


@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "all others"])
def test_the_compiler_sees_one_operation(is_listed: bool) -> None:
    online, target, negatives = outputs_of("random", (3, 2, 8, 6, 4), torch.float32)
    listed = negatives if is_listed else None
    compiled = torch.compile(fused.relic_loss, fullgraph=True, backend="aot_eager")
    plain, through = evaluated(fused.relic_loss, online, target, listed), evaluated(compiled, online, target, listed)
    assert torch.equal(plain[0], through[0])
    assert torch.equal(plain[1], through[1])
    inputs = (online.requires_grad_(), target, listed, 0, 8, *WEIGHTS.values())
    # Its own test of dynamic shapes reads the gradient of a tensor that is no leaf, and warns.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for with_gradient in (True, False):
        torch.library.opcheck(fused.loss_and_gradient, (*inputs, with_gradient), test_utils=checks)


def test_where_the_kernel_is_missing_the_reference_runs_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fused, "HAS_TRITON", True)
    assert fused.has_kernel("cuda", torch.bfloat16)
    assert not fused.has_kernel("cuda", torch.float64)
    assert "no fused loss for torch.float64 on cuda" in capsys.readouterr().err
    monkeypatch.setattr(fused, "HAS_TRITON", False)
    fused.say_missing.cache_clear()
    assert [fused.has_kernel(device, torch.bfloat16) for device in ("cuda", "cuda", "cpu")] == [False, False, True]
    fused.say_missing.cache_clear()
    assert capsys.readouterr().err == (
        "relic: no fused loss for torch.bfloat16 on cuda, the slower reference takes its place: install triton\n"
    )
    inputs = outputs_of("random", (3, 2, 8, 6, 4), torch.float32)
    monkeypatch.setattr(fused, "has_kernel", lambda *_: False)
    taken, truth = evaluated(fused.relic_loss, *inputs), evaluated(reference_loss, *inputs)
    assert torch.equal(taken[1], truth[1])
