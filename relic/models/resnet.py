"""ResNet v1 (He et al., 2015) of any width, strided on the 3x3, with torchvision's state-dict keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Stem = Literal["imagenet", "cifar"]
Padding = Literal["torch", "same"]

EXPANSION = {"basic": 1, "bottleneck": 4}
DEPTHS: dict[int, tuple[str, tuple[int, int, int, int]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}


def pad_same(images: Tensor, kernel_size: int, stride: int, *, value: float = 0.0) -> Tensor:
    """Pad [N, C, H, W] as TensorFlow's SAME does: ceil(size / stride) outputs, the odd pixel at the end."""

    def before_and_after(size: int) -> tuple[int, int]:
        total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
        return total // 2, total - total // 2

    height, width = images.shape[-2:]
    return F.pad(images, (*before_and_after(width), *before_and_after(height)), value=value)


class SameConv2d(nn.Conv2d):
    """Convolve with SAME padding; parameters and state-dict keys are those of nn.Conv2d."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(pad_same(input, self.kernel_size[0], self.stride[0]))


class SameMaxPool2d(nn.MaxPool2d):
    """Max-pool with SAME padding, where padded pixels never win."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__(kernel_size, stride)
        self.same = (kernel_size, stride)

    def forward(self, input: Tensor) -> Tensor:
        return F.max_pool2d(pad_same(input, *self.same, value=float("-inf")), *self.same)


def convolution(fan_in: int, fan_out: int, kernel_size: int, stride: int, padding: Padding) -> nn.Conv2d:
    """Return a convolution without bias; "torch" pads both sides alike, "same" as TensorFlow does."""
    if padding == "same":
        return SameConv2d(fan_in, fan_out, kernel_size, stride, bias=False)
    return nn.Conv2d(fan_in, fan_out, kernel_size, stride, padding=kernel_size // 2, bias=False)


class BasicBlock(nn.Module):
    """Add two 3x3 convolutions to the shortcut (depths 18 and 34)."""

    def __init__(self, in_channels: int, channels: int, stride: int, padding: Padding) -> None:
        super().__init__()
        out_channels = channels * EXPANSION["basic"]
        self.conv1 = convolution(in_channels, channels, 3, stride, padding)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = convolution(channels, out_channels, 3, 1, padding)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = projection_shortcut(in_channels, out_channels, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """Add a 1x1, 3x3 (strided), 1x1 stack to the shortcut (depths 50 and more)."""

    def __init__(self, in_channels: int, channels: int, stride: int, padding: Padding) -> None:
        super().__init__()
        out_channels = channels * EXPANSION["bottleneck"]
        self.conv1 = convolution(in_channels, channels, 1, 1, padding)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, 3, stride, padding)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = convolution(channels, out_channels, 1, 1, padding)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection_shortcut(in_channels, out_channels, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


def projection_shortcut(fan_in: int, fan_out: int, stride: int, padding: Padding) -> nn.Sequential | None:
    """Return the 1x1 projection, or None where the identity fits."""
    if stride == 1 and fan_in == fan_out:
        return None
    return nn.Sequential(convolution(fan_in, fan_out, 1, stride, padding), nn.BatchNorm2d(fan_out))


class ResNet(nn.Module):
    """Map images float [N, 3, H, W] to pooled features [N, feature_dim].

    State-dict keys are torchvision's without `fc`, so its weights load and exports need no renaming.

    Args:
        depth: 18, 34, 50, 101, 152 or 200.
        width: factor on every channel count, the stem's and the output's too (rounded to whole channels).
        stem: "imagenet" is a 7x7 convolution of stride 2 and a max-pool, "cifar" a 3x3 of stride 1 alone.
        padding: "torch" is symmetric; "same" is TensorFlow's, asymmetric at stride 2, which the published JAX
            weights need.
        zero_init_residual: start every block as the identity (Goyal et al., 2017, section 5.1).

    Raises:
        ValueError: for an unknown depth, stem or padding, or a width that leaves no channel.
    """

    def __init__(
        self,
        depth: int,
        *,
        width: float = 1.0,
        stem: Stem = "imagenet",
        padding: Padding = "torch",
        zero_init_residual: bool = True,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"depth {depth} is not a ResNet's: use one of {', '.join(map(str, DEPTHS))}")
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"unknown stem {stem!r}: use 'imagenet' or 'cifar'")
        if padding not in ("torch", "same"):
            raise ValueError(f"unknown padding {padding!r}: use 'torch' or 'same'")
        if not 1 <= 64 * width < float("inf"):
            raise ValueError(f"width {width} leaves no channel or too many: use a factor such as 2 or 0.25")
        kind, blocks_per_group = DEPTHS[depth]
        block: Callable[[int, int, int, Padding], BasicBlock | Bottleneck]
        block = BasicBlock if kind == "basic" else Bottleneck

        in_channels = round(64 * width)
        if stem == "imagenet":
            self.conv1 = convolution(3, in_channels, 7, 2, padding)
            self.maxpool = SameMaxPool2d(3, 2) if padding == "same" else nn.MaxPool2d(3, 2, padding=1)
        else:
            self.conv1 = convolution(3, in_channels, 3, 1, padding)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)

        groups = []
        for number, num_blocks in enumerate(blocks_per_group):
            channels = round(64 * 2**number * width)
            stride = 1 if number == 0 else 2
            blocks = []
            for position in range(num_blocks):
                blocks.append(block(in_channels, channels, stride if position == 0 else 1, padding))
                in_channels = channels * EXPANSION[kind]
            groups.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = groups
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.feature_dim = in_channels
        initialize(self, zero_init_residual=zero_init_residual)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(self.avgpool(x), 1)


def initialize(network: nn.Module, *, zero_init_residual: bool) -> None:
    """Draw He-normal convolutions (fan out, as torchvision); the last batch norm of a block starts at 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, BasicBlock | Bottleneck) and zero_init_residual:
            nn.init.zeros_(module.last_norm.weight)
