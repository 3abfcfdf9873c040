"""Several processes that share an evaluation find what one finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from launch import PYTHON, Running, torchrun
from stored_runs import colour_beton, stored_run

from pipelines.beton import Beton


def test_two_processes_find_what_one_finds(tmp_path):
    """An odd number of images, so that one process has more of them, and the last batch of the other is short."""
    train = colour_beton(tmp_path / "train.beton", per_class=9)
    test = colour_beton(tmp_path / "test.beton", per_class=5, seed=1)
    with Beton(train) as beton:
        assert beton.num_images == 27
    stored_run(tmp_path / "run", data=str(train))
    found = []
    for start in ([], torchrun(2)):
        target = tmp_path / f"{len(found)}.json"
        flags = ["--test", str(test), "--batch-size", "4", "--knn.k", "3", "--device", "cpu", "--json", str(target)]
        with Running(PYTHON, *start, "-m", "relic", "evaluate", str(tmp_path / "run"), *flags) as running:
            assert running.wait() == 0, "\n".join(running.lines)
        assert len(running.said("kNN: cosine")) == 1
        found.append(json.loads(target.read_text()))
    assert found[0]["tests"]["test"].keys() == found[1]["tests"]["test"].keys()
    for metric, value in found[0]["tests"]["test"].items():
        assert found[1]["tests"]["test"][metric] == pytest.approx(value, abs=1e-6)
    for metric, value in found[0]["health"].items():
        assert found[1]["health"][metric] == pytest.approx(value, rel=1e-4)
