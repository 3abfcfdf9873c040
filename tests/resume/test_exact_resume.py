"""A run that was interrupted and resumed gives the same bits as one that was not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import relic.train
from pipelines import photometric
from pipelines.config import BackgroundConfig, CropConfig, ViewsConfig
from relic import checkpoint
from relic.config import CheckpointConfig, LoaderConfig, LogConfig, ModelConfig, OptimConfig, RunConfig
from relic.train import train

TIMED = ("images_per_second", "data_wait", "seconds", "eta_seconds")  # the clock is no part of the computation


def small_run(folder: Path, tiny_beton: Path, tiny_masks: Path, **overrides) -> RunConfig:
    config = RunConfig(
        recipe="test",
        data=str(tiny_beton),
        masks=str(tiny_masks),
        runs=str(folder),
        batch_size=4,
        duration="20st",
        precision="float32",
        device="cpu",
        views=ViewsConfig(
            large=CropConfig(count=2, size=24),
            small=CropConfig(count=1, size=16, area=(0.05, 0.25)),
            background=BackgroundConfig(chance=0.5),
        ),
        loader=LoaderConfig(num_threads=2),
        model=ModelConfig(
            backbone="resnet18x0.125", stem="cifar", projector_hidden=16, predictor_hidden=16, projection_dim=8
        ),
        optim=OptimConfig(name="lars", warmup="2st", target_decay=0.9),
        checkpoint=CheckpointConfig(every="7st", keep_last=5),
        log=LogConfig(every="5st", health_every="10st", health_images=4, tensorboard=False),
    )
    return replace(config, **{"loss": replace(config.loss, num_negatives=3), **overrides})


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the run die in the middle of an update, some steps after its last checkpoint."""
    real, calls = relic.train.train_step, []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(relic.train, "train_step", failing)


def metrics_of(run: Path) -> list[dict]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMED} for record in records]


def assert_same_bits(left: object, right: object, where: str = "checkpoint") -> None:
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype, where
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for name in left:
            assert_same_bits(left[name], right[name], f"{where}.{name}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for position, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same_bits(a, b, f"{where}[{position}]")
    else:
        assert left == right, where


@pytest.mark.parametrize(
    ("loader", "optimizer", "others"),
    [
        (LoaderConfig(), "lars", {}),
        (LoaderConfig(), "adamw", {}),
        (LoaderConfig(backend="reference"), "lars", {}),
        (LoaderConfig(backend="reference"), "adamw", {}),
        (LoaderConfig(photometric="device"), "lars", {}),
        pytest.param(LoaderConfig(backend="dali"), "lars", {}, marks=pytest.mark.extra("dali")),
        (LoaderConfig(), "lars", {"precision": "float16"}),
        (LoaderConfig(), "sgd", {"precision": "bfloat16", "channels_last": False}),
    ],
    ids=[
        "fused-lars",
        "fused-adamw",
        "reference-lars",
        "reference-adamw",
        "device-lars",
        "dali-lars",
        "float16-lars",
        "bfloat16-sgd",
    ],
)
def test_seven_plus_thirteen_steps_equal_twenty(
    loader, optimizer, others, tmp_path, tiny_beton, tiny_masks, monkeypatch
):
    overrides = {"loader": loader, "optim": OptimConfig(name=optimizer, warmup="2st"), **others}
    straight = train(small_run(tmp_path / "straight", tiny_beton, tiny_masks, **overrides))
    broken = small_run(tmp_path / "broken", tiny_beton, tiny_masks, **overrides)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 12)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    assert checkpoint.all_steps(tmp_path / "broken" / "test") == [7]
    resumed = train(broken)

    left = checkpoint.read(checkpoint.path_of(straight, 20))
    right = checkpoint.read(checkpoint.path_of(resumed, 20))
    for saved in (left, right):
        saved["config"].pop("runs")
    assert_same_bits(left, right)
    assert metrics_of(straight) == metrics_of(resumed)
    if others.get("precision") == "float16":
        assert left["scaler"]["_growth_tracker"] > 7  # steps that the loss scale has survived, those before too


def test_a_run_may_leave_the_photometric_half_to_the_device(tmp_path, tiny_beton, tiny_masks, monkeypatch):
    finished = []
    real = photometric.Finisher.finish
    monkeypatch.setattr(photometric.Finisher, "finish", lambda *given: finished.append(1) or real(*given))
    loader = LoaderConfig(photometric="device")
    train(small_run(tmp_path / "device", tiny_beton, tiny_masks, duration="2st", loader=loader))
    by_device = len(finished)
    assert by_device >= 2  # one per step, and more for the run's health
    train(small_run(tmp_path / "host", tiny_beton, tiny_masks, duration="2st"))
    assert len(finished) == by_device


def test_another_seed_gives_other_bits(tmp_path, tiny_beton, tiny_masks):
    """The comparison above can fail."""
    runs = [
        train(small_run(tmp_path / str(seed), tiny_beton, tiny_masks, seed=seed, duration="2st")) for seed in (0, 1)
    ]
    left, right = (checkpoint.read(checkpoint.path_of(run, 2))["model"] for run in runs)
    with pytest.raises(AssertionError):
        assert_same_bits(left, right)


def test_a_run_directory_refuses_another_configuration(tmp_path, tiny_beton, tiny_masks):
    train(small_run(tmp_path, tiny_beton, tiny_masks, duration="2st"))
    with pytest.raises(ValueError, match=r"batch_size: 4 -> 6.*--name"):
        train(small_run(tmp_path, tiny_beton, tiny_masks, duration="2st", batch_size=6))


def test_a_finished_run_stays_as_it_is(tmp_path, tiny_beton, tiny_masks):
    config = small_run(tmp_path, tiny_beton, tiny_masks, duration="2st")
    run = train(config)
    before = (run / "metrics.jsonl").read_bytes()
    train(config)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_old_checkpoints_are_pruned_and_multiples_kept(tmp_path, tiny_beton, tiny_masks):
    kept = CheckpointConfig(every="1st", keep_last=2, keep_every="4st")
    run = train(small_run(tmp_path, tiny_beton, tiny_masks, duration="10st", checkpoint=kept))
    assert checkpoint.all_steps(run) == [4, 8, 9, 10]


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, tiny_beton, tiny_masks, capsys):
    config = small_run(tmp_path, tiny_beton, tiny_masks, duration="4st", checkpoint=CheckpointConfig(every="2st"))
    run = train(config)
    newest = checkpoint.path_of(run, 4)
    expected = checkpoint.read(newest)
    newest.write_bytes(newest.read_bytes()[:1000])
    train(config)
    assert "step-000004.pt is damaged (wrong checksum): put aside" in capsys.readouterr().err
    assert_same_bits(checkpoint.read(newest), expected)


def test_the_networks_leave_cores_to_the_loader_and_give_them_back(tmp_path, tiny_beton, tiny_masks, monkeypatch):
    seen = []
    real = relic.train.train_step
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(3)))
    monkeypatch.setattr(
        relic.train, "train_step", lambda *a, **k: (seen.append(torch.get_num_threads()), real(*a, **k))[1]
    )
    before = torch.get_num_threads()
    train(small_run(tmp_path, tiny_beton, tiny_masks, duration="2st", loader=LoaderConfig(num_threads=1)))
    assert seen == [2, 2]
    assert torch.get_num_threads() == before
