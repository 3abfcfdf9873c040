"""Backbones by name: `resnet50`, `resnet50x2`, `timm:NAME`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from torch import nn

from relic.models.resnet import DEPTHS, Padding, ResNet, Stem

RESNETS = tuple(f"resnet{depth}" for depth in DEPTHS)


def resnet(name: str, stem: Stem, padding: Padding) -> nn.Module:
    """Build `resnetDEPTH` or `resnetDEPTHxWIDTH`, where WIDTH multiplies every channel."""
    match = re.fullmatch(r"(resnet\d+)(?:x(\d+(?:\.\d+)?))?", name)
    if match is None or match[1] not in RESNETS:
        raise ValueError(_unknown(name))
    depth, width = int(match[1].removeprefix("resnet")), float(match[2] or 1)
    return ResNet(depth, width=width, stem=stem, padding=padding)


def timm_model(name: str, stem: Stem, padding: Padding) -> nn.Module:
    """Build `timm:NAME` without its classifier and with random weights."""
    if stem != "imagenet":
        raise ValueError(f"backbone {name!r} has no stem {stem!r}: use 'imagenet', or a resnet of this project")
    if padding != "torch":
        raise ValueError(f"backbone {name!r} has no padding {padding!r}: use 'torch', or a resnet of this project")
    try:
        import timm
    except ImportError as error:
        message = f"backbone {name!r} needs timm: pip install timm (or pip install 'relicv2[eval]')"
        raise ValueError(message) from error
    model_name = name.removeprefix("timm:")
    if not timm.is_model(model_name):
        nearest = difflib.get_close_matches(model_name, timm.list_models(), n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown backbone {name!r} (timm {timm.__version__}): did you mean 'timm:{nearest}'?")
    model = timm.create_model(model_name, pretrained=False, num_classes=0)
    # Some models (MobileNetV3) widen between the trunk and the classifier: count what forward returns.
    model.feature_dim = getattr(model, "head_hidden_size", None) or model.num_features
    return model


FAMILIES: dict[str, Callable[[str, Stem, Padding], nn.Module]] = {
    "resnet": resnet,
    "timm:": timm_model,
}


def build_backbone(name: str, *, stem: Stem = "imagenet", padding: Padding = "torch") -> nn.Module:
    """Build the backbone of a name, with random weights.

    Args:
        name: resnet18, 34, 50, 101, 152 or 200, with a width if wanted (resnet50x2), or timm:NAME.
        stem: see `ResNet`.
        padding: see `ResNet`.

    Returns:
        a module that maps float [N, 3, H, W] to [N, feature_dim] and has the attribute `feature_dim`.

    Raises:
        ValueError: for an unknown name, timm missing, or a stem or padding that the backbone has not.
    """
    for prefix, build in FAMILIES.items():
        if name.startswith(prefix):
            return build(name, stem, padding)
    raise ValueError(_unknown(name))


def _unknown(name: str) -> str:
    base, separator, width = name.lower().partition("x")
    nearest = difflib.get_close_matches(base, RESNETS, n=1, cutoff=0.0)[0]
    if separator and re.fullmatch(r"\d+(\.\d+)?", width):
        nearest += separator + width
    return (
        f"unknown backbone {name!r}: did you mean {nearest!r}? "
        f"(one of {', '.join(RESNETS)}, with a width as in resnet50x2, or timm:NAME)"
    )
