"""One optimisation step as a function: no I/O, no host synchronisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch.nn import functional as F

from pipelines.contract import Batch
from pipelines.ops.normalize import normalize
from relic.collectives import gather_images
from relic.losses import reference_loss, relic_loss
from relic.models.twin import Twin
from relic.models.views import run_views
from relic.optim.groups import clip_gradients, set_learning_rate
from relic.precision import DTYPES, autocast
from relic.state import TrainState

Metrics = dict[str, torch.Tensor]


def train_step(
    state: TrainState,
    batch: Batch,
    negatives: list[torch.Tensor | None],
    *,
    learning_rate: float,
    target_decay: float,
) -> Metrics:
    """Do one update of the online network (or the classifier), then of the target network.

    Args:
        state: changed in place.
        batch: uint8 views of the local batch on the device.
        negatives: for each of the `optim.accumulate` parts of the batch int64 [B, n], indices into that part (of all
            processes, if `loss.negatives_from` is global), or None for all other images.
        learning_rate: of this step.
        target_decay: of this step.

    Returns:
        Scalars on the device: `loss` and its parts, this process's means; `gradient_norm` of all processes' mean
        gradient; `finite`, 1 unless loss or gradient is not (float16 may skip infinite gradients, they do not count).
    """
    set_learning_rate(state.optimizer, learning_rate)
    state.optimizer.zero_grad(set_to_none=True)
    metrics: Metrics = {}
    parts = len(negatives)
    for number, (part, chosen) in enumerate(zip(split(batch, parts), negatives, strict=True)):
        is_last = number == parts - 1
        with nullcontext() if is_last else state.without_exchange():
            with autocast(state.precision, state.device):
                total, found = objective(state, part, chosen)
            state.scaler.scale(total / parts).backward()
        metrics = {name: metrics.get(name, 0) + value / parts for name, value in found.items()}

    state.scaler.unscale_(state.optimizer)
    metrics["gradient_norm"] = clip_gradients(state.trained, state.config.optim.clip_norm)
    sound = metrics["gradient_norm"].isfinite()
    if state.scaler.is_enabled():
        # float16: an infinite gradient is skipped and lowers the scale; below 1 the scale is not what makes it infinite
        sound |= state.scaler._scale >= 1
    finite = metrics["loss"].isfinite() & sound
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if isinstance(state.model, Twin):
        state.model.update_target(target_decay)
    return {**metrics, "finite": finite.float()}


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    """Cut a batch into parts of as many images each; the views are not copied."""
    size = len(batch.index) // parts
    for start in range(0, size * parts, size):
        chosen = slice(start, start + size)
        yield Batch(
            index=batch.index[chosen],
            label=batch.label[chosen],
            large=[view[chosen] for view in batch.large],
            small=[view[chosen] for view in batch.small],
        )


def objective(state: TrainState, part: Batch, negatives: torch.Tensor | None) -> tuple[torch.Tensor, Metrics]:
    """Return the loss of a part of the batch, and what is logged."""
    if isinstance(state.model, Twin):
        return relic_objective(state, part, negatives)
    return supervised_objective(state, part)


def relic_objective(state: TrainState, part: Batch, negatives: torch.Tensor | None) -> tuple[torch.Tensor, Metrics]:
    """Show all views to the online network, the large ones to the target, and compare every pair."""
    config, world = state.config.loss, state.world
    large, small = normalized(part.large, state), normalized(part.small, state)
    online = state.forward(large, small)
    with torch.no_grad():
        concatenate = state.config.model.concatenate_views
        target = torch.stack(run_views(state.model.target, large, concatenate=concatenate))
    anchors = None
    if config.negatives_from == "global" and world.world_size > 1:
        own = len(part.index)
        online, target = gather_images(online, world), gather_images(target, world)
        anchors = range(world.rank * own, (world.rank + 1) * own)
    result = (relic_loss if config.fused else reference_loss)(
        online,
        target,
        negatives,
        temperature=config.temperature,
        contrastive_weight=config.contrastive_weight,
        invariance_weight=config.invariance_weight,
        anchors=anchors,
    )
    return result.total, {
        "loss": result.total.detach(),
        "contrastive": result.contrastive.detach(),
        "invariance": result.invariance.detach(),
    }


def supervised_objective(state: TrainState, part: Batch) -> tuple[torch.Tensor, Metrics]:
    """Cross entropy of the labels, mean over the large views; `accuracy` is that of the training views."""
    logits = state.forward(normalized(part.large, state))
    labels = part.label.expand(len(part.large), -1)
    total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
    accuracy = (logits.detach().argmax(-1) == labels).float().mean()
    return total, {"loss": total.detach(), "accuracy": accuracy}


def normalized(views: list[torch.Tensor], state: TrainState) -> list[torch.Tensor]:
    """Return views as the networks take them."""
    cast = [normalize(view, DTYPES[state.precision]) for view in views]
    return cast if state.config.channels_last else [view.contiguous() for view in cast]
