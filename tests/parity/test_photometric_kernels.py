"""The Triton kernels of the views, run by Triton's interpreter on the CPU, against plain torch and the reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.extra("triton")

CASES = [
    # 24 views, one per order of the jitter; 25 pixels a side are one tile and a part of one
    *(
        (f"{mode} {dtype}", 25, mode, dtype, "all")
        for mode in ("relicv2", "torchvision")
        for dtype in ("uint8", "float32")
    ),
    ("bfloat16", 25, "relicv2", "bfloat16", "all"),
    ("float16", 25, "torchvision", "float16", "all"),
    ("no blur at this size", 11, "relicv2", "uint8", "all"),
    ("whole tiles", 32, "relicv2", "uint8", "all"),
    ("one pixel", 1, "relicv2", "uint8", "all"),
    ("wide blur", 62, "relicv2", "uint8", "few"),
    ("no masks", 25, "relicv2", "uint8", "no masks"),
    ("no plates", 25, "relicv2", "bfloat16", "no plates"),
    ("off", 25, "relicv2", "uint8", "off"),
    ("torchvision off", 31, "torchvision", "uint8", "off"),
    ("in chunks", 25, "relicv2", "uint8", "chunks"),
    ("nobody", 25, "relicv2", "uint8", "nobody"),
]
"""Name, side, whose jitter, type of the views, what is special."""

PROGRAM = """
import json, sys
import torch
sys.path.insert(0, sys.argv[2])
from photometric_cases import case
from pipelines.kernels import photometric as kernels
from pipelines.ops import batched

figures = {}
for name, size, mode, dtype, special in json.loads(sys.argv[1]):
    dtype = getattr(torch, dtype)
    count = {"few": 4, "off": 6, "chunks": 7, "nobody": 0}.get(special, 24)
    given = case(size, mode, count=count, neutral=special == "off", seed=size)
    views, lines, masks, plates = given.arguments()
    masks = None if special == "no masks" else masks
    plates = None if special == "no plates" else plates
    kernels.CHUNK_BYTES = 2 * 6 * size * size if special == "chunks" else 1 << 24  # two views at a time
    ours = kernels.finish(views, lines, masks, plates, **given.options(), dtype=dtype)
    assert ours.shape == views.shape and ours.dtype == dtype
    plain = batched.finish(views, lines, masks, plates, **given.options(), dtype=dtype)
    if count == 0:
        continue
    if special == "off":
        assert torch.equal(ours, views), name
    if special == "chunks":
        again = kernels.finish(views, lines, masks, plates, **given.options(), dtype=dtype)
        assert torch.equal(ours, again), name
    scale = 255 * 0.225 if dtype.is_floating_point else 1  # in grey levels
    difference = (ours.double() - plain.double()).abs() * scale
    figures[name] = [difference.max().item(), difference.mean().item(), (difference > 0.7).double().mean().item()]
print(json.dumps(figures))
"""


@pytest.fixture(scope="module")
def figures() -> dict[str, list[float]]:
    """Run all cases in a process of their own: the interpreter is chosen before Triton is imported."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(CASES), str(Path(__file__).parent)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize("name", [name for name, *_, special in CASES if special != "nobody"])
def test_kernels_against_plain_torch(figures: dict[str, list[float]], name: str):
    """In grey levels. A value half-way between two may fall to either; bfloat16 has 8 bits for all of a channel."""
    largest, mean, share = figures[name]
    kind = next(case[3] for case in CASES if case[0] == name)
    rounding = {"bfloat16": 2.0, "float16": 0.1}.get(kind, 0)  # the interpreter cuts bits off, a GPU rounds
    assert largest <= 1.01 + rounding
    assert mean <= 0.002 + rounding / 4
    if kind != "bfloat16":
        assert share <= 0.002
