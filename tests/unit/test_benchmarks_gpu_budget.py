"""The budget of the kernels: counted from shapes, growing as they do, and shown beside what the assembler says."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks import gpu_budget
from benchmarks.__main__ import main
from pipelines.config import BackgroundConfig, CropConfig, PhotometricConfig, ViewsConfig
from relic import recipes


def views(**photometric) -> ViewsConfig:
    return ViewsConfig(
        large=CropConfig(count=1, size=100),
        small=CropConfig(count=0, size=1),
        photometric=PhotometricConfig(**photometric),
        background=BackgroundConfig(chance=0.0),
    )


def bytes_of(config: ViewsConfig) -> dict[str, float]:
    return {cost.kernel.removeprefix("views "): cost.bytes for cost in gpu_budget.view_costs(config)}


def test_a_view_without_anything_is_read_and_written_once():
    moved = bytes_of(views(jitter_chance=0, blur=(0, 0)))
    assert moved == {"means": 0, "colour": 10_000 * (3 + 6), "blur along y": 0, "blur along x": 0}


def test_contrast_reads_once_more_and_a_blur_passes_twice():
    moved = bytes_of(views(jitter_chance=1, blur=(1, 1)))
    assert moved == {
        "means": 10_000 * 3,
        "colour": 10_000 * (3 + 6),
        "blur along y": 10_000 * 12,
        "blur along x": 10_000 * 12,
    }


def test_operations_of_each_pass_are_those_of_the_kernels():
    """One blurred view of 100 pixels, σ = 1: three pairs of taps; all jittered, half gray, none solarized."""
    config = dataclasses.replace(
        views(jitter_chance=1, grayscale=0.5, blur=(1, 1), blur_sigma=(1, 1), solarize=(0, 0)),
        background=BackgroundConfig(chance=0.5, mode="remove"),
    )
    computed = {cost.kernel.removeprefix("views "): cost.flops / 10_000 for cost in gpu_budget.view_costs(config)}
    assert computed == {
        "means": 3 + 0.5 * 50 + 0.5 * (3 + 55 + 62 + 3 * 6) + 3,
        "colour": 3 + 0.5 * 50 + (3 + 9 + 55 + 62 + 4 * 6) + 0.5 * 5 + 24,
        "blur along y": 3 * 3 * 6,
        "blur along x": 3 * 3 * 6 + 24,
    }


def test_bytes_of_the_step_are_those_of_docs_kernels():
    costs = {cost.kernel: cost.bytes for cost in gpu_budget.step_costs(recipes.get("relicv2_r50_300ep"), 1)}
    trained, averaged = 35.07e6, 33.0e6
    assert [costs["LARS norms"], costs["LARS update"]] == pytest.approx([8 * trained, 20 * trained], rel=1e-3)
    assert costs["target average"] == pytest.approx(12 * averaged, rel=1e-2)
    logits, outputs = 6 * 4 * 11, 2 * 10 * 256
    assert [costs[f"loss {name}"] for name in ("logits", "terms", "gradient")] == [
        outputs + 8 * logits,
        16 * logits,
        outputs + 8 * logits + 4 * 6 * 256,
    ]


def test_odd_and_even_views_have_their_own_chances():
    one = bytes_of(views(blur=(1, 0)))["blur along y"]
    two = bytes_of(dataclasses.replace(views(blur=(1, 0)), large=CropConfig(count=2, size=100)))["blur along y"]
    assert two == one > 0


def test_swaps_cost_operations_and_no_copy_of_the_view():
    plain, swapped = (
        next(cost for cost in gpu_budget.view_costs(config) if cost.kernel == "views colour")
        for config in (views(), dataclasses.replace(views(), background=BackgroundConfig(chance=1, mode="swap")))
    )
    assert swapped.flops - plain.flops == 10_000 * (gpu_budget.BACKGROUND + gpu_budget.PLATE)
    assert swapped.bytes == plain.bytes


@pytest.mark.parametrize(("sigmas", "size", "pairs"), [((1, 1), 224, 3), ((2, 2), 224, 6), ((9, 9), 224, 11)])
def test_taps_follow_sigma_up_to_the_radius(sigmas, size, pairs):
    assert gpu_budget.mean_reach(sigmas, size) == pairs


def test_the_optimizer_is_shared_by_the_images_of_a_step():
    config = recipes.get("relicv2_r50_300ep")
    few, many = ({cost.kernel: cost for cost in gpu_budget.step_costs(config, batch)} for batch in (256, 512))
    assert few["LARS update"].bytes == 2 * many["LARS update"].bytes
    assert few["loss logits"] == many["loss logits"]
    assert many["LARS update"].bytes == pytest.approx(20 * 35.07e6 / 512, rel=1e-3)


def test_the_least_time_is_that_of_memory_or_of_the_units():
    cost = gpu_budget.Cost(kernel="k", case="k", bytes=1e6, flops=1e6)
    gpu = gpu_budget.Gpu(bytes_per_second=1e12, flops=1e12)
    assert cost.seconds(gpu) == 1e-6
    assert dataclasses.replace(cost, flops=3e6).seconds(gpu) == 3e-6


@pytest.mark.extra("triton")
def test_the_command_shows_all_kernels_and_writes_records(tmp_path, capsys):
    record = tmp_path / "budget.json"
    assert main(["gpu-budget", "--json", str(record)]) == 0
    shown = capsys.readouterr().out
    entries = json.loads(record.read_text())
    assert len(entries) == 10
    for entry in entries:
        assert entry["provider"] in shown
        assert entry["spill_bytes"] == 0
        assert len(entry["registers"]) == 3
        assert entry["floor_seconds"]["A100"] > entry["floor_seconds"]["H100"] > 0
    assert "Nothing is measured" in shown


def test_bad_input_gets_one_line(capsys):
    assert main(["gpu-budget", "--local-batch", "0"]) == 1
    assert "local-batch 0: give at least 1" in capsys.readouterr().err
