"""The model of a step on many GPUs: its limits, its counts, and that it hides no assumption."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from benchmarks import scaling, step_model
from benchmarks.__main__ import main
from relic import recipes
from relic.dry_run import RESNET50_MACS


def machine(**changes: float) -> step_model.Machine:
    values, _ = scaling.filled(scaling.Assumptions(), "H100")
    return dataclasses.replace(scaling.machine_of(values), **changes)


@pytest.fixture(scope="module")
def work() -> step_model.Workload:
    return workload()


def workload(**options: Any) -> step_model.Workload:
    config = dataclasses.replace(recipes.get("relicv2_r50_300ep"), **options.pop("config", {}))
    options = {"dataset_images": 1_281_167, "image_bytes": 1.1e5, "concatenate": False} | options
    return step_model.workload(config, **options)


def step(work: step_model.Workload, where: step_model.Machine, **options: Any) -> step_model.Step:
    options = {"gpus": 64, "batch_size": 4096, "statistics": "all_gather", "resnet50_macs": RESNET50_MACS} | options
    return step_model.step(work, where, **options)


IDEAL = {
    "memory_bytes_per_second": math.inf,
    "launch_seconds": 0.0,
    "gpus_per_node": 10**6,
    "nvlink_bytes_per_second": math.inf,
    "network_bytes_per_second": math.inf,
    "core_images_per_second": math.inf,
    "storage_bytes_per_second": math.inf,
}


def test_with_infinite_bandwidths_the_gpus_compute_and_nothing_else(work) -> None:
    one = step(work, machine(**IDEAL), gpus=1)
    assert one.bottleneck == "compute"
    assert one.efficiency == 1.0
    # 64 GPUs still wait for latencies, which no bandwidth removes.
    many = step(work, machine(**IDEAL))
    assert many.optimizer == many.cores == many.storage == 0
    assert many.statistics > 0
    assert many.compute == pytest.approx(one.compute / 64)


def test_one_gpu_computes_at_the_rate_it_is_given(work) -> None:
    one = step(work, machine(**IDEAL), gpus=1)
    equivalents = work.macs / (3 * RESNET50_MACS)
    assert one.images_per_second_per_gpu == pytest.approx(4200 / equivalents)
    assert 5 < equivalents < 7  # four large views forward and backward, four forward, two small


@pytest.mark.parametrize(
    ("changes", "bottleneck"),
    [
        ({"cores_per_gpu": 0.5}, "cores"),
        ({"cache_bytes": 0.0, "storage_bytes_per_second": 1e8}, "storage"),
        ({"launch_seconds": 1e-3}, "launches"),
        ({"collective_seconds": 1e-3}, "statistics"),
        ({"network_bytes_per_second": 1e8}, "gradients"),
        ({"memory_bytes_per_second": 1e9}, "optimizer"),
    ],
)
def test_what_is_slow_is_the_bottleneck(work, changes: dict, bottleneck: str) -> None:
    assert step(work, machine()).bottleneck == "compute"
    found = step(work, machine(**changes))
    assert found.bottleneck == bottleneck
    assert found.images_per_second_per_gpu < step(work, machine()).images_per_second_per_gpu


def test_gradients_take_as_much_longer_as_the_network_is_slower() -> None:
    slow, fast = (step_model.gradient_seconds(1.4e8, machine(network_bytes_per_second=b), gpus=64) for b in (1e9, 1e10))
    assert slow == pytest.approx(10 * fast, rel=0.2)


@pytest.mark.parametrize(
    "field",
    [
        field.name
        for field in dataclasses.fields(step_model.Machine)
        if "per_second" in field.name or "cores" in field.name
    ],
)
def test_more_of_anything_never_takes_longer(work, field: str) -> None:
    slow = machine(cache_bytes=0.0, cores_per_gpu=0.5)
    faster = dataclasses.replace(slow, **{field: 4 * getattr(slow, field)})
    assert step(work, faster).seconds <= step(work, slow).seconds
    assert step(work, faster).checkpoint_stall <= step(work, slow).checkpoint_stall


def test_more_gpus_wait_longer_for_each_other(work) -> None:
    found = [step(work, machine(), gpus=n, batch_size=64 * n) for n in (1, 8, 64, 512)]
    for name in ("statistics", "gradients"):
        times = [getattr(one, name) for one in found]
        assert times == sorted(times)
        assert times[0] == 0
    assert [one.failure_interval for one in found[1:]] == [6300 * 3600 / n for n in (1, 8, 64)]


def test_a_tree_beats_a_ring_of_many(work) -> None:
    def seconds(kind, gpus: int) -> float:
        return step_model.small_collective_seconds(kind, gpus=gpus, gpus_per_node=8, added=0.0)

    assert seconds("all_reduce", 512) < seconds("all_gather", 512) / 4
    assert seconds("all_gather", 8) == pytest.approx(6.89e-6)  # 3.6 + 7 steps of 0.47 us
    assert (
        step(work, machine(), gpus=512, statistics="all_reduce").statistics
        < 0.25 * step(work, machine(), gpus=512).statistics
    )


def test_exchanges_are_counted_from_the_networks(work) -> None:
    # ResNet-50 has 53 batch norms, each head one; six online views and four of the target.
    assert work.statistics_backward == 6 * 55
    assert work.statistics_forward == 6 * 55 + 4 * 54
    joined = workload(concatenate=True)
    assert (joined.statistics_backward, joined.statistics_forward) == (2 * 55, 2 * 55 + 54)
    assert joined.statistics_floats == work.statistics_floats
    assert joined.overlap_macs == pytest.approx(4 * work.overlap_macs)
    assert work.checkpoint_bytes > 4 * (2 * work.trained_parameters + work.target_parameters)


def test_checkpoints_and_failures_cost_their_share(work) -> None:
    found = step(work, machine(), gpus=512)
    assert found.lost_per_failure == found.checkpoint_interval / 2 + 300
    calm = step(work, machine(node_failure_hours=math.inf, host_bytes_per_second=math.inf), gpus=512)
    assert calm.overhead == 0
    assert scaling.hours(work, found) > scaling.hours(work, calm)
    seldom = step(dataclasses.replace(work, checkpoint_images=math.inf), machine(), gpus=512)
    assert seldom.checkpoint_interval == work.checkpoint_seconds


def test_every_assumption_is_printed_with_its_source(capsys, tmp_path) -> None:
    path = tmp_path / "records.json"
    assert main(["scaling", "--gpus", "8", "16", "--cores-per-gpu", "1", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    for field in dataclasses.fields(scaling.Assumptions):
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {field.name} ")]
        assert len(line.split(maxsplit=2)) == 3
    assert "cores_per_gpu                     1  given" in out
    assert out.count("first bottleneck") == 2
    records = json.loads(path.read_text())
    assert [record["provider"] for record in records] == ["H100 × 8", "H100 × 16"] * 2
    assert all(record["bottleneck"] == "cores" for record in records)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--disk", "0"], "--disk 0: give more than 0"),
        (["--gpus", "3"], "batch 4096 cannot be divided over 3 GPUs"),
        (["--recipe", "supervised_r50"], "has no target network"),
    ],
)
def test_a_mistake_gets_one_line(flags: list[str], said: str, capsys) -> None:
    assert main(["scaling", *flags]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
