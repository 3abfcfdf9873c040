"""Fitting a network without labels: the labels, resuming to the bit, and that it learns."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipelines.datasets.synthetic import render
from pipelines.prepare.engines import Engine
from pipelines.prepare.writer import write_beton
from relic.cli import main
from relic.masks.fitting import OfBeton, fit_network
from saliency import network as net
from saliency.fit import fit
from saliency.labels import label
from saliency.network import NetworkConfig, SaliencyNetwork, normalized
from saliency.squares import to_square
from saliency.training import FitConfig, augmented

SMALL = NetworkConfig(prior_side=64, superpixels=30, side=32, width=0.125, decoder=8)
CONFIG = FitConfig(network=SMALL, epochs=4, batch_size=8)
IMAGES = 16


def read(index: int) -> np.ndarray:
    return render(index, split="train", seed=0)[0]


class Watch:
    """Remembers what it is told, and stops the fit when it is told so."""

    def __init__(self, stop_after: int | None = None):
        self.losses: list[float] = []
        self.sheets: dict[str, dict[str, np.ndarray]] = {}
        self.images = 0
        self._stop_after = stop_after

    def prepared(self, images: int, of: int) -> None:
        self.images = images

    def epoch(self, done: int, loss: float) -> None:
        self.losses.append(loss)
        if self._stop_after == done:
            raise KeyboardInterrupt

    def phase(self, name: str, rgb: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        self.sheets[name] = columns
        assert all(maps.shape == rgb.shape[:3] for maps in columns.values())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watch]:
    watch = Watch()
    path, images = fit(read, range(IMAGES), tmp_path_factory.mktemp("whole"), CONFIG, watcher=watch)
    assert images == IMAGES
    return path, watch


def beside(whole: tuple[Path, Watch], folder: Path) -> Path:
    """Take over what is prepared of the images, which takes a third of a second each."""
    for file in whole[0].parent.glob("prepared-*.npz"):
        shutil.copy(file, folder)
    return folder


def test_what_is_made_is_told_and_shown(whole):
    _, watch = whole
    assert watch.images == IMAGES
    assert list(watch.sheets) == ["labels", "network"]
    assert list(watch.sheets["network"]) == ["mean of priors", "label", "network"]
    assert len(watch.losses) == 4
    assert watch.losses[-1] < watch.losses[0]


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_an_interrupted_fit_ends_with_the_same_bits(whole, tmp_path, stop):
    beside(whole, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(read, range(IMAGES), tmp_path, CONFIG, watcher=Watch(stop))
    left = Watch()
    path, _ = fit(read, range(IMAGES), tmp_path, CONFIG, watcher=left)
    assert len(left.losses) == 4 - stop
    expected, found = load_file(whole[0]), load_file(path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_another_seed_gives_another_network(whole, tmp_path):
    path, _ = fit(read, range(IMAGES), beside(whole, tmp_path), replace(CONFIG, seed=1), watcher=Watch())
    assert not torch.equal(load_file(whole[0])["head.weight"], load_file(path)["head.weight"])


def test_damaged_images_are_left_out(tmp_path):
    def sometimes(index: int) -> np.ndarray:
        if index % 5 == 0:
            raise ValueError("damaged")
        return read(index)

    _, images = fit(sometimes, range(20), tmp_path, replace(CONFIG, epochs=1), watcher=Watch())
    assert images == 16
    few = tmp_path / "few"
    few.mkdir()
    with pytest.raises(ValueError, match="6 images: a batch alone takes 8"):
        fit(sometimes, range(1, 8), few, CONFIG, watcher=Watch())


def test_a_label_follows_the_object():
    image, inside, _ = render(3, split="train", seed=0)
    found = label(image, 96) > 127
    truth = to_square(inside.astype(np.float32), 96) >= 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.7


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (300, 20)])
def test_any_image_has_a_label(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert label(image, 32).shape == (32, 32)
    assert not label(np.full_like(image, 90), 32).any()


def test_a_windows_label_is_cut_out_with_it():
    seen = torch.randint(0, 256, (6, 32, 32, SMALL.shown), dtype=torch.uint8)
    seen[..., 3] = torch.linspace(0, 255, 32).byte()  # a map that tells x
    inputs, labels = augmented(normalized(seen), seen[..., 3], torch.Generator().manual_seed(0))
    assert labels.shape == (6, 32, 32)
    torch.testing.assert_close(labels, inputs[:, 3] * 0.27 + 0.4, atol=1e-5, rtol=0)
    directions = {float(torch.sign(label[16, 20] - label[16, 10])) for label in labels}
    assert directions == {-1.0, 1.0}  # mirrored and not


def test_the_command_fits_a_folder_and_its_network_makes_masks(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(18):
        cv2.imwrite(str(photos / f"{index}.jpg"), read(index)[..., ::-1])
    (photos / "cut.jpg").write_bytes((photos / "0.jpg").read_bytes()[:200])
    fit_it = ["masks", "fit", str(photos), "--out", str(tmp_path / "fit"), "--epochs", "1"]
    fit_it += ["--width", "0.125", "--workers", "1"]
    assert main(fit_it) == 0
    shown = capsys.readouterr()
    assert "fitted on 18 images" in shown.out
    assert "1 of 19 images do not decode" in shown.err
    for name in ("labels.png", "network.png", "network.safetensors", "fit.json"):
        assert (tmp_path / "fit" / name).stat().st_size > 0
    assert list((tmp_path / "fit" / "tensorboard").iterdir())
    network = str(tmp_path / "fit" / "network.safetensors")
    assert main(["masks", "infer", str(photos), "--network", network, "--png", str(tmp_path / "maps")]) == 0
    assert len(list((tmp_path / "maps").glob("*.png"))) == 18
    assert main([*fit_it, "--seed", "2"]) == 1
    assert "begun with another config" in capsys.readouterr().err
    assert SaliencyNetwork(net.load(Path(network)).config).config.width == 0.125


def test_an_exported_backbone_starts_the_encoder(tmp_path):
    from relic.export import export
    from relic.models.backbones import build_backbone
    from relic.weights import LoadedBackbone

    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(8):
        cv2.imwrite(str(photos / f"{index}.jpg"), read(index)[..., ::-1])
    path, begun = tmp_path / "backbone.safetensors", []
    for stem in ("cifar", "imagenet"):
        known: dict = {"stem": stem, "padding": "torch", "view_size": 64}
        unknown = dict.fromkeys(("config", "step", "run", "classifier"))
        backbone = build_backbone("resnet18x0.125", stem=stem).eval()
        export(LoadedBackbone(backbone=backbone, name="resnet18x0.125", **known, **unknown), "safetensors", path)
        small = replace(CONFIG, epochs=1, network=replace(SMALL, width=0.125))
        out = tmp_path / stem
        try:
            fit_network(photos, out, small, start=path, engine=Engine(), on_note=begun.append)
        except ValueError as error:
            begun.append(str(error))
    assert begun == ["conv1.weight of the weights is (8, 3, 3, 3), not (8, 12, 7, 7): pretrain a resnet18x0.125"]
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)["network"]["layer4.1.conv2.weight"]
    # one step of warm-up moves it by little: it is still the backbone's, not a network's of its own
    torch.testing.assert_close(checkpoint, backbone.state_dict()["layer4.1.conv2.weight"], atol=5e-3, rtol=0)
    (tmp_path / "no.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        fit_network(photos, out, CONFIG, start=tmp_path / "no.safetensors", engine=Engine(), on_note=begun.append)


def test_a_beton_that_changed_is_no_damaged_image(tmp_path):
    path = tmp_path / "a.beton"
    write_beton(path, [read(0), read(1)], [0, 1])
    reader = OfBeton(path, "another fingerprint")
    with pytest.raises(OSError, match="has other images than when the fit was begun"):
        reader(0)
