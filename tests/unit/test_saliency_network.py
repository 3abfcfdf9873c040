"""The saliency network: what it sees, that nothing depends on company, and its file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from objects import disc, image_of
from safetensors.torch import save_file
from torchvision.models.resnet import BasicBlock, ResNet

from saliency import network as net
from saliency.fit import take_encoder
from saliency.network import BATCH, NetworkConfig, SaliencyNetwork
from saliency.priors import levelled, mean

SMALL = NetworkConfig(prior_side=64, superpixels=30, side=32, width=0.125, decoder=8)


@pytest.fixture(scope="module")
def network() -> SaliencyNetwork:
    torch.manual_seed(0)
    return SaliencyNetwork(SMALL).eval()


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    discs = (disc(70, 90, (rng.integers(20, 50), rng.integers(20, 70)), 15) for _ in range(count))
    return [image_of(inside, noise=5 + number) for number, inside in enumerate(discs)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 2), (300, 500), (80, 60)])
def test_it_sees_colours_and_maps_of_any_image(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    seen = net.channels(image, SMALL)
    assert seen.dtype == np.uint8
    assert seen.shape == (32, 32, SMALL.shown)
    inputs = net.normalized(torch.from_numpy(seen[None]))
    assert inputs.shape == (1, SMALL.channels, 32, 32)
    assert inputs.isfinite().all()


def test_the_last_maps_are_the_levelled_mean_its_colours_and_its_cut():
    inside = disc(64, 64, (32, 32), 16)
    image = image_of(inside, noise=4)
    config = replace(SMALL, side=64)
    seen = net.channels(image, config)
    scene = net.Scene(image, 64, 30)
    expected = levelled(mean(scene, net.find_priors(config.priors)))
    np.testing.assert_allclose(seen[..., net.MEAN] / 255, scene.framed(expected), atol=0.6 / 255)
    for made in (seen[..., net.MEAN + 1], seen[..., net.MEAN + 2]):
        assert made[inside].mean() > 200
        assert made[~inside].mean() < 30


def test_an_images_map_does_not_depend_on_the_others(network):
    many = images(BATCH + 3)
    network = net.ready(network)
    together = net.maps(network, many)
    assert len(together) == len(many)
    for number in (0, BATCH - 1, BATCH + 2):
        np.testing.assert_array_equal(net.maps(network, [many[number]])[0], together[number])
    assert np.ptp(together[0]) > 0


def test_a_network_comes_back_from_its_file(network, tmp_path):
    net.save(network, tmp_path / "network.safetensors", {"images": "3"})
    again = net.load(tmp_path / "network.safetensors")
    assert again.config == SMALL
    assert not again.training
    np.testing.assert_array_equal(net.maps(net.ready(again), images(1))[0], net.maps(net.ready(network), images(1))[0])


def test_other_files_are_refused(network, tmp_path):
    with pytest.raises(FileNotFoundError, match="relic masks fit"):
        net.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        net.load(tmp_path / "text")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a saliency network"):
        net.load(tmp_path / "other.safetensors")
    net.save(network, tmp_path / "cut.safetensors", {})
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        net.load(tmp_path / "cut.safetensors")


def test_multiply_adds_of_a_convolution_by_hand():
    """One channel more to decode: four laterals and `see` make it, four merges take and make it, the head takes it."""
    more = net.multiply_adds(replace(SMALL, decoder=9)) - net.multiply_adds(SMALL)
    places, widths = [16 * 16, 8 * 8, 4 * 4, 2 * 2, 1], [8, 8, 16, 32, 64]
    laterals = sum(place * width for place, width in zip(places, widths, strict=True))
    merges = sum(place * 9 * (9 * 9 - 8 * 8) for place in places[:-1])
    assert more == laterals + merges + places[0] * (4 * SMALL.channels + 4 * 9)


def test_a_network_that_is_ready_computes_the_same(network, monkeypatch):
    torch.manual_seed(2)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    inputs = torch.randn(3, SMALL.channels, 32, 32)
    with torch.inference_mode():
        expected = network(inputs)[:, 0].sigmoid()
    torch.testing.assert_close(net.probabilities(net.ready(network), inputs), expected, atol=2e-2, rtol=0)
    monkeypatch.setattr(net, "has_bfloat16", lambda: False)
    ready = net.ready(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in ready.modules())
    torch.testing.assert_close(net.probabilities(ready, inputs), expected, atol=1e-5, rtol=0)


def test_a_resnet18_starts_the_encoder_and_computes_there_what_it_did(network):
    torch.manual_seed(1)
    resnet = ResNet(BasicBlock, [2, 2, 2, 2])
    resnet.eval()
    wide = SaliencyNetwork(replace(SMALL, width=1)).eval()
    take_encoder(wide, resnet.state_dict())
    inputs = torch.randn(2, SMALL.channels, 32, 32)
    inputs[:, 3:] = torch.rand(2, SMALL.channels - 3, 32, 32)  # what it does not know counts for nothing
    stem = torch.relu(wide.bn1(wide.conv1(inputs)))
    torch.testing.assert_close(stem, torch.relu(resnet.bn1(resnet.conv1(inputs[:, :3]))), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(wide.layer3[1].conv2.weight, resnet.layer3[1].conv2.weight)
    with pytest.raises(ValueError, match=r"pretrain a resnet18x0\.125"):
        take_encoder(network, resnet.state_dict())
    with pytest.raises(ValueError, match=r"have no conv1\.weight"):
        take_encoder(wide, {"fc.weight": torch.zeros(1)})
