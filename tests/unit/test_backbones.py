"""Backbones by name, and what a wrong name is told."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from relic.models import ResNet, build_backbone
from relic.models.resnet import SameConv2d


@pytest.mark.parametrize(
    ("name", "feature_dim"),
    [
        ("resnet18", 512),
        ("resnet34", 512),
        ("resnet50", 2048),
        ("resnet101", 2048),
        ("resnet152", 2048),
        ("resnet200", 2048),
        ("resnet50x2", 4096),
        ("resnet50x4", 8192),
        ("resnet18x0.25", 128),
    ],
)
def test_names_give_depth_and_width(name: str, feature_dim: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    assert isinstance(backbone, ResNet)
    assert backbone.feature_dim == feature_dim
    blocks = {"18": 8, "34": 16, "50": 16, "101": 33, "152": 50, "200": 66}
    depth = re.findall(r"\d+", name)[0]
    layers = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    assert sum(len(layer) for layer in layers) == blocks[depth]


def test_stem_and_padding_reach_the_network() -> None:
    backbone = build_backbone("resnet18x0.125", stem="cifar", padding="same")
    assert isinstance(backbone.conv1, SameConv2d)
    assert backbone.conv1.kernel_size == (3, 3)


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:mobilenetv3_small_050"])
def test_timm_models_give_pooled_features(name: str) -> None:
    pytest.importorskip("timm")
    backbone = build_backbone(name)
    assert backbone(torch.randn(2, 3, 64, 64)).shape == (2, backbone.feature_dim)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet51", "resnet50"),
        ("resnet51x2", "resnet50x2"),
        ("RESNET50X2", "resnet50x2"),
        ("resnet-101", "resnet101"),
        ("resnet", "resnet"),
        ("resnet50x", "resnet50"),
        ("resnet50x-1", "resnet50"),
        ("", "resnet"),
    ],
)
def test_wrong_names_are_told_the_nearest(name: str, nearest: str) -> None:
    message = f"unknown backbone {name!r}: did you mean '{nearest}"
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        build_backbone(name)
    assert "\n" not in str(raised.value)


def test_a_wrong_timm_name_is_told_the_nearest() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="did you mean 'timm:resnet50d'"):
        build_backbone("timm:resnet5od")


@pytest.mark.parametrize(("option", "value"), [("stem", "cifar"), ("padding", "same")])
def test_timm_models_refuse_what_they_have_not(option: str, value: str) -> None:
    message = f"backbone 'timm:resnet18' has no {option} '{value}'"
    with pytest.raises(ValueError, match=message):
        build_backbone("timm:resnet18", **{option: value})


def test_missing_timm_is_told_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=re.escape("pip install timm (or pip install 'relicv2[eval]')")):
        build_backbone("timm:resnet18")
