"""Backbones for others: torchvision's and timm's keys, or safetensors with what is needed to use them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipelines.config import IMAGENET_MEAN, IMAGENET_STD
from relic import __version__
from relic.evaluate.linear import load_head
from relic.weights import LoadedBackbone, load_backbone

Target = Literal["torchvision", "timm", "safetensors"]
NUM_IMAGENET_CLASSES = 1000
# Largest difference of features, in units of the largest feature (or 1): the operations are the same, but another
# library may run them in another order.
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A written file and what checked it."""

    path: Path
    difference: float | None
    """Largest absolute difference of the features after loading the file in the target library, on a fixed input;
    None where that library is not installed."""
    usage: str
    """Python that loads the file."""


def export(
    loaded: LoadedBackbone, target: Target, path: Path, *, classifier: tuple[Tensor, Tensor] | None = None
) -> Exported:
    """Write a backbone for others, load the file as they do, and compare features.

    Args:
        loaded: the backbone and what is known of it.
        target: `torchvision` or `timm`: a state dict with classifier, which `load_state_dict(strict=True)` takes;
            `safetensors`: the backbone alone, with its name, stem, normalisation and view size as metadata.
        path: put into place when the check has passed, replacing an older file.
        classifier: weight [C, D] and bias [C] for torchvision and timm; zeros of 1,000 classes without one.

    Raises:
        ValueError: the target has no such network, its features differ, or the path's suffix belongs to another target.
    """
    if (path.suffix == ".safetensors") != (target == "safetensors"):
        raise ValueError(f"--out {path} does not fit --to {target}: give a name in {_suffix(target)}")
    state = {key: value.detach().contiguous() for key, value in loaded.backbone.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        if target == "safetensors":
            from safetensors.torch import save_file

            save_file(state, temporary, metadata_of(loaded))
            features: Callable[[Tensor], Tensor] | None = load_backbone(temporary).backbone
            usage = f"backbone = relic.weights.load_backbone({str(path)!r}).backbone"
        else:
            name, layer = _name_in(target, loaded), _classifier_layer(loaded)
            weight, bias = classifier or _zeros(_feature_dim(loaded.backbone))
            num_classes = len(bias)
            state |= {f"{layer}.weight": weight.contiguous(), f"{layer}.bias": bias.contiguous()}
            torch.save(state, temporary)
            features = _LOADERS[target](temporary, name, num_classes)
            usage = _USAGES[target].format(name=name, num_classes=num_classes, path=str(path))
        difference = None if features is None else _difference(loaded, features, target)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(path=path, difference=difference, usage=usage)


def classifier_of(loaded: LoadedBackbone) -> tuple[tuple[Tensor, Tensor] | None, str]:
    """Return the classifier that belongs to exactly this backbone, if any, and a line on where it is from.

    That is its own (a supervised run), or the linear head that `relic evaluate` trained on it.

    Raises:
        ValueError: the head's file is damaged.
    """
    if loaded.classifier is not None:
        return loaded.classifier, f"its own, of {len(loaded.classifier[1])} classes"
    zeros = f"zeros for {NUM_IMAGENET_CLASSES} classes"
    path = None if loaded.run is None else loaded.run / "linear_head.safetensors"
    if path is None or not path.is_file():
        return None, f"{zeros}: no linear head was trained (`relic evaluate` trains one)"
    head, metadata = load_head(path)
    if metadata.get("step") != str(loaded.step):
        return None, f"{zeros}: {path} is of step {metadata.get('step')}, this backbone of step {loaded.step}"
    return (head.weight, head.bias), f"linear head of {len(head.bias)} classes from {path}"


def default_path(source: Path, loaded: LoadedBackbone, target: Target) -> Path:
    """Return `RUN/export/NAME.TARGET`, or a folder `export` beside a file that belongs to no run."""
    return (loaded.run or source.parent) / "export" / (loaded.name.replace(":", "-") + _suffix(target))


def metadata_of(loaded: LoadedBackbone) -> dict[str, str]:
    """Return what a reader needs to use the weights, as strings (safetensors knows no other values)."""
    known = {
        "backbone": loaded.name,
        "stem": loaded.stem,
        "padding": loaded.padding,
        "view_size": str(loaded.view_size),
        "feature_dim": str(_feature_dim(loaded.backbone)),
        "mean": json.dumps(IMAGENET_MEAN),
        "std": json.dumps(IMAGENET_STD),
        "made_by": f"relicv2 {__version__}",
    }
    if loaded.config is not None:
        known["recipe"] = loaded.config.recipe
    if loaded.step is not None:
        known["step"] = str(loaded.step)
    return known


def _name_in(target: Literal["torchvision", "timm"], loaded: LoadedBackbone) -> str:
    """Return the target's own name of the network."""
    if loaded.name.startswith("timm:"):
        name, reason = loaded.name.removeprefix("timm:"), "network of timm" if target == "torchvision" else None
    elif loaded.stem != "imagenet":
        name, reason = loaded.name, f"ResNet with the stem {loaded.stem!r}"
    elif loaded.padding != "torch":
        name, reason = loaded.name, f"ResNet with padding {loaded.padding!r}"
    elif "x" in loaded.name.removeprefix("resnet"):
        name, reason = loaded.name, f"ResNet of that width ({loaded.name})"
    elif target == "torchvision" and loaded.name == "resnet200":
        name, reason = loaded.name, "resnet200 (timm has: --to timm)"
    else:
        name, reason = loaded.name, None
    if reason is not None:
        raise ValueError(f"{target} has no {reason}: use --to safetensors")
    return name


def _suffix(target: Target) -> str:
    return ".safetensors" if target == "safetensors" else f".{target}.pth"


def _classifier_layer(loaded: LoadedBackbone) -> str:
    if not loaded.name.startswith("timm:"):
        return "fc"
    layer = getattr(loaded.backbone, "pretrained_cfg", {}).get("classifier")
    if not isinstance(layer, str):
        raise ValueError(f"{loaded.name} has not one linear classifier ({layer}): use --to safetensors")
    return layer


def _zeros(feature_dim: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(NUM_IMAGENET_CLASSES, feature_dim), torch.zeros(NUM_IMAGENET_CLASSES)


def _load_torchvision(path: Path, name: str, num_classes: int) -> Callable[[Tensor], Tensor]:
    import torchvision

    model: Any = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval().fc = nn.Identity()
    return model


def _load_timm(path: Path, name: str, num_classes: int) -> Callable[[Tensor], Tensor] | None:
    try:
        import timm
    except ImportError:
        return None
    model: Any = timm.create_model(name, pretrained=False, num_classes=num_classes)
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval()
    return lambda images: model.forward_head(model.forward_features(images), pre_logits=True)


_LOADERS: dict[str, Callable[[Path, str, int], Callable[[Tensor], Tensor] | None]] = {
    "torchvision": _load_torchvision,
    "timm": _load_timm,
}
_USAGES = {
    "torchvision": "model = torchvision.models.{name}(num_classes={num_classes});"
    " model.load_state_dict(torch.load({path!r}, weights_only=True))",
    "timm": "model = timm.create_model({name!r}, num_classes={num_classes}, checkpoint_path={path!r})",
}


@torch.no_grad()
def _difference(loaded: LoadedBackbone, features: Callable[[Tensor], Tensor], target: str) -> float:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, loaded.view_size, loaded.view_size, generator=generator)
    expected, found = loaded.backbone(images), features(images)
    difference = float((expected - found).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):  # NaN is no match either
        raise ValueError(
            f"{target} computes other features from the exported file (largest difference {difference:.2g}):"
            " nothing was written; use --to safetensors"
        )
    return difference


def _feature_dim(backbone: nn.Module) -> int:
    return int(backbone.feature_dim)  # pyright: ignore[reportArgumentType]
