"""`benchmarks step` and `precision` measure what they say, and refuse what they cannot measure."""

from __future__ import annotations

import json

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import precision, step
from relic import config


def test_the_overhead_is_the_median_share_of_pairs():
    rounds = step.Rounds(seconds={"step": [2.0, 4.0, 10.0], "networks": [1.0, 3.0, 9.0]})
    assert rounds.overhead() == (0.25, 0.1, 0.5)


def test_a_step_that_does_more_costs_more(monkeypatch):
    """The benchmark can tell: a target network updated a hundred times is seen in the step, not in the networks."""
    from relic.models.twin import Twin

    run = step.configuration("resnet18x0.125", 4, (2, 32), (1, 16), 2, "float32", "lars", concatenate=False, channels_last=True, compile=False)  # noqa: E501 # fmt: skip
    plain = step.measure(step.pieces(run, 1), 5)
    real = Twin.update_target
    monkeypatch.setattr(Twin, "update_target", lambda twin, decay: [real(twin, decay) for _ in range(300)])
    heavy = step.measure(step.pieces(run, 1), 5)
    assert set(plain.seconds) == {"networks", "step", *step.PIECES}
    assert heavy.overhead()[0] > plain.overhead()[0] + 0.1


def test_step_writes_a_whole_record(tmp_path, capsys):
    flags = "--backbone resnet18x0.125 --batch-size 4 --negatives 2 --large-size 32 --small-size 16 --repeats 1"
    assert benchmarks.main(["step", *flags.split(), "--concatenate", "--json", str(tmp_path / "step.json")]) == 0
    (record,) = json.loads((tmp_path / "step.json").read_text())
    assert record["benchmark"] == "step"
    assert record["recipe"]["model"]["concatenate_views"] is True
    assert record["milliseconds"]["step"] > 0
    assert "step minus networks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("step --repeats 0", "repeats 0: give at least 1"),
        ("step --batch-size 4 --negatives 4", "negatives 4: give 1 to 3"),
        ("step --threads 999", "threads 999: this process may use"),
        ("precision --data x.beton --steps 10", "steps 10: give at least 50"),
        ("precision --data x.beton --out curve.pdf", "curve.pdf is no .png file"),
        ("precision --data missing.beton", "missing.beton"),
    ],
)
def test_mistakes_get_one_line(flags, said, capsys):
    assert benchmarks.main(flags.split()) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_curves_compare_means_and_pairs():
    curves = precision.Curves(
        losses={precision.FAST: [2.0] * 25 + [1.0] * 25, precision.PLAIN: [2.0] * 25 + [1.25] * 25},
        seconds={precision.FAST: [1.0] * 50, precision.PLAIN: [3.0] * 50},
    )
    assert curves.smoothed(precision.PLAIN) == [2.0, 1.25]
    assert curves.differences() == (0.1, 0.2)
    assert curves.speed_ratio() == (3.0, 3.0, 3.0)


def test_both_runs_start_alike_and_differ_by_rounding(tiny_beton, tmp_path):
    out = tmp_path / "curves.png"
    flags = ["--steps", "50", "--batch-size", "4", "--backbone", "resnet18x0.125", "--out", str(out)]
    target = tmp_path / "precision.json"
    assert benchmarks.main(["precision", "--data", str(tiny_beton), *flags, "--json", str(target)]) == 0
    (record,) = json.loads(target.read_text())
    assert out.stat().st_size > 10_000
    assert 0 < record["loss_difference"]["mean"] < 0.05
    assert record["recipe"]["duration"] == "50st"
    assert config.from_dict(config.RunConfig, record["recipe"]).batch_size == 4
