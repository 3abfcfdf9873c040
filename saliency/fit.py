"""Fit a saliency network on images alone: no labels, no weights of others.

In two steps, after DeepUSPS (Nguyen et al., NeurIPS 2019): the priors' maps are refined and fused into a label per
image, then a network learns the labels. What differs, and why (docs/masks.md has the figures):

- DeepUSPS refines each prior's maps by a network that starts from supervised weights. A network that starts from
  nothing refines them less well than the image itself does, so the labels come of the image: a CRF and a graph cut.
- DeepUSPS' network sees the image. Ours sees its priors too: they weigh the whole image against its border, which
  500 images do not teach a network that starts from nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from saliency.network import BATCH, MEAN, SaliencyNetwork, save
from saliency.prepared import Each, here, prepared
from saliency.training import FitConfig, predicted, train


class Watcher(Protocol):
    """Is told how a fit comes on."""

    def prepared(self, images: int, of: int) -> None:
        """So many images have been looked at."""
        ...

    def epoch(self, done: int, loss: float) -> None:
        """So many epochs are done; the mean loss of the last."""
        ...

    def phase(self, name: str, rgb: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        """`labels` are made, or the `network`: images uint8 [n, side, side, 3], maps uint8 [n, side, side] by name."""
        ...


def fit(
    read: Callable[[int], np.ndarray],
    indices: Sequence[int],
    folder: Path,
    config: FitConfig,
    *,
    watcher: Watcher,
    each: Each = here,
    start: dict[str, Tensor] | None = None,
) -> tuple[Path, int]:
    """Train a network; an interrupted fit continues from its last epoch, to the same bits.

    Args:
        read: index → uint8 RGB [H, W, 3]; picklable where `each` runs elsewhere.
        indices: images to train on.
        folder: for what the fit keeps; made by the caller, and belonging to these images and this configuration.
        config: how.
        watcher: told about progress.
        each: where images are prepared and labels made.
        start: weights of a ResNet-18 under torchvision's names for the encoder; what is missing starts from nothing.

    Returns:
        The network's file, `folder/network.safetensors`, and how many images it was trained on: damaged ones are left
        out.

    Raises:
        ValueError: fewer images than a batch; weights that do not fit.
    """
    torch.manual_seed(config.seed)
    network = SaliencyNetwork(config.network)
    if start is not None:
        take_encoder(network, start)
    seen, labels = prepared(
        read, indices, folder, config.network, lambda done: watcher.prepared(done, len(indices)), each
    )
    if len(seen) < config.batch_size:
        raise ValueError(f"{len(seen)} images: a batch alone takes {config.batch_size}; give more images")
    rgb = seen[..., :3]
    first = slice(0, BATCH)
    columns = {"mean of priors": seen[first, ..., MEAN], "label": labels[first]}
    watcher.phase("labels", rgb[first], columns)
    network = train(network, seen, labels, folder / "checkpoint.pt", config, watcher.epoch)
    watcher.phase("network", rgb[first], {**columns, "network": predicted(network, seen[first])})
    out = folder / "network.safetensors"
    save(network, out, {"fit": json.dumps(asdict(config)), "images": str(len(seen))})
    return out, len(seen)


def take_encoder(network: SaliencyNetwork, weights: dict[str, Tensor]) -> None:
    """Start the encoder from a ResNet-18's weights, its first convolution with nothing for all but the colours.

    Raises:
        ValueError: they are of another depth or width.
    """
    own = network.state_dict()
    names = [name for name in own if name.startswith(("conv1.", "bn1.", "layer"))]
    missing = [name for name in names if name not in weights]
    if missing:
        raise ValueError(f"the weights have no {missing[0]}: give those of a ResNet-18 with ImageNet's stem")
    for name in names:
        value = weights[name]
        if name == "conv1.weight" and value.shape[:1] + value.shape[2:] == own[name].shape[:1] + own[name].shape[2:]:
            value = torch.cat([value, torch.zeros_like(own[name][:, value.shape[1] :])], dim=1)
        if value.shape != own[name].shape:
            wanted = f"resnet18x{network.config.width:g}"
            raise ValueError(
                f"{name} of the weights is {tuple(value.shape)}, not {tuple(own[name].shape)}: pretrain a {wanted}"
            )
        own[name] = value
    network.load_state_dict(own)
