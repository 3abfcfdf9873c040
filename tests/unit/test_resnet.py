"""ResNet against torchvision and timm (keys, features), published sizes, and TensorFlow's padding."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from relic.models import ResNet
from relic.models.resnet import SameConv2d, SameMaxPool2d


def randomized(module: nn.Module) -> nn.Module:
    """Give batch norms scales and statistics other than their first ones, so that a swap would show."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
    return module


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def without_classifier(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def images(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("training", [True, False])
def test_torchvision_weights_load_and_give_the_same_features(depth: int, training: bool) -> None:
    theirs = randomized(getattr(torchvision.models, f"resnet{depth}")())
    ours = ResNet(depth)
    state = without_classifier(theirs.state_dict())
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    theirs.fc = nn.Identity()
    ours.train(training)
    theirs.train(training)
    features = ours(images(65))
    assert features.shape == (2, ours.feature_dim)
    torch.testing.assert_close(features, theirs(images(65)), rtol=1e-5, atol=1e-5)
    after = without_classifier(theirs.state_dict())
    torch.testing.assert_close(dict(ours.state_dict()), after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [18, 50])
def test_timm_accepts_the_weights_and_gives_the_same_features(depth: int) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(f"resnet{depth}", pretrained=False, num_classes=0).eval()
    ours = randomized(ResNet(depth)).eval()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(images(64)), theirs(images(64)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("depth", "parameters"),
    # torchvision's and (200) timm's counts less the classifier's 1000 * (features + 1).
    [
        (18, 11_176_512),
        (34, 21_284_672),
        (50, 23_508_032),
        (101, 42_500_160),
        (152, 58_143_808),
        (200, 62_624_832),
    ],
)
def test_sizes_are_the_published_ones(depth: int, parameters: int) -> None:
    with torch.device("meta"):
        assert num_parameters(ResNet(depth)) == parameters


@pytest.mark.parametrize("width", [2, 0.25])
def test_width_multiplies_every_channel(width: float) -> None:
    with torch.device("meta"):
        plain, wide = ResNet(50), ResNet(50, width=width)
    assert wide.feature_dim == width * plain.feature_dim
    for name, tensor in plain.state_dict().items():
        expected = [
            size if axis > 1 or (axis == 1 and name == "conv1.weight") else int(width * size)
            for axis, size in enumerate(tensor.shape)
        ]
        assert list(wide.state_dict()[name].shape) == expected, name


def test_published_width_counts() -> None:
    # Grill et al. (2020), table 1: ResNet-50 x2 has 94 M, x4 375 M, ResNet-200 x2 250 M parameters.
    with torch.device("meta"):
        counts = [num_parameters(ResNet(50, width=2)), num_parameters(ResNet(50, width=4))]
        counts.append(num_parameters(ResNet(200, width=2)))
    assert [round(count / 1e6) for count in counts] == [94, 375, 250]


def test_width_that_is_no_whole_factor_is_rounded() -> None:
    network = ResNet(18, width=0.3)
    assert network(images(32)).shape == (2, network.feature_dim) == (2, 154)


def test_cifar_stem_keeps_the_resolution() -> None:
    network = ResNet(18, width=0.125, stem="cifar")
    assert network.conv1.weight.shape == (8, 3, 3, 3)
    sizes = []
    network.layer1.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[-1]))
    network(images(32))
    assert sizes == [32]


def test_zero_initialised_blocks_are_the_identity() -> None:
    block = ResNet(18, width=0.125).layer1[1]
    signal = images(8)[:, :1].expand(2, 8, 8, 8).relu()
    assert torch.equal(block(signal), signal)
    plain = ResNet(18, width=0.125, zero_init_residual=False).layer1[1]
    assert not torch.equal(plain(signal), signal)


def test_convolutions_start_he_normal_and_norms_with_torch_constants() -> None:
    network = ResNet(18)
    weight = network.layer3[0].conv1.weight
    assert weight.shape == (256, 128, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert {(norm.momentum, norm.eps) for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)} == {
        (0.1, 1e-5)
    }


@pytest.mark.parametrize("size", [8, 9])
def test_same_padding_puts_the_odd_pixel_at_the_end(size: int) -> None:
    # TensorFlow at stride 2 pads an even side by 0 + 1 (kernel 3) or 2 + 3 (7), an odd one by 1 + 1 or 3 + 3.
    signal = images(size)
    before3, before7 = (0, 2) if size == 8 else (1, 3)
    conv3, conv7 = SameConv2d(3, 4, 3, 2, bias=False), SameConv2d(3, 4, 7, 2, bias=False)
    padded = F.pad(signal, (before3, 1, before3, 1))
    torch.testing.assert_close(conv3(signal), F.conv2d(padded, conv3.weight, stride=2))
    padded = F.pad(signal, (before7, 3, before7, 3))
    torch.testing.assert_close(conv7(signal), F.conv2d(padded, conv7.weight, stride=2))
    assert conv3(signal).shape[-1] == -(-size // 2)


def test_same_padding_pools_values_that_are_all_negative() -> None:
    signal = -1 - images(8).abs()
    padded = F.pad(signal, (0, 1, 0, 1), value=float("-inf"))
    assert torch.equal(SameMaxPool2d(3, 2)(signal), F.max_pool2d(padded, 3, 2))


def test_same_padding_applies_to_the_whole_network_and_keeps_its_keys() -> None:
    plain, same = randomized(ResNet(50, width=0.125)).eval(), ResNet(50, width=0.125, padding="same").eval()
    same.load_state_dict(plain.state_dict())
    assert not torch.allclose(plain(images(64)), same(images(64)))
    strided = [module for module in same.modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2)]
    assert len(strided) == 7
    assert all(isinstance(module, SameConv2d) for module in strided)
    assert isinstance(same.maxpool, SameMaxPool2d)
    # Of an odd side both paddings are symmetric: at 65 = 2 * 32 + 1 they agree down to 65, 33, 17, 9, 5, 3.
    torch.testing.assert_close(plain(images(65)), same(images(65)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 51}, "depth 51 is not a ResNet's: use one of 18, 34, 50, 101, 152, 200"),
        ({"depth": 50, "stem": "tiny"}, "unknown stem 'tiny': use 'imagenet' or 'cifar'"),
        ({"depth": 50, "padding": "valid"}, "unknown padding 'valid': use 'torch' or 'same'"),
        ({"depth": 50, "width": 0}, "width 0 leaves no channel"),
        ({"depth": 50, "width": float("nan")}, "width nan leaves no channel"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)
