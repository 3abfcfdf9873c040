"""Reference and fused loss against a float64 transcription of equations 1-4, and against faults seen in public code."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from relic.losses import RelicLoss, draw_negatives, fused, reference_loss

TEMPERATURE, CONTRASTIVE_WEIGHT, INVARIANCE_WEIGHT = 0.2, 0.3, 5.0
WEIGHTS = {
    "temperature": TEMPERATURE,
    "contrastive_weight": CONTRASTIVE_WEIGHT,
    "invariance_weight": INVARIANCE_WEIGHT,
}
FAULTS = [
    "skips a = b",
    "other candidates for q",
    "reversed KL",
    "KL of softmaxed inputs",
    "bfloat16 logits",
    "gradient through target",
    "no stop-gradient in eq. 4",
    "stop-gradient on p in all of eq. 4",
    "swapped roles",
    "not normalised",
]


def transcription(online: Tensor, target: Tensor, negatives: Tensor, fault: str | None = None) -> list[Tensor]:
    """Equations 1-4 one image and one candidate at a time; `fault` does one thing wrong on purpose."""

    def unit(vector: Tensor) -> Tensor:
        return vector if fault == "not normalised" else vector / vector.square().sum().sqrt()

    def softmax_over(anchor: Tensor, others: list[Tensor]) -> Tensor:
        logits = torch.stack([(anchor * other).sum() / TEMPERATURE for other in others])
        if fault == "bfloat16 logits":
            logits = logits.bfloat16().to(anchor.dtype)
        return logits.exp() / logits.exp().sum()

    num_images = online.shape[1]
    contrastive, invariance = [], []
    for a in range(len(online)):
        for b in range(len(target)):
            if fault == "skips a = b" and a == b:
                continue
            o = [unit(online[a, i]) for i in range(num_images)]
            t = [unit(target[b, i]) for i in range(num_images)]
            if fault != "gradient through target":
                t = [vector.detach() for vector in t]
            for i in range(num_images):
                candidates = [i, *negatives[i].tolist()]
                p = softmax_over(o[i], [t[k] for k in candidates])
                q = softmax_over(t[i], [o[k] for k in candidates])
                if fault == "other candidates for q":
                    q = softmax_over(t[i], [o[k] for k in [i, *negatives[i - 1].tolist()]])
                if fault == "swapped roles":
                    q = softmax_over(unit(target[a, i]).detach(), [unit(online[b, k]) for k in candidates])
                contrastive.append(-p[0].log())
                entropy = (p * p.log()).sum()
                if fault != "no stop-gradient in eq. 4":
                    entropy = entropy.detach()
                divergence = entropy - ((p.detach() if fault and "on p" in fault else p) * q.log()).sum()
                if fault == "reversed KL":
                    divergence = (q * q.log()).sum().detach() - (q * p.log()).sum()
                if fault == "KL of softmaxed inputs":
                    divergence = entropy - (p * q.log_softmax(0)).sum()
                invariance.append(divergence)
    parts = torch.stack(contrastive).mean(), torch.stack(invariance).mean()
    return [CONTRASTIVE_WEIGHT * parts[0] + INVARIANCE_WEIGHT * parts[1], *parts]


@pytest.fixture(scope="module", params=[reference_loss, fused.relic_loss], ids=["reference", "fused"])
def relic_loss(request: pytest.FixtureRequest) -> Callable[..., RelicLoss]:
    return request.param


class Outcome(NamedTuple):
    values: Tensor
    online_gradient: Tensor
    target_gradient: Tensor

    def agrees(self, other: Outcome, tolerance: float) -> bool:
        return all(
            torch.allclose(mine.double(), others.double(), rtol=tolerance, atol=tolerance)
            for mine, others in zip(self, other, strict=True)
        )


def outcome(function, online: Tensor, target: Tensor, negatives: Tensor, *rest, **options) -> Outcome:
    leaves = [online.clone().requires_grad_(), target.clone().requires_grad_()]
    total, contrastive, invariance = function(*leaves, negatives, *rest, **options)
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return Outcome(torch.stack([total, contrastive, invariance]).detach(), *gradients)


def outputs(num_online: int = 3, num_target: int = 2, *, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    num_images, features = 5, 4
    shapes = (num_online, num_images, features), (num_target, num_images, features)
    online, target = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return [online, target, torch.from_numpy(draw_negatives(num_images, 3, seed=1, step=2))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_values_and_gradients_follow_equations_1_to_4(relic_loss, dtype: torch.dtype, tolerance: float) -> None:
    online, target, negatives = outputs(dtype=dtype)
    ours = outcome(relic_loss, online, target, negatives, **WEIGHTS)
    theirs = outcome(transcription, online.double(), target.double(), negatives)
    assert ours.values.dtype == dtype
    assert ours.agrees(theirs, tolerance)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_rejects_each_known_fault(relic_loss, fault: str) -> None:
    online, target, negatives = outputs(2 if fault == "swapped roles" else 3, 2)
    ours = outcome(relic_loss, online, target, negatives, **WEIGHTS)
    assert ours.agrees(outcome(transcription, online, target, negatives), 1e-12)
    assert not ours.agrees(outcome(transcription, online, target, negatives, fault), 1e-5)


def test_gradient_is_the_derivative_of_the_value_where_nothing_is_stopped(relic_loss) -> None:
    online, target, negatives = outputs()
    only_contrastive = {**WEIGHTS, "invariance_weight": 0.0}
    torch.autograd.gradcheck(
        lambda x: relic_loss(x, target, negatives, **only_contrastive).total, online.clone().requires_grad_()
    )


def orthonormal(rows: int, features: int, first: int = 0) -> Tensor:
    return torch.eye(features)[first : first + rows][None]


def test_unrelated_outputs_give_the_log_of_the_number_of_candidates(relic_loss) -> None:
    negatives = torch.from_numpy(draw_negatives(16, 10, seed=0, step=0))
    loss = relic_loss(orthonormal(16, 32), orthonormal(16, 32, first=16), negatives, **WEIGHTS)
    assert loss.contrastive.item() == pytest.approx(math.log(11), abs=1e-6)
    assert loss.contrastive.item() == pytest.approx(2.398, abs=5e-4)
    assert loss.invariance.item() == pytest.approx(0, abs=1e-6)


def test_aligned_positives_against_orthogonal_negatives(relic_loss) -> None:
    negatives = torch.from_numpy(draw_negatives(16, 10, seed=0, step=0))
    loss = relic_loss(orthonormal(16, 32), 3 * orthonormal(16, 32), negatives, **WEIGHTS)
    assert loss.contrastive.item() == pytest.approx(-math.log(math.exp(5) / (math.exp(5) + 10)), abs=1e-6)
    assert loss.contrastive.item() == pytest.approx(0.065, abs=5e-4)
    assert loss.invariance.item() == pytest.approx(0, abs=1e-6)


def test_all_other_images_as_negatives_is_cross_entropy_over_the_batch(relic_loss) -> None:
    online, target, _ = outputs(1, 1)
    logits = F.normalize(online[0], dim=-1) @ F.normalize(target[0], dim=-1).T / TEMPERATURE
    loss = relic_loss(online, target, None, **WEIGHTS)
    torch.testing.assert_close(loss.contrastive, F.cross_entropy(logits, torch.arange(5)))
    divergence = F.kl_div(logits.T.log_softmax(-1), logits.softmax(-1), reduction="batchmean")
    torch.testing.assert_close(loss.invariance, divergence)


def test_none_stands_for_all_other_images_in_any_order(relic_loss) -> None:
    online, target, _ = outputs()
    others = torch.tensor([[4, 1, 2, 3], [0, 2, 3, 4], [3, 0, 1, 4], [0, 1, 2, 4], [0, 1, 2, 3]])
    listed = outcome(relic_loss, online, target, others, **WEIGHTS)
    assert outcome(relic_loss, online, target, None, **WEIGHTS).agrees(listed, 1e-12)
    part = outcome(relic_loss, online, target, others[1:3], **WEIGHTS, anchors=range(1, 3))
    assert outcome(relic_loss, online, target, None, **WEIGHTS, anchors=range(1, 3)).agrees(part, 1e-12)
    assert not part.agrees(listed, 1e-3)


@pytest.mark.parametrize("is_listed", [True, False])
def test_the_loss_is_the_mean_of_its_anchors_losses(relic_loss, is_listed: bool) -> None:
    online, target, negatives = outputs()
    parts = []
    for anchors in (range(0, 2), range(2, 5)):
        rows = negatives[anchors.start : anchors.stop] if is_listed else None
        part = outcome(relic_loss, online, target, rows, **WEIGHTS, anchors=anchors)
        parts.append(Outcome(*(len(anchors) / 5 * tensor for tensor in part)))
    total = Outcome(*map(torch.add, *parts))
    assert outcome(relic_loss, online, target, negatives if is_listed else None, **WEIGHTS).agrees(total, 1e-12)
    outside = parts[0].online_gradient[:, 2:]
    assert outside.abs().max() > 0  # candidates that are no anchors


def test_only_the_total_carries_a_gradient(relic_loss) -> None:
    online, target, negatives = outputs()
    loss = relic_loss(online.requires_grad_(), target.requires_grad_(), negatives, **WEIGHTS)
    assert [part.requires_grad for part in loss] == [True, False, False]
    with torch.no_grad():
        assert not relic_loss(online, target, negatives, **WEIGHTS).total.requires_grad


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32 - 1))
def test_neither_scale_nor_order_of_images_matters(relic_loss, scale: float, seed: int) -> None:
    online, target, negatives = outputs()
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    moved = order.argsort()[negatives[order]]
    before = relic_loss(online, target, negatives, **WEIGHTS)
    after = relic_loss(scale * online[:, order], target[:, order] / scale, moved, **WEIGHTS)
    torch.testing.assert_close(torch.stack(after), torch.stack(before))
    assert after.invariance > 0


def test_autocast_changes_no_bit(relic_loss) -> None:
    online, target, negatives = outputs(dtype=torch.float32)

    def under_autocast(*arguments: Tensor) -> RelicLoss:
        with torch.autocast("cpu", torch.bfloat16):
            return relic_loss(*arguments, **WEIGHTS)

    plain = outcome(relic_loss, online, target, negatives, **WEIGHTS)
    mixed = outcome(under_autocast, online, target, negatives)
    assert all(torch.equal(mine, others) for mine, others in zip(plain, mixed, strict=True))


def test_bfloat16_outputs_are_computed_in_float32(relic_loss) -> None:
    online, target, negatives = outputs(dtype=torch.bfloat16)
    loss = relic_loss(online, target, negatives, **WEIGHTS)
    wide = relic_loss(online.float(), target.float(), negatives, **WEIGHTS)
    assert loss.total.dtype == torch.float32
    assert torch.equal(loss.total, wide.total)


@pytest.mark.parametrize("zeroed", ["all", "one image"])
def test_zero_vectors_give_finite_values_and_gradients(relic_loss, zeroed: str) -> None:
    online, target, negatives = outputs(dtype=torch.float32)
    where = slice(None) if zeroed == "all" else 2
    online[:, where], target[:, where] = 0, 0
    result = outcome(relic_loss, online, target, negatives, **WEIGHTS)
    assert all(part.isfinite().all() for part in result)
    assert result.online_gradient.abs().max() < 1e8
    if zeroed == "all":
        torch.testing.assert_close(result.values[1:], torch.tensor([math.log(4), 0.0]))


def test_nothing_waits_for_the_device(relic_loss) -> None:
    real = outputs()
    # Fake tensors have no values: whatever reads one on the host raises.
    with FakeTensorMode() as mode:
        online, target, negatives = (mode.from_tensor(tensor) for tensor in real)
        relic_loss(online.requires_grad_(), target, negatives, **WEIGHTS).total.backward()
        assert online.grad is not None
        with pytest.raises(DataDependentOutputException):
            online.sum().item()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"online": torch.zeros(5, 4)}, "online [5, 4] and target [2, 5, 4]"),
        ({"target": torch.zeros(2, 6, 4)}, "same images and features"),
        ({"target": torch.zeros(2, 5, 3)}, "same images and features"),
        ({"negatives": torch.zeros(4, 3, dtype=torch.int64)}, "negatives [4, 3] must be [images=5, n]"),
        ({"negatives": torch.zeros(5, dtype=torch.int64)}, "negatives [5] must be"),
        ({"negatives": torch.zeros(5, 3)}, "negatives are torch.float32"),
        ({"online": torch.zeros(3, 5, 4, dtype=torch.int64)}, "online is torch.int64"),
        ({"target": torch.zeros(0, 5, 4)}, "target [0, 5, 4]"),
        ({"negatives": torch.zeros(5, 3, dtype=torch.int64, device="meta")}, "lie on cpu and meta"),
        ({"temperature": 0.0}, "temperature 0.0 must be positive"),
        ({"anchors": range(4)}, "negatives [5, 3] must be [images=4, n], a row per anchor"),
        ({"anchors": range(0)}, "anchors range(0, 0) must be"),
        ({"anchors": range(1, 6)}, "within the 5 images"),
        ({"anchors": range(0, 4, 2)}, "step 1"),
    ],
)
def test_inputs_that_do_not_fit_are_named(relic_loss, change: dict, message: str) -> None:
    online, target, negatives = outputs()
    arguments = {"online": online, "target": target, "negatives": negatives, **WEIGHTS, **change}
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        relic_loss(**arguments)
    assert "\n" not in str(raised.value)
