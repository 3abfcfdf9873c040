"""How features are judged, as frozen dataclasses. Imports no torch, since the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Protocol = Literal["knn", "linear"]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How images become features."""

    view_size: int
    """Side of the views in pixels."""
    center_share: float
    """Side of the centre crop as a share of the image's shorter side."""
    batch_size: int = 256
    """Images per batch."""
    num_threads: int = 2
    """Threads that decode and render."""
    device: str = "cpu"
    """Where the backbone and the classifiers run."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Autocast dtype of the backbone."""
    backend: Literal["fused", "reference"] = "fused"
    """Who decodes and renders."""


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """Nearest neighbours by cosine."""

    k: tuple[int, ...] = (10, 20)
    """Numbers of neighbours, each a result of its own."""
    vote: Literal["weighted", "majority"] = "weighted"
    """`weighted`: each neighbour counts exp(cosine / temperature), the field's standard (Wu et al., 2018; DINO).
    `majority`: each counts one, ties go to the classes nearer by."""
    temperature: float = 0.07
    """Of the weighted vote."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """A linear classifier on the frozen backbone: a sweep of heads, all trained at once."""

    features: Literal["auto", "cached", "augmented"] = "auto"
    """`cached`: centre crops and their mirror images, run through the backbone once. `augmented`: the official
    protocol, a random crop and a flip each epoch, through the backbone each time. `auto`: cached up to 100,000
    training images."""
    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 1024
    """Images per step; halved on small data until an epoch has 16 steps."""
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Peak learning rates per 256 images (official: 0.3), each a head of its own."""
    weight_decays: tuple[float, ...] = (0.0,)
    """Weight decays (official: 0), each with every learning rate."""
    held_out: float = 0.1
    """Share of the training images that choose the best head and train none. A sweep of one head trains on all."""
    seed: int = 0
    """Seed of the held-out share, the order, and the flips and crops."""
