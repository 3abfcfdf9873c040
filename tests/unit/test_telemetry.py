"""The meter averages what it is given, across a resume too; the console line says what bounds a run."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch

from relic import recipes
from relic.plan import Plan, make_plan
from relic.telemetry import Meter, console_line, duration_text


class Waiting:
    """A loader that has kept its consumer waiting for `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def stats(self) -> dict[str, float]:
        return {"wait": self.seconds}


@pytest.fixture
def plan() -> Plan:
    config = dataclasses.replace(recipes.get("cifar10_r18"), batch_size=10)
    return make_plan(config, num_images=100, world_size=1)


def test_means_are_over_the_steps_since_the_last_read(plan):
    meter = Meter(plan, Waiting())
    for value in (1.0, 2.0, 6.0):
        meter.add({"loss": torch.tensor(value)})
    assert meter.read()["loss"] == 3.0
    meter.add({"loss": torch.tensor(5.0)})
    assert meter.read()["loss"] == 5.0


def test_a_resumed_meter_gives_the_same_mean(plan):
    meter, resumed = Meter(plan, Waiting()), Meter(plan, Waiting())
    meter.add({"loss": torch.tensor(0.1)})
    resumed.load_state_dict(meter.state_dict(), torch.device("cpu"))
    for each in (meter, resumed):
        each.add({"loss": torch.tensor(0.7)})
    assert meter.read()["loss"] == resumed.read()["loss"]


def test_rates_count_this_process_only_and_not_the_pauses(plan):
    loader = Waiting()
    meter = Meter(plan, loader)
    meter.load_state_dict({"sums": {"loss": 5.0}, "count": 5}, torch.device("cpu"))
    meter.add({"loss": torch.tensor(1.0)})
    with meter.pause():
        time.sleep(0.2)
    loader.seconds = 0.01
    time.sleep(0.02)
    record = meter.read()
    assert record["seconds"] < 0.2
    assert record["images_per_second"] == pytest.approx(plan.batch_size / record["seconds"])
    assert record["data_wait"] == pytest.approx(0.01 / record["seconds"])


def test_the_line_names_the_slowest_stage_only_when_the_loader_holds_the_run_up(plan):
    record = {
        "step": 5,
        "epoch": 0.5,
        "loss": 1.0,
        "learning_rate": 0.1,
        "images_per_second": 100.0,
        "data_wait": 0.6,
        "eta_seconds": 75.0,
    }
    stats = {"decode": 1.0, "render": 3.0, "wait": 9.0}
    assert "loader-bound (render takes 75% of the workers' time)" in console_line(record, plan, stats)
    assert "ETA 1m15s" in console_line(record, plan, stats)
    assert "loader-bound" not in console_line({**record, "data_wait": 0.05}, plan, stats)


@pytest.mark.parametrize(("seconds", "text"), [(12, "12s"), (75, "1m15s"), (3 * 3600 + 59, "3h00m")])
def test_durations_read_well(seconds, text):
    assert duration_text(seconds) == text
