"""The online network and its moving average, the target network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from relic.models.heads import mlp


class Network(nn.Module):
    """Map a view [N, 3, H, W] to its prediction [N, D], or its projection where there is no predictor."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.predictor = predictor

    def forward(self, view: Tensor) -> Tensor:
        projection = self.projector(self.backbone(view))
        return projection if self.predictor is None else self.predictor(projection)


class Twin(nn.Module):
    """Hold the online network (backbone, projector, predictor) and the target network (backbone, projector).

    The target starts as a copy of the online network, takes no gradient, and stays in training mode: its
    batch norms use batch statistics and keep running ones of their own. Only `online` goes to the optimizer,
    and only `online.backbone` is evaluated and exported.

    Args:
        backbone: maps [N, 3, H, W] to [N, feature_dim] and has the attribute `feature_dim`.
        projector_hidden: hidden width of the projector.
        predictor_hidden: hidden width of the predictor.
        projection_dim: D of projections and predictions.
        head_layers: Linear layers of each head: 2 as in BYOL, 4 for ReLIC's critic.
        predictor: False compares projections with projections (ReLIC).
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        projector_hidden: int = 4096,
        predictor_hidden: int = 4096,
        projection_dim: int = 256,
        head_layers: int = 2,
        predictor: bool = True,
    ) -> None:
        super().__init__()
        projector = mlp(cast(int, backbone.feature_dim), projector_hidden, projection_dim, layers=head_layers)
        self.target = Network(copy.deepcopy(backbone), copy.deepcopy(projector), None).requires_grad_(False)
        self.online = Network(
            backbone,
            projector,
            mlp(projection_dim, predictor_hidden, projection_dim, layers=head_layers) if predictor else None,
        )

    def online_forward(self, view: Tensor) -> Tensor:
        """Return the online output [N, D] of a view [N, 3, H, W], not normalised."""
        return self.online(view)

    @torch.no_grad()
    def target_forward(self, view: Tensor) -> Tensor:
        """Return the target projection [N, D] of a view [N, 3, H, W], not normalised, without gradient."""
        return self.target(view)

    @torch.no_grad()
    def update_target(self, decay: float) -> None:
        """Move every target parameter to decay * target + (1 - decay) * online.

        Buffers stay: the target's batch norms keep running statistics of what the target itself sees.

        Raises:
            ValueError: for a decay outside [0, 1].
        """
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"target decay {decay} is not in [0, 1]")
        online: list[Tensor] = [*self.online.backbone.parameters(), *self.online.projector.parameters()]
        target: list[Tensor] = [*self.target.backbone.parameters(), *self.target.projector.parameters()]
        torch._foreach_lerp_(target, online, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]


@contextmanager
def frozen_running_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of all batch norms while they still normalise with batch statistics.

    For the small views, whose statistics differ from those of the images that the backbone is evaluated on.
    In this context a batch norm in training mode gets no buffers at all, so that not even a non-finite batch
    leaves a trace, as it would with momentum 0. SyncBatchNorm reads the same switch, and torch.compile guards
    on it.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
