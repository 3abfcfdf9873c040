"""What is exported loads in the target library, strictly, and computes the same features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision
from safetensors import safe_open
from stored_runs import SMALL, stored_run

import relic.export
from relic.cli import main
from relic.evaluate.linear import Head, save_head
from relic.export import classifier_of, export, metadata_of
from relic.models import build_backbone
from relic.weights import LoadedBackbone, load_backbone

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def loaded_backbone(name: str, *, stem="imagenet", padding="torch") -> LoadedBackbone:
    """Return a backbone whose batch norms do something, as after training."""
    torch.manual_seed(0)
    backbone = build_backbone(name, stem=stem, padding=padding)
    for part in backbone.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, std=0.1)
            torch.nn.init.normal_(part.running_mean, std=0.1)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return LoadedBackbone(
        backbone=backbone.eval(),
        name=name,
        stem=stem,
        padding=padding,
        view_size=64,
        config=None,
        step=None,
        run=None,
        classifier=None,
    )


@torch.no_grad()
def differ(left: torch.Tensor, right: torch.Tensor) -> float:
    assert left.abs().max() > 1e-2  # two vectors of zeros would be no evidence
    return float((left - right).abs().max() / left.abs().max().clamp_min(1))


@torch.no_grad()
def test_resnet50_loads_into_torchvision(tmp_path):
    loaded = loaded_backbone("resnet50")
    exported = export(loaded, "torchvision", tmp_path / "r50.pth")
    model = torchvision.models.resnet50()
    model.load_state_dict(torch.load(exported.path, weights_only=True), strict=True)
    assert torch.equal(model.eval()(IMAGES), torch.zeros(2, 1000))  # no head was trained
    model.fc = torch.nn.Identity()
    assert differ(loaded.backbone(IMAGES), model(IMAGES)) < 1e-5
    assert exported.difference is not None
    assert exported.difference < 1e-5 * max(1, loaded.backbone(IMAGES).abs().max())


@torch.no_grad()
def test_resnet50_loads_into_timm(tmp_path):
    timm = pytest.importorskip("timm")
    loaded = loaded_backbone("resnet50")
    weight, bias = torch.randn(7, 2048), torch.randn(7)
    exported = export(loaded, "timm", tmp_path / "r50.pth", classifier=(weight, bias))
    model = timm.create_model("resnet50", num_classes=7)
    model.load_state_dict(torch.load(exported.path, weights_only=True), strict=True)
    model.eval()
    features = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    assert differ(loaded.backbone(IMAGES), features) < 1e-5
    assert differ(loaded.backbone(IMAGES) @ weight.T + bias, model(IMAGES)) < 1e-5


@torch.no_grad()
def test_the_printed_line_loads_the_file(tmp_path):
    timm = pytest.importorskip("timm")
    loaded = loaded_backbone("resnet18")
    for target in ("torchvision", "timm", "safetensors"):
        suffix = "safetensors" if target == "safetensors" else "pth"
        exported = export(loaded, target, tmp_path / f"{target}.{suffix}")
        names: dict = {"torch": torch, "torchvision": torchvision, "timm": timm, "relic": relic}
        exec(exported.usage, names)
        if target == "safetensors":
            assert torch.equal(names["backbone"](IMAGES), loaded.backbone(IMAGES))
        else:
            assert torch.equal(names["model"].layer4[1].bn2.running_var, loaded.backbone.layer4[1].bn2.running_var)


@pytest.mark.parametrize("classes", [None, 3])
@torch.no_grad()
def test_a_backbone_of_timm_goes_back_to_timm(tmp_path, classes):
    timm = pytest.importorskip("timm")
    loaded = loaded_backbone("timm:mobilenetv3_small_050")
    classifier = None if classes is None else (torch.randn(classes, 1024), torch.randn(classes))
    exported = export(loaded, "timm", tmp_path / "m.pth", classifier=classifier)
    model = timm.create_model("mobilenetv3_small_050", num_classes=classes or 1000)
    model.load_state_dict(torch.load(exported.path, weights_only=True), strict=True)
    model.eval()
    assert differ(loaded.backbone(IMAGES), model.forward_head(model.forward_features(IMAGES), pre_logits=True)) < 1e-5
    assert model(IMAGES).any() == (classes is not None)


@pytest.mark.parametrize("options", [{"stem": "cifar"}, {"padding": "same"}, {}])
@torch.no_grad()
def test_safetensors_hold_any_backbone_and_say_how_to_use_it(tmp_path, options):
    loaded = loaded_backbone("resnet18x0.125", **options)
    exported = export(loaded, "safetensors", tmp_path / "w.safetensors")
    assert exported.difference == 0
    again = load_backbone(exported.path)
    assert torch.equal(again.backbone(IMAGES), loaded.backbone(IMAGES))
    assert (again.name, again.stem, again.padding, again.view_size) == (
        loaded.name,
        loaded.stem,
        loaded.padding,
        loaded.view_size,
    )
    with safe_open(str(exported.path), "pt") as file:
        assert file.metadata() == metadata_of(loaded)
        assert file.metadata()["mean"] == "[0.485, 0.456, 0.406]"
        assert not any(name.startswith("fc") for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(
    ("target", "name", "options", "said"),
    [
        ("torchvision", "resnet18", {"stem": "cifar"}, "torchvision has no ResNet with the stem 'cifar'"),
        ("timm", "resnet18", {"padding": "same"}, "timm has no ResNet with padding 'same'"),
        ("timm", "resnet18x0.5", {}, r"timm has no ResNet of that width \(resnet18x0\.5\)"),
        ("torchvision", "resnet18x0.5", {}, "torchvision has no ResNet of that width"),
        ("torchvision", "timm:mobilenetv3_small_050", {}, "torchvision has no network of timm"),
    ],
)
def test_what_a_library_has_not_is_refused_with_the_mend(tmp_path, target, name, options, said):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=said + ".*use --to safetensors"):
        export(loaded_backbone(name, **options), target, tmp_path / "w.pth")
    assert not any(tmp_path.iterdir())


def test_resnet200_is_sent_to_timm(tmp_path):
    loaded = replace(loaded_backbone("resnet18"), name="resnet200")
    with pytest.raises(ValueError, match=r"torchvision has no resnet200 \(timm has: --to timm\)"):
        export(loaded, "torchvision", tmp_path / "w.pth")


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "r18.pth"
    path.write_text("the older file")
    real = relic.export._LOADERS["torchvision"]
    monkeypatch.setitem(relic.export._LOADERS, "torchvision", lambda *a: lambda images: real(*a)(images) * 1.001)
    with pytest.raises(ValueError, match="torchvision computes other features from the exported file"):
        export(loaded_backbone("resnet18"), "torchvision", path)
    assert path.read_text() == "the older file"
    assert [each.name for each in tmp_path.iterdir()] == ["r18.pth"]


def test_features_that_are_no_numbers_are_not_written(tmp_path):
    loaded = loaded_backbone("resnet18x0.125")
    torch.nn.init.constant_(loaded.backbone.bn1.bias, torch.nan)
    with pytest.raises(ValueError, match="largest difference nan"):
        export(loaded, "safetensors", tmp_path / "w.safetensors")
    assert not any(tmp_path.iterdir())


def test_a_suffix_of_another_target_is_refused(tmp_path):
    for target, name in (("torchvision", "w.safetensors"), ("safetensors", "w.pth")):
        with pytest.raises(ValueError, match=f"{name} does not fit --to {target}"):
            export(loaded_backbone("resnet18x0.125"), target, tmp_path / name)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "r18"
    networks = stored_run(path, model=replace(SMALL, backbone="resnet18", stem="imagenet"))
    return path, networks


def put_head(run, step: int) -> Head:
    head = Head(
        weight=torch.randn(3, 512), bias=torch.randn(3), learning_rate=0.3, weight_decay=0.0, held_out_accuracy=0.5
    )
    save_head(head, run / "linear_head.safetensors", {"step": str(step)})
    return head


def test_the_command_exports_the_online_backbone_with_the_head_of_the_same_step(run, capsys):
    path, networks = run
    head = put_head(path, 7)
    assert main(["export", str(path), "--to", "torchvision"]) == 0
    printed = capsys.readouterr().out
    assert "linear head of 3 classes" in printed
    assert "checked: loaded by torchvision, features differ by at most" in printed
    state = torch.load(path / "export" / "resnet18.torchvision.pth", weights_only=True)
    assert torch.equal(state["fc.weight"], head.weight)
    assert torch.equal(state["layer1.0.conv1.weight"], networks.online.backbone.layer1[0].conv1.weight)
    assert torch.equal(state["bn1.running_mean"], networks.online.backbone.bn1.running_mean)


def test_a_head_of_another_step_is_not_used(run, capsys):
    path, _ = run
    put_head(path, 5)
    classifier, origin = classifier_of(load_backbone(path))
    assert classifier is None
    assert origin.startswith("zeros for 1000 classes")
    assert "of step 5, this backbone of step 7" in origin
    assert main(["export", str(path), "--to", "torchvision", "--out", str(path / "x.pth")]) == 0
    assert "of step 5" in capsys.readouterr().out
    state = torch.load(path / "x.pth", weights_only=True)
    assert state["fc.weight"].shape == (1000, 512)
    assert not state["fc.weight"].any()


def test_a_supervised_run_exports_its_own_classifier(tmp_path):
    networks = stored_run(tmp_path / "supervised", supervised_classes=4)
    classifier, origin = classifier_of(load_backbone(tmp_path / "supervised"))
    assert classifier is not None
    assert torch.equal(classifier[0], networks.fc.weight)
    assert origin == "its own, of 4 classes"


def test_the_command_gives_one_line_for_what_cannot_be(tmp_path, capsys):
    stored_run(tmp_path / "small")
    assert main(["export", str(tmp_path / "small"), "--to", "timm"]) == 1
    assert capsys.readouterr().err == (
        "relic export: error: timm has no ResNet with the stem 'cifar': use --to safetensors\n"
    )
    assert main(["export", str(tmp_path / "small"), "--to", "safetensors"]) == 0
    assert (tmp_path / "small" / "export" / "resnet18x0.125.safetensors").is_file()
    assert main(["export", str(tmp_path / "small"), "--to", "onnx"]) == 2
