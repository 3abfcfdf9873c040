"""Backbones from runs, checkpoints and weight files: always the online network's, in evaluation mode."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from relic import checkpoint
from relic import config as configuration
from relic.config import RunConfig
from relic.models.backbones import build_backbone
from relic.models.resnet import DEPTHS, Padding, SameConv2d, Stem

PHOTOGRAPH_VIEW_SIZE = 224
SMALL_VIEW_SIZE = 32
# Where torchvision and timm put the classifier, which is no part of a backbone.
_CLASSIFIERS = ("fc.", "head.", "classifier.")


@dataclass(frozen=True, kw_only=True)
class LoadedBackbone:
    """A backbone and what is known of it."""

    backbone: nn.Module
    """On the CPU, in evaluation mode; maps [N, 3, H, W] to [N, feature_dim]."""
    name: str
    """As `relic.models.build_backbone` takes it."""
    stem: Stem
    padding: Padding
    view_size: int
    """Side of the views to evaluate with, in pixels: that of the run's large views; 224 where no run is known (32 with
    stem cifar)."""
    config: RunConfig | None
    """The run's configuration; None for a weights file."""
    step: int | None
    """Updates done; None where it is unknown."""
    run: Path | None
    """Directory of the run; None for a weights file or a checkpoint outside of one."""
    classifier: tuple[Tensor, Tensor] | None
    """Weight [C, feature_dim] and bias [C] of the classifier `fc` stored with it: a supervised run's."""


def load_backbone(source: Path | str, *, name: str | None = None) -> LoadedBackbone:
    """Load a backbone.

    Args:
        source: a run directory (its newest checkpoint), a checkpoint file, or weights (.safetensors, or a .pth in
            torchvision's keys, with or without a classifier).
        name: backbone of a weights file; found in it by default, but for timm's .pth files.

    Raises:
        FileNotFoundError: no such file, or a run without checkpoint.
        ValueError: a damaged file, one that holds another network, or a name for a run, which has its own.
    """
    source = Path(source)
    if source.is_dir():
        path = checkpoint.newest(source)
        if path is None:
            raise FileNotFoundError(
                f"{source} has no checkpoints/step-*.pt: is it a run directory, and has it saved one yet?"
            )
        return _from_checkpoint(checkpoint.read(path), path, name, source)
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing: give a run directory, a checkpoint or a weights file")
    if source.suffix == ".safetensors":
        tensors, metadata = read_safetensors(source)
        return _from_weights(tensors, metadata, source, name)
    content = _read_torch(source)
    if "format" in content and "model" in content:
        run = source.parent.parent if (source.parent.parent / "config.yaml").is_file() else None
        return _from_checkpoint(checkpoint.read(source), source, name, run)
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    return _from_weights(tensors, {}, source, name)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors and the metadata of a .safetensors file.

    Raises:
        ValueError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            # nothing but the file itself is iterable in its keys
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or damaged ({error}): write or copy it again") from None


def view_size_for(stem: Stem, config: RunConfig | None) -> int:
    """Return the side of the views that a backbone is evaluated with: that of the large views it was trained on."""
    if config is not None:
        return config.views.large.size
    return PHOTOGRAPH_VIEW_SIZE if stem == "imagenet" else SMALL_VIEW_SIZE


def padding_of(backbone: nn.Module) -> Padding:
    """Return how a backbone pads."""
    return "same" if any(isinstance(module, SameConv2d) for module in backbone.modules()) else "torch"


def recognise(tensors: Mapping[str, Tensor]) -> tuple[str, Stem] | None:
    """Return name and stem of the ResNet that torchvision keys and shapes belong to, None where they are none's."""
    first = tensors.get("conv1.weight")
    if first is None or first.ndim != 4:
        return None
    blocks = {match.groups() for key in tensors if (match := re.match(r"layer(\d)\.(\d+)\.", key))}
    counts = tuple(sum(group == str(number) for group, _ in blocks) for number in range(1, 5))
    kind = "bottleneck" if "layer1.0.conv3.weight" in tensors else "basic"
    depth = next((depth for depth, shape in DEPTHS.items() if shape == (kind, counts)), None)
    if depth is None:
        return None
    width = first.shape[0] / 64
    return f"resnet{depth}" + ("" if width == 1 else f"x{width:g}"), "cifar" if first.shape[2] == 3 else "imagenet"


def _from_checkpoint(content: dict, path: Path, name: str | None, run: Path | None) -> LoadedBackbone:
    config = configuration.from_dict(RunConfig, content["config"], where=f"{path}: config")
    if name is not None and name != config.model.backbone:
        raise ValueError(f"{path} holds a {config.model.backbone}, not a {name}: leave --backbone out")
    prefix = "backbone." if config.loss.kind == "supervised" else "online.backbone."
    model: dict[str, Tensor] = content["model"]
    tensors = {key.removeprefix(prefix): value for key, value in model.items() if key.startswith(prefix)}
    backbone = build_backbone(config.model.backbone, stem=config.model.stem)
    _fill(backbone, tensors, path, config.model.backbone)
    return LoadedBackbone(
        backbone=backbone.eval(),
        name=config.model.backbone,
        stem=config.model.stem,
        padding="torch",
        view_size=view_size_for(config.model.stem, config),
        config=config,
        step=content["step"],
        run=run,
        classifier=_classifier_in(model),
    )


def _from_weights(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path, name: str | None) -> LoadedBackbone:
    found = recognise(tensors)
    name = name or metadata.get("backbone") or (found[0] if found else None)
    if name is None:
        raise ValueError(f"{path} does not say which backbone it holds: give --backbone NAME (resnet50, timm:NAME)")
    stem: Stem = "cifar" if metadata.get("stem", found[1] if found else "imagenet") == "cifar" else "imagenet"
    padding: Padding = "same" if metadata.get("padding") == "same" else "torch"
    backbone = build_backbone(name, stem=stem, padding=padding)
    _fill(backbone, tensors, path, name)
    return LoadedBackbone(
        backbone=backbone.eval(),
        name=name,
        stem=stem,
        padding=padding,
        view_size=int(metadata.get("view_size", view_size_for(stem, None))),
        config=None,
        step=int(metadata["step"]) if "step" in metadata else None,
        run=None,
        classifier=_classifier_in(tensors),
    )


def _classifier_in(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    return (tensors["fc.weight"], tensors["fc.bias"]) if {"fc.weight", "fc.bias"} <= tensors.keys() else None


def _fill(backbone: nn.Module, tensors: Mapping[str, Tensor], path: Path, name: str) -> None:
    own = backbone.state_dict()
    # Batch norms count their batches, which evaluation does not read; old files lack the count.
    missing = [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")]
    foreign = [key for key in tensors if key not in own and not key.startswith(_CLASSIFIERS)]
    misshapen = [key for key in own if key in tensors and tensors[key].shape != own[key].shape]
    for keys, what in ((missing, "lacks"), (foreign, "has, beside a backbone,"), (misshapen, "has in other shapes")):
        if keys:
            raise ValueError(
                f"{path} is no {name}: it {what} {len(keys)} tensors (the first: {keys[0]}); give the right --backbone"
            )
    backbone.load_state_dict({key: tensors[key] for key in own if key in tensors}, strict=False)


def _read_torch(path: Path) -> dict:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises half a dozen kinds for a damaged or foreign file
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is no weights file that loads without running code ({first_line})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of tensors by name")
    return content
