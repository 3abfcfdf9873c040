"""What a step changes: networks, optimizer, loss scaler; built from a configuration, saved and restored whole."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from relic.config import ModelConfig, RunConfig
from relic.distributed import World
from relic.models.backbones import build_backbone
from relic.models.batch_norm import use_view_batch_norm
from relic.models.twin import Network, Twin, frozen_running_statistics
from relic.models.views import run_views
from relic.optim.groups import build_optimizer
from relic.precision import gradient_scaler

# The running statistics are the same on all processes already. torch 2.14 renamed the option.
_BUFFER_OPTIONS = ("forward_sync_buffers", "broadcast_buffers")
_KNOWN = inspect.signature(DistributedDataParallel).parameters
_KEEP_BUFFERS: dict[str, Any] = {next(name for name in _BUFFER_OPTIONS if name in _KNOWN): False}


class OnlineViews(nn.Module):
    """Run the online network on every view, with batch statistics per view.

    One module call per backward pass, as DistributedDataParallel needs. Small views leave the running statistics
    alone: those are for evaluation, on images of the large views' scale.
    """

    def __init__(self, network: Network, *, concatenate: bool):
        super().__init__()
        self.network, self.concatenate = network, concatenate

    def forward(self, large: list[torch.Tensor], small: list[torch.Tensor]) -> torch.Tensor:
        """Map L large and S small views [B, 3, H, W] to [L + S, B, D]."""
        outputs = run_views(self.network, large, concatenate=self.concatenate)
        with frozen_running_statistics(self.network):
            outputs += run_views(self.network, small, concatenate=self.concatenate)
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


class ClassifierViews(nn.Module):
    """Run a classifier on every large view; one module call per backward pass."""

    def __init__(self, classifier: Classifier, *, concatenate: bool):
        super().__init__()
        self.classifier, self.concatenate = classifier, concatenate

    def forward(self, large: list[torch.Tensor]) -> torch.Tensor:
        """Map L views [B, 3, H, W] to logits [L, B, num_classes]."""
        return torch.stack(run_views(self.classifier, large, concatenate=self.concatenate))


@dataclass(kw_only=True)
class TrainState:
    """Everything that a step reads and changes."""

    model: Twin | Classifier
    """The parameters, as they are saved."""
    forward: nn.Module
    """What the step calls: `OnlineViews` or `ClassifierViews`; wrapped for many processes."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: str
    world: World
    config: RunConfig
    trained: list[nn.Parameter] = field(init=False)
    """The parameters that the optimizer updates."""

    def __post_init__(self) -> None:
        self.trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.world.device

    def without_exchange(self) -> AbstractContextManager[None]:
        """Return a context in which gradients are added up here only, for all but the last part of a batch."""
        return self.forward.no_sync() if isinstance(self.forward, DistributedDataParallel) else nullcontext()

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
    """Build networks, optimizer and scaler on this process's device."""
    model = build_model(config, num_classes)
    concatenate = config.model.concatenate_views
    if world.world_size > 1 or concatenate:
        use_view_batch_norm(model, world_size=world.world_size)
    memory = torch.channels_last if config.channels_last else torch.contiguous_format
    model = model.to(world.device, memory_format=memory)  # pyright: ignore[reportCallIssue]
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
    forward: nn.Module
    if isinstance(model, Twin):
        forward = OnlineViews(model.online, concatenate=concatenate)
    else:
        forward = ClassifierViews(model, concatenate=concatenate)
    if world.world_size > 1:
        # A static graph whose first backward passes exchange nothing fails inside torch's reducer (2.14).
        is_static = config.optim.accumulate == 1
        forward = DistributedDataParallel(
            forward, gradient_as_bucket_view=True, static_graph=is_static, **_KEEP_BUFFERS
        )
    return TrainState(
        model=model,
        forward=forward,
        optimizer=optimizer,
        scaler=gradient_scaler(config.precision, world.device),
        precision=config.precision,
        world=world,
        config=config,
    )
