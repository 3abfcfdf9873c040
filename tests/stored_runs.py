"""Write run directories and labelled betons for tests, without training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipelines.config import CropConfig, ViewsConfig
from pipelines.prepare.writer import write_beton
from relic import checkpoint
from relic import config as configuration
from relic.config import LossConfig, ModelConfig, RunConfig
from relic.state import build_model

SMALL = ModelConfig(backbone="resnet18x0.125", stem="cifar", projector_hidden=16, predictor_hidden=16, projection_dim=8)


def stored_run(
    run: Path,
    *,
    model: ModelConfig = SMALL,
    data: str = "",
    supervised_classes: int = 0,
    steps: tuple[int, ...] = (7,),
) -> torch.nn.Module:
    """Write a run whose every tensor is random, the target's others than the online network's; return its networks."""
    config = RunConfig(
        recipe="test",
        name=run.name,
        runs=str(run.parent),
        data=data,
        model=model,
        views=ViewsConfig(large=CropConfig(count=2, size=24), small=CropConfig(count=0, size=8)),
        loss=LossConfig(kind="supervised" if supervised_classes else "relic"),
    )
    run.mkdir(parents=True)
    configuration.save(config, run / "config.yaml")
    networks = build_model(config, supervised_classes)
    generator = torch.Generator().manual_seed(3)
    for step in steps:
        # Values around 1 everywhere: at its initialisation a network has zero gains and target == online.
        for name, tensor in networks.state_dict().items():
            if tensor.is_floating_point() and "conv" not in name and ".0.weight" not in name:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        payload = {"model": networks.state_dict(), "config": configuration.to_dict(replace(config))}
        checkpoint.save(run, step, payload)
    return networks


def colour_beton(
    path: Path, *, per_class: int, names: tuple[str, ...] = ("red", "green", "blue"), side: int = 24, seed: int = 0
) -> Path:
    """Write noisy images whose class is their brightest channel."""
    channels = {"red": 0, "green": 1, "blue": 2}
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for label, name in enumerate(names):
        for _ in range(per_class):
            image = rng.integers(0, 120, (side, side, 3), np.uint8)
            image[..., channels[name]] += rng.integers(60, 120, dtype=np.uint8)
            images.append(image)
            labels.append(label)
    write_beton(path, images, labels, class_names=names)
    return path
