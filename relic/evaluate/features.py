"""Frozen features of a whole data set, through the same loader that training uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.build import Backend, build_loader
from pipelines.config import evaluation_views
from pipelines.ops.normalize import normalize
from pipelines.shards import AnyBeton
from relic.distributed import Group, World
from relic.precision import DTYPES, autocast

PHOTOGRAPH_SHARE = 0.875
TINY_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a frozen backbone makes of every image of a data set, on the CPU, in stored order."""

    features: Tensor
    """float32 [N, D]."""
    labels: Tensor
    """int64 [N], -1 where an image has none."""
    index: Tensor
    """int64 [N], positions in the data set."""
    flipped: Tensor | None = None
    """float32 [N, D] of the mirrored views, where they were asked for."""


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and every part of it back into the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def center_share(beton: AnyBeton) -> float:
    """Return the side of the evaluation crop as a share of the shorter side.

    0.875 for photographs (224 of 256, the protocols' crop); 1 where no image is larger than 64 pixels, as in CIFAR,
    whose own protocols show the whole image.
    """
    longest = max(beton.heights.max(initial=0), beton.widths.max(initial=0))
    return 1.0 if longest <= TINY_SIDE else PHOTOGRAPH_SHARE


@torch.no_grad()
def embed(backbone: nn.Module, view: Tensor, precision: str = "float32") -> Tensor:
    """Map a uint8 view [N, H, W, 3] to float32 features [N, D] with autocast to `precision`."""
    with autocast(precision, view.device):
        return backbone(normalize(view, DTYPES[precision])).float()


def extract(
    backbone: nn.Module,
    data: str | Path,
    *,
    view_size: int,
    share: float = PHOTOGRAPH_SHARE,
    flipped: bool = False,
    batch_size: int = 256,
    num_threads: int = 2,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    backend: Backend = "fused",
    group: Group | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Features | None:
    """Run a backbone in evaluation mode over the centre crops of a beton.

    Args:
        backbone: on `device`; keeps its mode.
        data: a beton.
        view_size: side of the views in pixels.
        share: side of the centre crop as a share of the image's shorter side.
        flipped: also run the mirrored views, from the same decode.
        batch_size, num_threads: of the loader.
        device: where the backbone is.
        precision: autocast dtype; float32 on the CPU.
        backend: who decodes and renders.
        group: processes that share the images; None for one.
        on_progress: called with the number of images done since the last call, of all processes.

    Returns:
        The features of all images; None on processes other than rank 0.

    Raises:
        FileNotFoundError: no such beton.
        ValueError: no images, or one that does not decode.
    """
    group = group or Group(World(device=torch.device(device)))
    rank, world_size = group.world.rank, group.world.world_size
    loader = build_loader(
        data,
        evaluation_views(view_size, center_share=share),
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        num_threads=num_threads,
        backend=backend,
        shuffle=False,
        drop_last=False,
        device=device,
    )
    features, mirrored, labels, index = [], [], [], []
    try:
        with evaluation_mode(backbone):
            for batch in loader:
                view = batch.large[0]
                features.append(embed(backbone, view, precision).cpu())
                if flipped:
                    mirrored.append(embed(backbone, view.flip(2), precision).cpu())
                labels.append(batch.label.cpu())
                index.append(batch.index.cpu())
                if on_progress is not None:
                    on_progress(len(batch.index) * world_size)
    finally:
        loader.close()
    counts = [len(range(other, loader.num_images, world_size)) for other in range(world_size)]
    found = [group.collect(torch.cat(parts), counts) for parts in (index, labels, features, *[mirrored] * flipped)]
    if found[0] is None:
        return None
    order = found[0].argsort()
    in_order = [rows if world_size == 1 else rows[order] for rows in found if rows is not None]
    return Features(
        index=in_order[0], labels=in_order[1], features=in_order[2], flipped=in_order[3] if flipped else None
    )
