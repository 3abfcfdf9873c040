"""`python -m benchmarks loss`: what is measured, what is written down, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import loss, records
from benchmarks.__main__ import main
from benchmarks.harness import straight_line
from benchmarks.memory import extra_bytes

SMALL = [
    "--batch-size",
    "12",
    "--features",
    "5",
    "--online",
    "3",
    "--target",
    "2",
    "--negatives",
    "4",
    "--repeats",
    "2",
]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[loss.Case]:
    """Replace the processes that measure memory; return the cases they got."""
    cases: list[loss.Case] = []

    def extra_memory(case: loss.Case) -> int:
        cases.append(case)
        return 2**20 * case.batch_size * (10 if case.provider == "reference" else 1)

    monkeypatch.setattr(loss, "extra_memory", extra_memory)
    return cases


def test_records_compare_fused_and_reference_on_the_same_inputs(memory, tmp_path: Path, capsys):
    file = tmp_path / "loss.json"
    assert main(["loss", *SMALL, "--no-growth", "--json", str(file)]) == 0
    made = records.read(file)
    assert [(one["benchmark"], one["provider"]) for one in made] == [
        (f"loss, {negatives}", f"{provider}, {dtype}")
        for negatives, dtype in (("4 negatives", "float32"), ("4 negatives", "bfloat16"), ("all others", "float32"))
        for provider in ("reference", "fused")
    ]
    for reference, fused in zip(made[::2], made[1::2], strict=True):
        assert set(records.FIELDS) <= fused.keys()
        assert fused["recipe"] == reference["recipe"]
        assert fused["recipe"]["batch_size"] == fused["images"]["count"] == 12
        assert fused["repeats"] == 2
        assert fused["low"] <= fused["value"] <= fused["high"]
        assert fused["milliseconds"] == pytest.approx(12_000 / fused["value"])
        assert reference["times_faster_than_reference"] == {"value": 1, "low": 1, "high": 1}
        assert fused["extra_mib"] == 12
        assert fused["share_of_reference_memory"] == 0.1
    assert len(memory) == 6
    assert "10.0 %" in capsys.readouterr().out


def test_growth_writes_lines_through_points(memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    monkeypatch.setattr(loss, "SIZES", (6, 12, 24))
    monkeypatch.setattr(loss, "ALL_OTHERS_SIZES", (6, 12))
    file = tmp_path / "loss.json"
    assert main(["loss", *SMALL, "--json", str(file)]) == 0
    time, space, all_time, all_space = records.read(file)[6:]
    assert [time["x"], space["x"], all_space["x"]] == [[6, 12, 24], [6, 12, 24], [6, 12]]
    assert all_time["x"] == pytest.approx([36e-6, 144e-6])
    assert space["y"] == [6, 12, 24]
    assert (space["value"], space["line"]["r2"]) == pytest.approx((1, 1))
    assert "loss, growth in memory with negatives: 6: 6.0, 12: 12.0, 24: 24.0 MiB" in capsys.readouterr().out


def test_a_line_is_the_least_squares_line():
    slope, intercept, fit = straight_line([0, 1, 2, 3], [1, 3, 5, 3])
    assert (slope, intercept, fit) == pytest.approx((0.8, 1.8, 1 - 1.2 / 2))
    moments = [1.8e9 + y for y in (1, 3, 5)]  # seconds since the epoch: the line is a little of them
    assert straight_line([0, 1, 2], moments) == pytest.approx((2, 1.8e9 + 1, 1))
    assert straight_line([0, 1, 2], [4, 4, 4]) == pytest.approx((0, 4, 1))


def allocate(megabytes: int):
    def run() -> None:
        np.ones(megabytes * 2**20 // 8)

    return run


def test_memory_is_what_a_run_takes_at_its_highest():
    extra = extra_bytes(allocate, 200, 50)  # what the warm-up freed is not counted
    assert 49 * 2**20 <= extra < 60 * 2**20


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "0"], "batch-size 0: give at least 1"),
        (["--negatives", "1024"], "negatives 1024: give 1 to 1023, the other images"),
        (["--threads", "1000"], "threads 1000: this process may use"),
        (["--repeats", "0"], "repeats 0: give at least 1"),
        (["--json", "/nowhere/loss.json"], "no such folder for --json"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(flags: list[str], message: str, capsys):
    assert main(["loss", *flags]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_records_go_to_standard_output(memory, capsys):
    assert main(["loss", *SMALL, "--no-growth", "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 6
