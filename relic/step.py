"""One optimisation step as a function: no I/O, no host synchronisation."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pipelines.contract import Batch
from pipelines.ops.normalize import normalize
from relic.config import LossConfig
from relic.losses.relic import relic_loss
from relic.models.twin import Twin
from relic.optim.groups import set_learning_rate
from relic.precision import DTYPES, autocast
from relic.state import TrainState


def train_step(
    state: TrainState,
    batch: Batch,
    negatives: torch.Tensor,
    loss: LossConfig,
    *,
    learning_rate: float,
    target_decay: float,
) -> dict[str, torch.Tensor]:
    """Do one update of the online network (or the classifier), then of the target network.

    Args:
        state: changed in place.
        batch: uint8 views of the local batch on the device.
        negatives: int64 [B, n] indices into the local batch; unused by the supervised loss.
        loss: which objective, its weights and temperature.
        learning_rate: of this step.
        target_decay: of this step.

    Returns:
        Scalars on the device, float32: `loss` and its parts.
    """
    set_learning_rate(state.optimizer, learning_rate)
    with autocast(state.precision, state.device):
        total, metrics = (relic_objective if isinstance(state.model, Twin) else supervised_objective)(
            state, batch, negatives, loss
        )
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(total).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if isinstance(state.model, Twin):
        state.model.update_target(target_decay)
    return metrics


def relic_objective(
    state: TrainState, batch: Batch, negatives: torch.Tensor, loss: LossConfig
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Show all views to the online network, the large ones to the target, and compare every pair."""
    dtype = DTYPES[state.precision]
    large = [normalize(view, dtype) for view in batch.large]
    small = [normalize(view, dtype) for view in batch.small]
    online = state.forward(large, small)
    target = torch.stack([state.model.target_forward(view) for view in large])
    result = relic_loss(
        online,
        target,
        negatives,
        temperature=loss.temperature,
        contrastive_weight=loss.contrastive_weight,
        invariance_weight=loss.invariance_weight,
    )
    return result.total, {
        "loss": result.total.detach(),
        "contrastive": result.contrastive.detach(),
        "invariance": result.invariance.detach(),
    }


def supervised_objective(
    state: TrainState, batch: Batch, negatives: torch.Tensor, loss: LossConfig
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Cross entropy of the labels, mean over the large views; `accuracy` is that of the training views."""
    dtype = DTYPES[state.precision]
    logits = torch.stack([state.forward(normalize(view, dtype)) for view in batch.large])
    labels = batch.label.expand(len(batch.large), -1)
    total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
    accuracy = (logits.detach().argmax(-1) == labels).float().mean()
    return total, {"loss": total.detach(), "accuracy": accuracy}
