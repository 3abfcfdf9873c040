"""Epochs of a saliency network. What each shows depends on (seed, phase, epoch) alone: a fit resumes to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from saliency.network import BATCH, NetworkConfig, SaliencyNetwork, autocast, normalized, probabilities

Phase = Literal["refine", "fuse"]
PHASES: tuple[Phase, ...] = ("refine", "fuse")
WARM_UP_EPOCHS = 2
SIZES = (0.8, 1.1)  # of the window, as shares of the image's side
CONTRASTS, BRIGHTNESS = (0.7, 1.3), 0.2  # of the colours alone, in normalised units


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a network is trained."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    refine_epochs: int = 12
    """Of the first phase."""
    relabel_every: int = 4
    """Epochs between two moves of the labels in the first phase."""
    keep: float = 0.7
    """Share of the old label in a move (DeepUSPS)."""
    fuse_epochs: int = 40
    """Of the second phase."""
    batch_size: int = BATCH
    learning_rate: float = 2e-3
    """Of AdamW, after two epochs of warm-up; falls to 0 as a cosine in each phase."""
    weight_decay: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("refine_epochs", "relabel_every", "fuse_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: give at least 1")
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep {self.keep}: give 0 to 1")

    def epochs(self, phase: Phase) -> int:
        """Return the epochs of a phase."""
        return self.refine_epochs if phase == "refine" else self.fuse_epochs


def epochs(
    network: SaliencyNetwork,
    phase: Phase,
    seen: np.ndarray,
    labels_after: Callable[[int], np.ndarray],
    folder: Path,
    config: FitConfig,
    on_epoch: Callable[[int, float], None],
) -> Iterator[int]:
    """Train for the epochs of a phase; yields how many are done after each, on resuming first the one before.

    Args:
        network: trained in place.
        phase: names the checkpoint, and the draws.
        seen: uint8 [N, side, side, C], as `saliency.network.channels` gives it.
        labels_after: epochs done → uint8 [N, side, side, heads].
        folder: where the checkpoint lies.
        config: how.
        on_epoch: told how many epochs are done, and the mean loss of the last.
    """
    checkpoint, total = folder / f"{phase}.pt", config.epochs(phase)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["epochs"]
        yield done
    while done < total:
        loss = _epoch(network, optimizer, phase, done, seen, labels_after(done), config)
        done += 1
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epochs": done}
        temporary = checkpoint.with_suffix(".partial")
        torch.save(state, temporary)
        temporary.replace(checkpoint)
        on_epoch(done, loss)
        yield done


def _epoch(
    network: SaliencyNetwork,
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    number: int,
    seen: np.ndarray,
    labels: np.ndarray,
    config: FitConfig,
) -> float:
    """Show all images once; return the mean loss. Everything drawn depends on (seed, phase, epoch) alone."""
    generator = torch.Generator().manual_seed((config.seed * len(PHASES) + PHASES.index(phase)) * 1_000_000 + number)
    order = torch.randperm(len(seen), generator=generator).numpy()
    steps = len(seen) // config.batch_size
    losses = []
    network.train()
    for step in range(steps):
        chosen = np.sort(order[step * config.batch_size : (step + 1) * config.batch_size])
        inputs, targets = augmented(torch.from_numpy(seen[chosen]), torch.from_numpy(labels[chosen]), generator)
        done = number * steps + step
        rate = min(1, (done + 1) / (WARM_UP_EPOCHS * steps))
        rate *= 0.5 * (1 + math.cos(math.pi * done / (config.epochs(phase) * steps)))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * rate
        with autocast():
            logits = network(inputs)
        loss = F.binary_cross_entropy_with_logits(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    network.eval()
    return float(torch.stack(losses).mean())


def augmented(seen: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror, enlarge or shrink and shift images with all that belongs to them, and change their colours.

    Args:
        seen: uint8 [N, side, side, C].
        labels: uint8 [N, side, side, heads].
        generator: draws.

    Returns:
        What the network sees, float32 [N, C + 2, side, side], and labels float32 [N, heads, side, side] in [0, 1].
    """
    count = len(seen)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high, generator=generator)

    inputs, targets = normalized(seen), labels.permute(0, 3, 1, 2).float() / 255
    size, mirror = uniform(*SIZES), torch.sign(uniform(-1, 1))
    room = (1 - size).clamp_min(0)
    window = torch.zeros(count, 2, 3)
    window[:, 0, 0], window[:, 1, 1] = size * mirror, size
    window[:, 0, 2], window[:, 1, 2] = uniform(-1, 1) * room, uniform(-1, 1) * room
    grid = F.affine_grid(window, [*inputs.shape], align_corners=False)
    inputs, targets = (
        F.grid_sample(each, grid, padding_mode="reflection", align_corners=False) for each in (inputs, targets)
    )
    inputs[:, :3] = inputs[:, :3] * uniform(*CONTRASTS, 1, 1, 1) + uniform(-BRIGHTNESS, BRIGHTNESS, 3, 1, 1)
    return inputs.contiguous(memory_format=torch.channels_last), targets.clamp(0, 1)


def predicted(network: SaliencyNetwork, seen: np.ndarray) -> np.ndarray:
    """Run the network on all images and on their mirror images: uint8 [N, side, side, heads]."""
    out = []
    for start in range(0, len(seen), BATCH):
        images = torch.from_numpy(seen[start : start + BATCH])
        mean = (probabilities(network, images) + probabilities(network, images.flip(2)).flip(3)) / 2
        out.append((mean * 255).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(out)
