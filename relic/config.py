"""Everything a run can be told, as frozen dataclasses, and its round trip through `config.yaml`. Imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from pipelines.config import ViewsConfig


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How views are made on this machine; changes no pixel beyond the backends' stated tolerance."""

    backend: Literal["fused", "reference", "dali", "ffcv", "synthetic"] = "fused"
    """Who decodes and renders; dali does it on the GPU, for hosts with few cores."""
    num_threads: int = 0
    """Worker threads per process; 0 takes this process's share of the cores (a quarter of it where networks train on
    the CPU)."""
    prefetch: int = 2
    """Batches in flight."""
    photometric: Literal["host", "device"] = "host"
    """Where backgrounds, jitter, grayscale, blur and solarize are done; `device` spares the host (dali always does)."""
    on_corrupt: Literal["raise", "skip"] = "raise"
    """What a sample that does not decode does: stop with its index and file, or be replaced with a warning."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Backbone and heads."""

    backbone: str = "resnet50"
    """resnet{18,34,50,101,152,200} with a width (resnet50x2, resnet18x0.25), or timm:NAME."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """7x7 stride 2 and max-pool, or one 3x3 for images of 32 to 96 pixels."""
    projector_hidden: int = 4096
    """Hidden features of the projector."""
    predictor_hidden: int = 4096
    """Hidden features of the predictor."""
    projection_dim: int = 256
    """Features that the loss compares."""
    head_layers: int = 2
    """Linear layers per head (4 in ReLIC v1's critic)."""
    predictor: bool = True
    """Whether the online network has a predictor behind its projector."""
    concatenate_views: bool = False
    """One forward pass for all views of a size, each normalised by its own statistics: fewer and larger kernels and
    exchanges between processes."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The objective."""

    kind: Literal["relic", "supervised"] = "relic"
    """ReLIC's contrastive + invariance loss, or cross entropy of the large views (the baseline, like for like)."""
    temperature: float = 0.2
    """Temperature of both softmaxes."""
    num_negatives: int | None = 10
    """Images of the batch that each anchor is contrasted with; None takes all others (ReLIC v1)."""
    contrastive_weight: float = 0.3
    """Weight of -log p(positive)."""
    invariance_weight: float = 5.0
    """Weight of KL(p || q)."""
    negatives_from: Literal["local", "global"] = "local"
    """Whether negatives come from the images of this process or of all processes (which then exchange outputs)."""
    fused: bool = True
    """Use the fused loss; False takes the plain reference."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and the schedules of learning rate and target."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    """LARS in the official form, Nesterov SGD, or AdamW."""
    base_learning_rate: float = 0.3
    """Peak learning rate per 256 images of the global batch."""
    warmup: str = "10ep"
    """Linear warm-up before the cosine, as a duration (10ep, 500st, 5%)."""
    weight_decay: float = 1.5e-6
    """Not applied to biases and batch norm."""
    momentum: float = 0.9
    """Momentum of LARS and SGD."""
    target_decay: float = 0.996
    """Decay of the target network at the first step; rises to 1 along a cosine."""
    clip_norm: float | None = None
    """Largest norm of the gradient of a step; None leaves it as it is."""
    accumulate: int = 1
    """Parts that each process's share of a batch is computed in, one after the other, to save memory. The update is
    that of the whole batch; batch statistics and negatives are those of a part."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: str = "1ep"
    """Interval between checkpoints, as a duration."""
    every_minutes: float = 15.0
    """A checkpoint is also written when the last is older than this; 0 never does."""
    keep_last: int = 2
    """Newest checkpoints kept."""
    keep_every: str | None = None
    """Checkpoints at multiples of this duration are kept for good (50ep)."""


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How processes wait for each other."""

    timeout_seconds: float = 300.0
    """Longest silence of another process before the run ends with an error; must outlast the slowest health probe."""


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written while training."""

    every: str = "10st"
    """Interval of the metrics, as a duration; they are read from the device only then."""
    health_every: str = "5%"
    """Interval of the health metrics (feature std, RankMe, target distance), as a duration."""
    health_images: int = 512
    """Images of the fixed subset that health is measured on."""
    tensorboard: bool = True
    """Write event files into the run directory."""
    wandb: bool = False
    """Also log to Weights & Biases (extra `track`)."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One pretraining run."""

    recipe: tyro.conf.Fixed[str]
    """The recipe it started from."""
    data: str = ""
    """Beton to train on (made by `relic data convert`)."""
    masks: str | None = None
    """Mask store of that beton (made by `relic masks infer`); without one every view keeps its background."""
    plates: str | None = None
    """Background plates (.npy) for background.mode=swap."""
    name: str | None = None
    """Run directory under `runs`; by default the recipe's name."""
    runs: str = "runs"
    """Folder of run directories."""
    seed: int = 0
    """Seed of initialisation, order, views and negatives."""
    batch_size: int = 4096
    """Images per step over all ranks."""
    duration: str = "300ep"
    """Length of the run: epochs (300ep), steps (500st), images (1000000im)."""
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Autocast dtype; losses, statistics and weights stay float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU where there is one."""
    compile: bool = False
    """Run the networks through torch.compile."""
    channels_last: bool = True
    """Keep images and weights in channels-last memory, which convolutions on GPUs and CPUs prefer."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """The views of an image."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How views are made on this machine."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Backbone and heads."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The objective."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedules."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save and what to keep."""
    log: LogConfig = field(default_factory=LogConfig)
    """What is written while training."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """How processes wait for each other."""


def run_directory(config: RunConfig) -> Path:
    """Return `runs/NAME`."""
    return Path(config.runs) / (config.name or config.recipe)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain values (tuples as lists), ready for YAML."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, tuple | list) else value

    return plain(dataclasses.asdict(config))


def from_dict(kind: type, values: dict[str, Any], *, where: str = "config") -> Any:
    """Build a dataclass from nested plain values.

    Args:
        kind: the dataclass.
        values: as `to_dict` gives them; missing fields take their defaults.
        where: names the place in errors.

    Raises:
        ValueError: an unknown field, with the nearest valid name.
    """
    hints = typing.get_type_hints(kind)
    unknown = [name for name in values if name not in hints]
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], hints, 1)
        hint = f": did you mean {nearest[0]!r}?" if nearest else f" (fields: {', '.join(hints)})"
        raise ValueError(f"{where} has no field {unknown[0]!r}{hint}")
    return kind(**{name: _typed(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _typed(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where=where)
    if isinstance(value, list):
        return tuple(value)
    origin = typing.get_origin(hint)
    allowed = typing.get_args(hint)
    if origin is Literal and value not in allowed:
        raise ValueError(f"{where} is {value!r}, not one of {', '.join(map(str, allowed))}")
    scalars = allowed if origin in (typing.Union, types.UnionType) else (hint,)
    if float in scalars and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = tuple(kind for kind in scalars if isinstance(kind, type))
    if origin is not Literal and plain and not isinstance(value, plain):
        raise ValueError(f"{where} is {value!r}, not {' or '.join(kind.__name__ for kind in plain)}")
    return value


def save(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    import yaml

    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w") as file:
        yaml.safe_dump(to_dict(config), file, sort_keys=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(path: Path) -> RunConfig:
    """Read a `config.yaml`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it has an unknown field or a value of the wrong kind.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: is {path.parent} a run directory?")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(
            f"{path} is no YAML ({' '.join(str(error).split())}): every checkpoint holds a copy, under `config`"
        ) from error
    if not isinstance(values, dict) or "recipe" not in values:
        raise ValueError(f"{path} is no configuration of a run (it names no recipe): is it cut off?")
    return from_dict(RunConfig, values, where=str(path))


# What may change between the parts of one run: where it lies, how this machine makes its views, what is written when.
_FREE_FIELDS = ("name", "runs", "device", "loader", "log", "checkpoint", "distributed")


def difference(old: RunConfig, new: RunConfig) -> list[str]:
    """Return `field: old -> new` for every field that changes what is computed."""
    left, right = flatten(to_dict(old)), flatten(to_dict(new))
    return [
        f"{name}: {left.get(name)} -> {right.get(name)}"
        for name in sorted(left.keys() | right.keys())
        if name.split(".")[0] not in _FREE_FIELDS and left.get(name) != right.get(name)
    ]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
