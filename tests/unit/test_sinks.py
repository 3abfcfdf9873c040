"""Metrics files stay readable after an interruption and never repeat a step."""

from __future__ import annotations

import json

from relic.sinks import JsonLines, TensorBoard


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_after_the_checkpoint_and_half_lines_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path, step=0)
    for step in (1, 2, 3):
        sink.write({"step": step, "loss": step / 2})
    sink.close()
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')
    sink = JsonLines(path, step=2)
    sink.write({"step": 3, "loss": 9.0})
    sink.close()
    assert read(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 9.0}]


def test_numbers_that_json_has_not_become_strings(tmp_path):
    sink = JsonLines(tmp_path / "metrics.jsonl", step=0)
    sink.write({"step": 1, "loss": float("nan"), "grad": float("inf")})
    sink.close()
    assert read(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": "nan", "grad": "inf"}]


def test_tensorboard_holds_every_number(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoard(tmp_path / "tensorboard", step=0)
    sink.write({"step": 5, "loss": 1.5, "warnings": ["none"]})
    sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(5, 1.5)]
