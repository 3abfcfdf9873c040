"""Epochs of a saliency network. What each shows depends on (seed, epoch) alone: a fit resumes to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from saliency.network import BATCH, NetworkConfig, SaliencyNetwork, has_bfloat16, normalized, probabilities, ready

WARM_UP_EPOCHS = 2
AVERAGED_STEPS = 300  # that the average of weights reaches back
SIZES = (0.8, 1.1)  # of the window, as shares of the image's side
CONTRASTS, BRIGHTNESS = (0.7, 1.3), 0.2  # of the colours alone, in normalised units


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a network is trained."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    """What it sees, and its size."""
    epochs: int = 200
    """Passes over the images."""
    batch_size: int = BATCH
    """Images per step."""
    learning_rate: float = 2e-3
    """Of AdamW, after two epochs of warm-up; falls to 0 as a cosine."""
    weight_decay: float = 0.05
    """Of AdamW."""
    seed: int = 0
    """Of the first weights, and of all that is drawn while training."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: give at least 1")


def train(
    network: SaliencyNetwork,
    seen: np.ndarray,
    labels: np.ndarray,
    checkpoint: Path,
    config: FitConfig,
    on_epoch: Callable[[int, float], None],
) -> SaliencyNetwork:
    """Train for all epochs, or for those that a checkpoint leaves.

    Args:
        network: trained in place.
        seen: uint8 [N, side, side, C], as `saliency.network.channels` gives it.
        labels: uint8 [N, side, side].
        checkpoint: file that is read where it exists, and written after every epoch.
        config: how.
        on_epoch: told how many epochs are done, and the mean loss of the last.

    Returns:
        The moving average of the network's weights, in evaluation mode.
    """
    network.to(memory_format=torch.channels_last)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / AVERAGED_STEPS), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    kept = {"network": network, "averaged": averaged, "optimizer": optimizer}
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, part in kept.items():
            part.load_state_dict(state[name])
        done = state["epochs"]
    while done < config.epochs:
        loss = _epoch(network, averaged, optimizer, done, seen, labels, config)
        done += 1
        temporary = checkpoint.with_suffix(".partial")
        torch.save({**{name: part.state_dict() for name, part in kept.items()}, "epochs": done}, temporary)
        temporary.replace(checkpoint)
        on_epoch(done, loss)
    return averaged.module.eval()


def _epoch(
    network: SaliencyNetwork,
    averaged: AveragedModel,
    optimizer: torch.optim.Optimizer,
    number: int,
    seen: np.ndarray,
    labels: np.ndarray,
    config: FitConfig,
) -> float:
    """Show all images once, in an order and with changes that only (seed, epoch) tell; return the mean loss."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_000 + number)
    order = torch.randperm(len(seen), generator=generator).numpy()
    steps = len(seen) // config.batch_size
    losses = []
    network.train()
    for step in range(steps):
        chosen = np.sort(order[step * config.batch_size : (step + 1) * config.batch_size])
        inputs, targets = augmented(
            normalized(torch.from_numpy(seen[chosen])), torch.from_numpy(labels[chosen]), generator
        )
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(number * steps + step, steps, config.epochs)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            logits = network(inputs)
        loss = F.binary_cross_entropy_with_logits(logits[:, 0].float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update_parameters(network)
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _rate(step: int, steps: int, epochs: int) -> float:
    """Return the learning rate as a share of the largest: linear warm-up times a cosine."""
    warm_up = min(1, (step + 1) / (WARM_UP_EPOCHS * steps))
    return warm_up * 0.5 * (1 + math.cos(math.pi * step / (epochs * steps)))


def augmented(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror, enlarge or shrink and shift images with all that belongs to them, and change their colours.

    Args:
        inputs: float32 [N, C, side, side], as `saliency.network.normalized` gives them.
        labels: uint8 [N, side, side].
        generator: draws.

    Returns:
        Inputs float32 [N, C, side, side], and labels float32 [N, side, side] in [0, 1].
    """
    count = len(inputs)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high, generator=generator)

    size, mirror = uniform(*SIZES), torch.sign(uniform(-1, 1))
    room = (1 - size).clamp_min(0)
    window = torch.zeros(count, 2, 3)
    window[:, 0, 0], window[:, 1, 1] = size * mirror, size
    window[:, 0, 2], window[:, 1, 2] = uniform(-1, 1) * room, uniform(-1, 1) * room
    grid = F.affine_grid(window, [*inputs.shape], align_corners=False)
    inputs, targets = (
        F.grid_sample(each, grid, padding_mode="reflection", align_corners=False)
        for each in (inputs, labels[:, None].float() / 255)
    )
    inputs[:, :3] = inputs[:, :3] * uniform(*CONTRASTS, 1, 1, 1) + uniform(-BRIGHTNESS, BRIGHTNESS, 3, 1, 1)
    return inputs.contiguous(memory_format=torch.channels_last), targets[:, 0].clamp(0, 1)


def predicted(network: SaliencyNetwork, seen: np.ndarray) -> np.ndarray:
    """Run the network on images: uint8 [N, side, side]."""
    network = ready(network)
    batches = (torch.from_numpy(seen[start : start + BATCH]) for start in range(0, len(seen), BATCH))
    maps = [probabilities(network, normalized(batch)) for batch in batches]
    return (torch.cat(maps) * 255).round().byte().numpy()
