"""The meter averages what it is given, across a resume too; the console line says what bounds a run."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch

from relic import recipes
from relic.distributed import Group, World
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


def a_meter(plan: Plan, loader: Waiting, group: Group | None = None) -> Meter:
    return Meter(plan, loader, group or Group(World(device=torch.device("cpu"))))


def add(meter: Meter, loss: float, *, step: int = 0, finite: float = 1.0) -> None:
    meter.add(step, {"loss": torch.tensor(loss), "finite": torch.tensor(finite)})


def read(meter: Meter) -> dict[str, float]:
    meter.exchange()
    return meter.read()


class OfThree(Group):
    """Three processes; the two others answer what they are told to."""

    def __init__(self, others: list[list[float]]):
        super().__init__(World(rank=1, world_size=3, device=torch.device("cpu")))
        self.others = others

    def gather(self, values: list[float]) -> list[list[float]]:
        return [self.others[0], values, self.others[1]]


def test_means_are_over_the_steps_since_the_last_read(plan):
    meter = a_meter(plan, Waiting())
    for value in (1.0, 2.0, 6.0):
        add(meter, value)
    assert read(meter)["loss"] == 3.0
    add(meter, 5.0)
    assert read(meter)["loss"] == 5.0


def test_means_are_over_all_processes_and_the_longest_wait_counts(plan):
    meter = a_meter(plan, Waiting(), OfThree([[-1, 0.0, 8.0], [-1, 1e9, 2.0]]))
    for value in (1.0, 4.0):
        add(meter, value)
    record = read(meter)
    assert record["loss"] == (8.0 + 5.0 + 2.0) / 3 / 2
    assert record["data_wait"] == 1.0


def test_a_resumed_meter_gives_the_same_mean(plan):
    meter, resumed = a_meter(plan, Waiting()), a_meter(plan, Waiting())
    add(meter, 0.1)
    meter.exchange()
    resumed.load_state_dict(meter.state_dict())
    for each in (meter, resumed):
        add(each, 0.7)
    assert read(meter)["loss"] == read(resumed)["loss"]


def test_a_meter_saved_after_a_log_holds_nothing(plan):
    meter, resumed = a_meter(plan, Waiting()), a_meter(plan, Waiting())
    add(meter, 0.1)
    read(meter)
    resumed.load_state_dict(meter.state_dict())
    add(resumed, 0.7)
    assert read(resumed)["loss"] == pytest.approx(0.7)


def test_another_number_of_processes_goes_on_from_the_mean_sum(plan):
    meter = a_meter(plan, Waiting())
    meter.load_state_dict({"names": ["loss"], "sums": [[1.0], [5.0]], "count": 2})
    add(meter, 3.0)
    assert read(meter)["loss"] == (3.0 + 3.0) / 3


def test_the_first_step_that_is_not_finite_on_any_process_is_known(plan):
    meter = a_meter(plan, Waiting(), OfThree([[7.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
    add(meter, 1.0, step=4)
    meter.exchange()
    assert meter.first_nonfinite() == 7
    for step in (5, 6):
        add(meter, 1.0, step=step, finite=0.0)
    meter.exchange()
    assert meter.first_nonfinite() == 5


def test_a_run_that_is_finite_has_no_such_step(plan):
    meter = a_meter(plan, Waiting())
    add(meter, 1.0)
    meter.exchange()
    assert meter.first_nonfinite() is None


def test_rates_count_this_process_only_and_not_the_pauses(plan):
    loader = Waiting()
    meter = a_meter(plan, loader)
    meter.load_state_dict({"names": ["loss"], "sums": [[5.0]], "count": 5})
    add(meter, 1.0)
    with meter.pause():
        time.sleep(0.2)
    loader.seconds = 0.01
    time.sleep(0.02)
    record = read(meter)
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
