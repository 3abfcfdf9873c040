"""Linear classifiers on frozen features: a sweep of heads, trained all at once, the best chosen on held-out images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.build import Backend, build_loader
from pipelines.config import supervised_views
from relic.evaluate.config import LinearConfig
from relic.evaluate.features import Features, embed, evaluation_mode
from relic.weights import read_safetensors

CACHED_UP_TO = 100_000
LEAST_STEPS_PER_EPOCH = 16
CHUNK = 1_024
SMALL_STEP = 100_000_000  # multiply-adds


@dataclass(frozen=True, kw_only=True)
class Head:
    """A trained linear classifier, on the CPU."""

    weight: Tensor
    """float32 [C, D]."""
    bias: Tensor
    """float32 [C]."""
    learning_rate: float
    """Peak learning rate per 256 images that it was trained with."""
    weight_decay: float
    """Weight decay that it was trained with."""
    held_out_accuracy: float | None
    """Accuracy on the held-out images that chose it; None where there was nothing to choose."""


class Sweep:
    """H heads under SGD with Nesterov momentum .9 and a cosine to 0, each with its own rate and decay.

    Every step is two matrix products for all heads together. Softmax regression is convex, so they start at zero.

    Args:
        settings: (learning rate per 256 images, weight decay) of each head.
        num_classes: C.
        num_features: D.
        total_steps: length of the cosine.
        batch_size: images per step, by which the rates are scaled.
        device: where the heads are.
    """

    def __init__(
        self,
        settings: list[tuple[float, float]],
        *,
        num_classes: int,
        num_features: int,
        total_steps: int,
        batch_size: int,
        device: torch.device | str,
    ):
        self.settings, self.total_steps, self.done = settings, total_steps, 0
        shape = (len(settings), num_classes)
        self.weight = torch.zeros(*shape, num_features, device=device)
        self.bias = torch.zeros(*shape, device=device)
        self._momenta = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        self._rates = torch.tensor([rate * batch_size / 256 for rate, _ in settings], device=device)
        self._decays = torch.tensor([decay for _, decay in settings], device=device)[:, None, None]

    def logits(self, features: Tensor) -> Tensor:
        """Map features [n, D] to logits [n, H, C]."""
        flat = torch.addmm(self.bias.flatten(), features, self.weight.flatten(0, 1).T)
        return flat.view(len(features), *self.bias.shape)

    def step(self, features: Tensor, labels: Tensor) -> None:
        """Do one update of every head on its mean cross entropy over features [n, D] and labels [n]."""
        # The gradient of cross entropy by the logits is softmax - onehot: no autograd needed.
        gradient = self.logits(features).softmax(-1)
        gradient[torch.arange(len(labels), device=labels.device), :, labels] -= 1
        gradient /= len(labels)
        weight_gradient = (gradient.flatten(1).T @ features).view_as(self.weight) + self._decays * self.weight
        rates = self._rates * (0.5 * (1 + math.cos(math.pi * self.done / self.total_steps)))
        for parameter, momentum, slope in zip(
            (self.weight, self.bias), self._momenta, (weight_gradient, gradient.sum(0)), strict=True
        ):
            momentum.mul_(0.9).add_(slope)
            parameter.sub_((slope + 0.9 * momentum) * rates.view(-1, *[1] * (parameter.ndim - 1)))
        self.done += 1

    def best(self, features: Tensor, labels: Tensor) -> Head:
        """Return the head of the highest accuracy on features [n, D], of equal ones that of the lower cross entropy."""
        accuracy, loss = torch.zeros(len(self.settings)), torch.zeros(len(self.settings))
        for rows in torch.arange(len(labels)).split(CHUNK):
            logits = self.logits(features[rows].to(self.weight.device)).cpu()
            accuracy += (logits.argmax(-1) == labels[rows, None]).sum(0) / len(labels)
            log_p = logits.log_softmax(-1).gather(2, labels[rows].view(-1, 1, 1).expand(-1, logits.shape[1], 1))
            loss -= log_p.squeeze(2).sum(0) / len(labels)
        # A head that has diverged has a NaN loss, and whatever accuracy argmax makes of NaN logits.
        pairs = zip(accuracy.tolist(), loss.tolist(), strict=True)
        scores = [(right, -entropy) if math.isfinite(entropy) else (-1.0, 0.0) for right, entropy in pairs]
        winner = max(range(len(scores)), key=lambda number: scores[number])
        return self.head(winner, held_out_accuracy=accuracy[winner].item())

    def head(self, number: int, *, held_out_accuracy: float | None) -> Head:
        """Return one head of the sweep."""
        rate, decay = self.settings[number]
        return Head(
            weight=self.weight[number].cpu(),
            bias=self.bias[number].cpu(),
            learning_rate=rate,
            weight_decay=decay,
            held_out_accuracy=held_out_accuracy,
        )


def mode(config: LinearConfig, num_images: int) -> str:
    """Return `cached` or `augmented`: what `auto` means for a training set of this size."""
    if config.features != "auto":
        return config.features
    return "cached" if num_images <= CACHED_UP_TO else "augmented"


def train_cached(
    train: Features,
    config: LinearConfig,
    *,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> Head:
    """Train the sweep on stored features; each image shows its mirror image every other time where there is one.

    The winner's setting is trained once more on all images, the held-out ones too.

    Args:
        train: labelled features.
        config: protocol.
        device: where the heads are trained.
        on_progress: called with the epochs done since the last call, `epochs_of(config, "cached")` in all.

    Raises:
        ValueError: an empty sweep, or fewer images than can be split.
    """
    settings, (training, held_out) = settings_of(config), split(len(train.labels), config)
    chosen = _fit(train, training, settings, config, device, on_progress)
    if len(settings) == 1:
        return chosen.head(0, held_out_accuracy=None)
    best = chosen.best(train.features[held_out], train.labels[held_out])
    everything = torch.cat([held_out, training])
    again = _fit(train, everything, [(best.learning_rate, best.weight_decay)], config, device, on_progress)
    return again.head(0, held_out_accuracy=best.held_out_accuracy)


def train_augmented(
    backbone: nn.Module,
    data: str | Path,
    train: Features,
    config: LinearConfig,
    *,
    view_size: int,
    num_threads: int = 2,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    backend: Backend = "fused",
    on_progress: Callable[[int], None] | None = None,
) -> Head:
    """Train the sweep by the official protocol: a random crop (8 to 100 % of the area) and a flip each epoch.

    Args:
        backbone: on `device`; keeps its mode and its weights.
        data: the training beton.
        train: centre-crop features of the same beton, on whose held-out share the best head is chosen.
        config: protocol.
        view_size: side of the views in pixels.
        num_threads, device, precision, backend: as `relic.evaluate.features.extract`.
        on_progress: called with the epochs done since the last call.

    Raises:
        ValueError: an empty sweep, too few images, or one that does not decode.
    """
    settings, (training, held_out) = settings_of(config), split(len(train.labels), config)
    batch_size = batch_size_for(len(train.labels), config)
    loader = build_loader(
        data,
        supervised_views(view_size),
        batch_size=batch_size,
        seed=config.seed,
        num_threads=num_threads,
        backend=backend,
        device=device,
    )
    is_training = torch.zeros(len(train.labels), dtype=torch.bool)
    is_training[training] = True
    is_training = is_training.to(device)
    sweep = Sweep(
        settings,
        num_classes=int(train.labels.max()) + 1,
        num_features=train.features.shape[1],
        total_steps=config.epochs * len(loader),
        batch_size=batch_size,
        device=device,
    )
    try:
        with evaluation_mode(backbone):
            for epoch in range(config.epochs):
                loader.set_epoch(epoch)
                for batch in loader:
                    kept = is_training[batch.index]
                    if kept.any():
                        sweep.step(embed(backbone, batch.large[0][kept], precision), batch.label[kept])
                if on_progress is not None:
                    on_progress(1)
    finally:
        loader.close()
    if len(settings) == 1:
        return sweep.head(0, held_out_accuracy=None)
    return sweep.best(train.features[held_out], train.labels[held_out])


def accuracy(head: Head, test: Features, *, device: torch.device | str = "cpu") -> dict[str, float]:
    """Judge a head on labelled features.

    Returns:
        `linear` and `linear_top5`, shares of the images, and `linear_per_class`, the mean over the classes that occur
        of the share that is right, from 0 to 1.
    """
    weight, bias = head.weight.to(device), head.bias.to(device)
    guesses = []
    for features in test.features.split(CHUNK):
        logits = torch.addmm(bias, features.to(device), weight.T)
        guesses.append(logits.topk(min(5, len(bias)), dim=1).indices.cpu())
    right = torch.cat(guesses) == test.labels[:, None]
    images = torch.bincount(test.labels)
    hits = torch.bincount(test.labels, weights=right[:, 0].double())
    return {
        "linear": right[:, 0].double().mean().item(),
        "linear_top5": right.any(1).double().mean().item(),
        "linear_per_class": (hits[images > 0] / images[images > 0]).mean().item(),
    }


def settings_of(config: LinearConfig) -> list[tuple[float, float]]:
    """Return (learning rate, weight decay) of every head of the sweep.

    Raises:
        ValueError: there is none, or they are not to be trained at all.
    """
    for field, value in (("epochs", config.epochs), ("batch_size", config.batch_size)):
        if value < 1:
            raise ValueError(f"linear.{field}={value} must be 1 or more")
    settings = list(itertools.product(config.learning_rates, config.weight_decays))
    if not settings:
        raise ValueError("the linear sweep is empty: give --linear.learning-rates and --linear.weight-decays a value")
    return settings


def epochs_of(config: LinearConfig, chosen_mode: str) -> int:
    """Return how many epochs a call of `train_cached` or `train_augmented` reports."""
    refits = chosen_mode == "cached" and len(settings_of(config)) > 1
    return config.epochs * (1 + refits)


def split(num_images: int, config: LinearConfig) -> tuple[Tensor, Tensor]:
    """Return the training and the held-out positions, int64; nothing is held out of a sweep of one head.

    Raises:
        ValueError: the share leaves one of the two empty.
    """
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(config.seed))
    if len(settings_of(config)) == 1:
        return order, order[:0]
    held_out = max(round(config.held_out * num_images), 1)
    if not 0 < config.held_out < 1 or held_out >= num_images:
        raise ValueError(
            f"linear.held_out={config.held_out:g} of {num_images} training images leaves none to choose or to train on:"
            " give a share such as 0.1, or one --linear.learning-rates only"
        )
    return order[held_out:], order[:held_out]


def batch_size_for(num_images: int, config: LinearConfig) -> int:
    """Return the batch size, halved until an epoch has LEAST_STEPS_PER_EPOCH steps (the rate scales along)."""
    batch_size = config.batch_size
    while batch_size > 1 and num_images // batch_size < LEAST_STEPS_PER_EPOCH:
        batch_size //= 2
    return batch_size


def _fit(
    train: Features,
    training: Tensor,
    settings: list[tuple[float, float]],
    config: LinearConfig,
    device: torch.device | str,
    on_progress: Callable[[int], None] | None,
) -> Sweep:
    batch_size = batch_size_for(len(training), config)
    sweep = Sweep(
        settings,
        num_classes=int(train.labels.max()) + 1,
        num_features=train.features.shape[1],
        total_steps=config.epochs * (len(training) // batch_size),
        batch_size=batch_size,
        device=device,
    )
    views = torch.stack([train.features] if train.flipped is None else [train.features, train.flipped])
    views, labels = views[:, training].to(device), train.labels[training].to(device)
    generator = torch.Generator().manual_seed(config.seed)
    with _one_thread_if(batch_size * sweep.weight.numel() < SMALL_STEP):
        for _ in range(config.epochs):
            for rows, sides in _epoch(len(training), len(views), batch_size, generator):
                sweep.step(views[sides.to(device), rows.to(device)], labels[rows.to(device)])
            if on_progress is not None:
                on_progress(1)
    return sweep


@contextmanager
def _one_thread_if(small: bool) -> Iterator[None]:
    """Run small steps on one thread: on a busy machine their many barriers cost far more than they save.

    7,200 images, D = 128, 20 epochs on two cores with a load of 8: 240 s with two threads, 1.3 s with one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if small else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _epoch(
    num_images: int, num_sides: int, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows and which mirror image to show of each, a batch at a time; the incomplete last batch is dropped."""
    order = torch.randperm(num_images, generator=generator)
    sides = torch.randint(num_sides, (num_images,), generator=generator)
    for first in range(0, num_images - batch_size + 1, batch_size):
        span = slice(first, first + batch_size)
        yield order[span], sides[span]


def save_head(head: Head, path: Path, metadata: dict[str, str]) -> None:
    """Write a head as .safetensors, atomically.

    Args:
        head: what was trained.
        path: replaced where it exists.
        metadata: what the head belongs to: `step` and whatever a reader may want to know.
    """
    from safetensors.torch import save_file

    own = {
        "learning_rate": str(head.learning_rate),
        "weight_decay": str(head.weight_decay),
        "held_out_accuracy": "" if head.held_out_accuracy is None else str(head.held_out_accuracy),
    }
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}, temporary, {**metadata, **own})
    temporary.replace(path)


def load_head(path: Path) -> tuple[Head, dict[str, str]]:
    """Read what `save_head` wrote: the head and all metadata.

    Raises:
        ValueError: the file is damaged or no head.
    """
    tensors, metadata = read_safetensors(path)
    try:
        head = Head(
            weight=tensors["weight"],
            bias=tensors["bias"],
            learning_rate=float(metadata["learning_rate"]),
            weight_decay=float(metadata["weight_decay"]),
            held_out_accuracy=float(metadata["held_out_accuracy"]) if metadata["held_out_accuracy"] else None,
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no linear head ({error!r}): remove it and run `relic evaluate` again") from None
    return head, metadata
