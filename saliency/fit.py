"""Train a saliency network on images alone, in two phases as DeepUSPS does (Nguyen et al., NeurIPS 2019).

1. *Refine*: a head of the network for each prior learns the prior's own thresholded maps. Every few epochs the labels
   move towards the CRF-smoothed predictions: what is peculiar to one image's map cannot be learnt, and goes.
2. *Fuse*: raw and refined maps make one label per image (`saliency.labels.fused`), which one head learns.

DeepUSPS starts from supervised weights and trains a network per prior; here one network without any weights sees the
priors as inputs and has a head for each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from saliency import labels as make
from saliency.kept import Each, here, kept, mapped, prepared
from saliency.network import BATCH, SaliencyNetwork, save
from saliency.training import FitConfig, Phase, epochs, predicted


class Watcher(Protocol):
    """Is told how a fit comes on."""

    def prepared(self, images: int, of: int) -> None:
        """So many images have been looked at."""
        ...

    def epoch(self, phase: Phase, done: int, loss: float) -> None:
        """So many epochs are done; the mean loss of the last."""
        ...

    def phase(self, phase: Phase, rgb: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        """A phase has ended: images uint8 [n, side, side, 3], and maps of them uint8 [n, side, side] by name."""
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
) -> Path:
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
        The network's file, `folder/network.safetensors`.

    Raises:
        ValueError: fewer images than a batch; weights that do not fit.
    """
    if len(indices) < config.batch_size:
        raise ValueError(f"{len(indices)} images: a batch alone is {config.batch_size}; give more images")
    torch.manual_seed(config.seed)
    network = SaliencyNetwork(config.network, heads=len(config.network.priors))
    if start is not None:
        take_encoder(network, start)
    seen = prepared(read, indices, folder, config.network, lambda done: watcher.prepared(done, len(indices)), each)
    refined = _refine(network, seen, folder, config, watcher, each)
    final = SaliencyNetwork(config.network)
    final.load_state_dict(
        {name: value for name, value in network.state_dict().items() if not name.startswith("head.")}, strict=False
    )
    _fuse(final, seen, refined, folder, config, watcher, each)
    out = folder / "network.safetensors"
    save(final, out, {"fit": json.dumps(asdict(config)), "images": str(len(indices))})
    return out


def take_encoder(network: SaliencyNetwork, weights: dict[str, Tensor]) -> None:
    """Start the encoder from a ResNet-18's weights: its first convolution from the colours' part, heads from nothing.

    Raises:
        ValueError: they are of another depth or width.
    """
    own = network.state_dict()
    names = [name for name in own if name.startswith(("conv1.", "bn1.", "layer"))]
    missing = [name for name in names if name not in weights]
    if missing:
        raise ValueError(f"the weights have no {missing[0]}: give those of a ResNet-18, exported for torchvision")
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


# ---- phases ---------------------------------------------------------------------------------------------------


def _refine(
    network: SaliencyNetwork, seen: np.ndarray, folder: Path, config: FitConfig, watcher: Watcher, each: Each
) -> np.ndarray:
    """Train a head per prior, moving the labels now and then; return the last: uint8 [N, side, side, priors]."""
    every = config.relabel_every

    def labels_after(epochs: int) -> np.ndarray:
        return np.load(folder / f"labels-{epochs - epochs % every}.npy", mmap_mode="r")

    maps = seen[..., 3 : 3 + len(config.network.priors)]
    kept(folder / "labels-0.npy", lambda: mapped(each, make.thresholded, maps))
    for done in epochs(network, "refine", seen, labels_after, folder, config, partial(watcher.epoch, "refine")):
        if done % every == 0:
            move = partial(make.averaged, keep=config.keep)
            kept(
                folder / f"labels-{done}.npy",
                lambda: mapped(each, move, labels_after(done - every), predicted(network, seen), seen[..., :3]),  # noqa: B023 - called at once
            )
    refined = labels_after(config.refine_epochs)
    first = slice(0, BATCH)
    watcher.phase("refine", seen[first, ..., :3], {"priors": _mean(maps[first]), "refined": _mean(refined[first])})
    return refined


def _fuse(
    network: SaliencyNetwork,
    seen: np.ndarray,
    refined: np.ndarray,
    folder: Path,
    config: FitConfig,
    watcher: Watcher,
    each: Each,
) -> None:
    """Train one head on the fused labels."""
    maps = seen[..., 3 : 3 + len(config.network.priors)]
    labels = kept(folder / "fused.npy", lambda: mapped(each, make.fused, maps, refined, seen[..., :3]))
    for _ in epochs(network, "fuse", seen, lambda _: labels[..., None], folder, config, partial(watcher.epoch, "fuse")):
        pass
    first = slice(0, BATCH)
    columns = {"refined": _mean(refined[first]), "label": labels[first]}
    watcher.phase("fuse", seen[first, ..., :3], {**columns, "network": predicted(network, seen[first])[..., 0]})


def _mean(maps: np.ndarray) -> np.ndarray:
    return np.round(maps.mean(axis=-1)).astype(np.uint8)
