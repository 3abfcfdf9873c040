"""The online network and its moving average, the target network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from relic.kernels.availability import has_triton
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
    def update_target(self, decay: float | Tensor) -> None:
        """Move every target parameter, of whatever dtype, to decay * target + (1 - decay) * online.

        Buffers stay: the target's batch norms keep running statistics of what the target itself sees. Keep the target
        in float32 (the online network may be of another dtype): in bf16 a decay of 0.996 moves a parameter only where
        the networks differ by about half its value, since smaller moves are rounded away.

        Args:
            decay: a 0-d tensor is read on its device, which must be the parameters', so that a captured step follows
                it; in float64 the 1 - decay of a long run's end is exact.

        Raises:
            ValueError: for a float outside [0, 1].
        """
        if not isinstance(decay, Tensor) and not 0.0 <= decay <= 1.0:
            raise ValueError(f"target decay {decay} is not in [0, 1]")
        online: list[Tensor] = [*self.online.backbone.parameters(), *self.online.projector.parameters()]
        target: list[Tensor] = [*self.target.backbone.parameters(), *self.target.projector.parameters()]
        if target[0].is_cuda and has_triton():
            from relic.kernels import multi_tensor

            if multi_tensor.fits(target, online):
                multi_tensor.lerp_(target, online, 1.0 - decay)
                return
        online = [new.to(old.dtype) for new, old in zip(online, target, strict=True)]
        if isinstance(decay, Tensor):
            weight = torch.rsub(decay, 1.0)
            weights = [weight.to(old.dtype) for old in target]
            torch._foreach_lerp_(target, online, weights)  # pyright: ignore[reportPrivateImportUsage]
        else:
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
