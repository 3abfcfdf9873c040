"""Backbones from runs, checkpoints and weight files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from stored_runs import SMALL, stored_run

from relic.models import build_backbone
from relic.weights import load_backbone, padding_of, recognise


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "small"
    return path, stored_run(path, steps=(7, 30, 100))


def test_a_run_gives_the_online_backbone_of_its_newest_checkpoint(run):
    path, networks = run
    loaded = load_backbone(path)
    assert same(loaded.backbone, networks.online.backbone)
    assert not same(loaded.backbone, networks.target.backbone)
    assert (loaded.name, loaded.stem, loaded.padding) == ("resnet18x0.125", "cifar", "torch")
    assert (loaded.step, loaded.view_size, loaded.run) == (100, 24, path)  # the run's large views
    assert loaded.config is not None
    assert loaded.config.recipe == "test"
    assert loaded.classifier is None
    assert not any(part.training for part in loaded.backbone.modules())


def test_a_checkpoint_gives_its_own_step(run):
    path, networks = run
    loaded = load_backbone(path / "checkpoints" / "step-000030.pt")
    assert (loaded.step, loaded.run) == (30, path)
    assert not same(loaded.backbone, networks.online.backbone)


def test_a_checkpoint_outside_of_a_run_belongs_to_none(run, tmp_path):
    path = tmp_path / "x" / "copy.pt"
    path.parent.mkdir()
    path.write_bytes((run[0] / "checkpoints" / "step-000100.pt").read_bytes())
    loaded = load_backbone(path)
    assert loaded.run is None
    assert same(loaded.backbone, run[1].online.backbone)


def test_a_supervised_run_brings_its_classifier(tmp_path):
    networks = stored_run(tmp_path / "supervised", supervised_classes=5)
    loaded = load_backbone(tmp_path / "supervised")
    assert same(loaded.backbone, networks.backbone)
    assert loaded.classifier is not None
    assert torch.equal(loaded.classifier[0], networks.fc.weight)
    assert torch.equal(loaded.classifier[1], networks.fc.bias)


def test_a_run_is_evaluated_at_the_size_of_its_large_views(tmp_path):
    stored_run(tmp_path / "photographs", model=replace(SMALL, stem="imagenet"))
    assert load_backbone(tmp_path / "photographs").view_size == 24


@pytest.mark.parametrize(
    ("name", "stem"), [("resnet18", "imagenet"), ("resnet34x0.125", "cifar"), ("resnet50x0.25", "imagenet")]
)
def test_a_resnet_is_recognised_by_its_tensors(name, stem, tmp_path):
    backbone = build_backbone(name, stem=stem)
    assert recognise(backbone.state_dict()) == (name, stem)
    torch.save(backbone.state_dict(), tmp_path / "weights.pth")
    loaded = load_backbone(tmp_path / "weights.pth")
    assert (loaded.name, loaded.stem, loaded.config, loaded.step) == (name, stem, None, None)
    assert loaded.view_size == (224 if stem == "imagenet" else 32)
    assert same(loaded.backbone, backbone)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152, 200])
def test_depths_are_told_apart_by_the_keys_alone(depth):
    with torch.device("meta"):
        tensors = build_backbone(f"resnet{depth}x2").state_dict()
    assert recognise(tensors) == (f"resnet{depth}x2", "imagenet")
    del tensors["conv1.weight"]
    assert recognise(tensors) is None


def test_torchvisions_own_file_loads_with_its_classifier(tmp_path):
    import torchvision

    model = torchvision.models.resnet18(num_classes=4).eval()
    for zipped in (True, False):  # torchvision's oldest files are of the format before zip
        torch.save(model.state_dict(), tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
        loaded = load_backbone(tmp_path / "weights.pth")
        assert loaded.name == "resnet18"
        assert loaded.classifier is not None
        assert loaded.classifier[0].shape == (4, 512)
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.allclose(model.fc(loaded.backbone(images)), model(images), atol=1e-5)


def test_safetensors_say_what_they_are(tmp_path):
    backbone = build_backbone("resnet18x0.125", padding="same")
    metadata = {"backbone": "resnet18x0.125", "stem": "imagenet", "padding": "same", "view_size": "96", "step": "5"}
    save_file(backbone.state_dict(), tmp_path / "w.safetensors", metadata)
    loaded = load_backbone(tmp_path / "w.safetensors")
    assert (loaded.view_size, loaded.step) == (96, 5)
    assert padding_of(loaded.backbone) == loaded.padding == "same"
    assert same(loaded.backbone, backbone)


def test_a_timm_file_needs_its_name(tmp_path):
    timm = pytest.importorskip("timm")
    model = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=3).eval()
    path = tmp_path / "w.pth"
    torch.save(model.state_dict(), path)
    with pytest.raises(ValueError, match="does not say which backbone it holds: give --backbone NAME"):
        load_backbone(path)
    loaded = load_backbone(path, name="timm:mobilenetv3_small_050")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        assert torch.allclose(loaded.backbone(images), expected, atol=1e-5)


def test_errors_name_the_file_and_the_mend(run, tmp_path):
    (tmp_path / "empty").mkdir()
    whole = tmp_path / "whole.safetensors"
    backbone = build_backbone("resnet18x0.125")
    save_file(backbone.state_dict(), whole)
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-50])
    lacking = {name: value for name, value in backbone.state_dict().items() if not name.startswith("layer4.1.bn2")}
    torch.save(lacking, tmp_path / "lacking.pth")
    torch.save(backbone.state_dict() | {"projector.weight": torch.zeros(1)}, tmp_path / "more.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("weights")
    for source, name, kind, said in (
        (tmp_path / "nowhere", None, FileNotFoundError, "nowhere is missing: give a run directory"),
        (tmp_path / "empty", None, FileNotFoundError, r"empty has no checkpoints/step-\*\.pt"),
        (tmp_path / "cut.safetensors", None, ValueError, r"cut\.safetensors is no safetensors file, or damaged"),
        (tmp_path / "lacking.pth", None, ValueError, r"is no resnet18x0\.125: it lacks 4 tensors .*layer4\.1\.bn2"),
        (tmp_path / "more.pth", None, ValueError, r"beside a backbone, 1 tensors \(the first: projector\.weight\)"),
        (whole, "resnet18", ValueError, "in other shapes .* give the right --backbone"),
        (whole, "resnet81", ValueError, "did you mean 'resnet18'"),
        (tmp_path / "list.pth", None, ValueError, "holds a list, not a dict of tensors"),
        (tmp_path / "text.pth", None, ValueError, "is no weights file that loads without running code"),
        (run[0], "resnet50", ValueError, r"holds a resnet18x0\.125, not a resnet50: leave --backbone out"),
    ):
        with pytest.raises(kind, match=said) as caught:
            load_backbone(source, name=name)
        assert len(str(caught.value).splitlines()) == 1
