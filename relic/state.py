"""What a step changes: networks, optimizer, loss scaler; built from a configuration, saved and restored whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from relic.config import ModelConfig, RunConfig
from relic.distributed import World
from relic.models.backbones import build_backbone
from relic.models.twin import Network, Twin, frozen_running_statistics
from relic.optim.groups import build_optimizer
from relic.precision import gradient_scaler


class OnlineViews(nn.Module):
    """Run the online network on every view, one forward per view, so that batch statistics are per view.

    One module call per step, as DistributedDataParallel needs. Small views leave the running statistics alone: those
    are for evaluation, on images of the large views' scale.
    """

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, large: list[torch.Tensor], small: list[torch.Tensor]) -> torch.Tensor:
        """Map L large and S small views [B, 3, H, W] to [L + S, B, D]."""
        outputs = [self.network(view) for view in large]
        with frozen_running_statistics(self.network):
            outputs += [self.network(view) for view in small]
        return torch.stack(outputs)


class Classifier(nn.Module):
    """Backbone and one linear layer: the supervised baseline."""

    def __init__(self, backbone: nn.Module, num_classes: int):
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(backbone.feature_dim, num_classes)

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """Map a view [B, 3, H, W] to logits [B, num_classes]."""
        return self.fc(self.backbone(view))


@dataclass(kw_only=True)
class TrainState:
    """Everything that a step reads and changes."""

    model: Twin | Classifier
    """The parameters, as they are saved."""
    forward: nn.Module
    """What the step calls: `OnlineViews` of the twin, or the classifier; wrapped for many processes."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: str
    device: torch.device

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def build_model(config: RunConfig, num_classes: int) -> Twin | Classifier:
    """Build the networks on the CPU, seeded by `config.seed`.

    Args:
        config: the run.
        num_classes: for the supervised baseline.
    """
    torch.manual_seed(config.seed)
    model: ModelConfig = config.model
    backbone = build_backbone(model.backbone, stem=model.stem)
    if config.loss.kind == "supervised":
        return Classifier(backbone, num_classes)
    return Twin(
        backbone,
        projector_hidden=model.projector_hidden,
        predictor_hidden=model.predictor_hidden,
        projection_dim=model.projection_dim,
        head_layers=model.head_layers,
        predictor=model.predictor,
    )


def build_state(config: RunConfig, world: World, *, num_classes: int) -> TrainState:
    """Build networks, optimizer and scaler on this process's device, in channels-last memory."""
    model = build_model(config, num_classes)
    if world.world_size > 1:
        if world.device.type == "cpu":
            raise ValueError("several processes on CPUs cannot share batch statistics yet: run one process or use GPUs")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(world.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    trained = model.online if isinstance(model, Twin) else model
    if config.compile:
        trained.compile()
        if isinstance(model, Twin):
            model.target.compile()
    optimizer = build_optimizer(
        config.optim.name,
        trained,
        weight_decay=config.optim.weight_decay,
        momentum=config.optim.momentum,
        nesterov=config.optim.name == "sgd",
    )
    forward: nn.Module = OnlineViews(model.online) if isinstance(model, Twin) else model
    if world.world_size > 1:
        forward = DistributedDataParallel(forward, broadcast_buffers=False, gradient_as_bucket_view=True)
    return TrainState(
        model=model,
        forward=forward,
        optimizer=optimizer,
        scaler=gradient_scaler(config.precision, world.device),
        precision=config.precision,
        device=world.device,
    )
