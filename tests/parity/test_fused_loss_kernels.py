"""The Triton kernels of the loss, run by Triton's interpreter on the CPU, against the reference in float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.extra("triton")

TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-2}
CASES = [
    *(("training", (6, 4, 4, 256, 2), None, dtype) for dtype in TOLERANCES),
    *(("odd", (3, 5, 7, 13, 5), None, dtype) for dtype in TOLERANCES),
    ("one view", (1, 1, 2, 1, 1), None, "float32"),
    ("anchors", (5, 3, 9, 33, 4), (3, 7), "bfloat16"),
    ("many features", (3, 2, 3, 5000, 2), None, "float32"),
    ("many negatives", (6, 4, 3, 2, 70), (1, 2), "float32"),
    ("zero images", (3, 2, 6, 5, 4), None, "float32"),
    ("identical", (2, 2, 6, 5, 4), None, "float32"),
    ("below the floor", (2, 2, 4, 5, 2), None, "float32"),
]
"""Name, (online and target views, images, features, negatives), anchors, dtype."""

PROGRAM = """
import json, sys
import torch
from relic.kernels.relic_loss import loss_and_gradient
from relic.losses import reference_loss
from relic.losses.relic import NORM_FLOOR

weights = {"temperature": 0.2, "contrastive_weight": 0.3, "invariance_weight": 5.0}
generator = torch.Generator().manual_seed(0)
errors = []
for name, sizes, bounds, dtype in json.loads(sys.argv[1]):
    num_online, num_target, num_images, features, num_negatives = sizes
    anchors = range(*bounds) if bounds else range(num_images)
    # With duplicates, and the anchor itself among its negatives.
    negatives = torch.randint(num_images, (len(anchors), num_negatives), generator=generator)
    shapes = (num_online, num_images, features), (num_target, num_images, features)
    online, target = (torch.randn(shape, generator=generator).to(getattr(torch, dtype)) for shape in shapes)
    if name == "zero images":
        online[:, ::2], target[-1, 1::3] = 0, 0
    if name == "below the floor":
        online *= NORM_FLOOR / 100
    if name == "identical":
        online[:], target[:] = online[0, 0], online[0, 0]

    def run(with_gradient):
        inputs = online, target, negatives, anchors.start
        return loss_and_gradient(*inputs, **weights, norm_floor=NORM_FLOOR, with_gradient=with_gradient)

    values, gradient = run(True)
    if name == "one view":
        assert torch.equal(run(True)[1], gradient)
        assert torch.equal(run(False)[0], values)
        assert run(False)[1] is None
    wide = online.double().requires_grad_()
    loss = reference_loss(wide, target.double(), negatives, **weights, anchors=anchors)
    truth = torch.autograd.grad(loss.total, wide)[0]
    lengths = wide.detach().norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)
    error = (gradient - truth).mul(lengths).abs().max() / max(truth.mul(lengths).abs().max(), 1e-2 / num_images)
    errors.append([(values - torch.stack(loss[1:])).abs().max().item(), error.item()])
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def errors() -> list[list[float]]:
    """Run all cases in a process of their own: the interpreter is chosen before Triton is imported."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(CASES)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize("place", range(len(CASES)), ids=[f"{name}-{dtype}" for name, *_, dtype in CASES])
def test_kernels_give_the_references_values_and_gradients(errors: list[list[float]], place: int) -> None:
    tolerance = TOLERANCES[CASES[place][-1]]
    of_values, of_gradient = errors[place]
    assert of_values <= tolerance
    assert of_gradient <= tolerance
