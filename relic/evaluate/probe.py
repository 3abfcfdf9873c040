"""The fixed subset of images that a run's health is measured on."""

from __future__ import annotations

import torch

from pipelines.build import build_loader
from pipelines.config import evaluation_views
from relic.config import RunConfig
from relic.distributed import World


def probe_views(config: RunConfig, world: World) -> list[torch.Tensor]:
    """Return centre crops of a fixed subset, uint8 [n, size, size, 3] a batch, on the device."""
    loader = build_loader(
        config.data,
        evaluation_views(config.views.large.size),
        batch_size=64,
        seed=config.seed,
        drop_last=False,
        device=world.device,
        on_corrupt=config.loader.on_corrupt,
        photometric=config.loader.photometric,
    )
    views, wanted = [], config.log.health_images
    for batch in loader:
        views.append(batch.large[0][:wanted])
        wanted -= len(batch.index)
        if wanted <= 0:
            break
    loader.close()
    return views
