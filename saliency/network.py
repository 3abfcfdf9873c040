"""The network that refines saliency: an image and its quick priors → one map, sharper and surer than theirs.

It sees, besides the colours, what no convolution can find out: the priors, which weigh the whole image against its
border, how well each pixel fits the colours of this image's object, and where a graph cut would cut. So 500 images
without labels are enough to train it from nothing.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from saliency.crf import CrfConfig, smoothed
from saliency.cut import cut
from saliency.priors import find_priors, levelled
from saliency.priors.scene import Scene
from saliency.squares import to_square

BATCH = 16
"""Images that a network sees at once. Always so many, filled up with blanks: another size may take another kernel with
another rounding, and masks would depend on how images are dealt to workers."""
FORMAT = "relicv2 saliency network"
COLOUR_MODEL = CrfConfig(steps=1, smooth_weight=0, bilateral_weight=0, model_weight=1)
MEAN = -3  # channel of what an image gives: the levelled mean of its priors
PLACES = 2  # channels: distance from the middle of the width, height


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What the network sees, and its size."""

    priors: tuple[str, ...] = ("rbd", "mc", "dsr", "mbd")
    """The mean of these is as good as with HS (max F .784, IoU .602 against .781, .601 on 80 photographs)."""
    prior_side: int = 160
    """Pixels of the longer side at which the priors work: four times as fast as at 300 and 250 superpixels, and as good
    (all five: max F .781, IoU .602 there)."""
    superpixels: int = 120
    """About how many, at that size."""
    side: int = 128
    """Pixels of the square that the network sees, which is the side of a stored mask."""
    width: float = 0.5
    """Channels of the encoder, a ResNet-18, as a share of the usual 64, 128, 256, 512."""
    decoder: int = 48
    """Channels of the decoder."""
    model_side: int = 64
    """Pixels of the square in which the object's colours are compared with the background's: as good as 128, in a
    quarter of the time."""
    cut_side: int = 48
    """Pixels of the square in which the object is cut out roughly."""

    @property
    def shown(self) -> int:
        """Channels that an image gives: colours, priors, their mean, its colour model, the cut."""
        return 3 + len(self.priors) + 3

    @property
    def channels(self) -> int:
        """Channels that the network sees, places among them."""
        return self.shown + PLACES


class SaliencyNetwork(nn.Module):
    """Encode as ResNet-18 does, with torchvision's names, then decode coarse to fine, each scale added to the next."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        widths = [round(channels * config.width) for channels in (64, 64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(config.channels, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        for number in range(1, 5):
            stage = _stage(widths[number - 1], widths[number], stride=1 if number == 1 else 2)
            setattr(self, f"layer{number}", stage)
        self.context = nn.Linear(widths[4], widths[4])
        self.lateral = nn.ModuleList(nn.Conv2d(channels, config.decoder, 1) for channels in widths)
        self.merge = nn.ModuleList(_convolution(config.decoder, config.decoder) for _ in widths[1:])
        self.see = nn.Conv2d(config.channels, config.decoder, 2, stride=2)
        self.head = nn.Conv2d(config.decoder, 4, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map `inputs` [N, channels, side, side] to logits [N, 1, side, side]."""
        scales = [F.relu(self.bn1(self.conv1(inputs)))]
        scales.append(self.layer1(F.max_pool2d(scales[0], 3, stride=2, padding=1)))
        for stage in (self.layer2, self.layer3, self.layer4):
            scales.append(stage(scales[-1]))
        coarse = scales[-1] + self.context(scales[-1].mean(dim=(2, 3)))[..., None, None]
        sides = [lateral(scale) for lateral, scale in zip(self.lateral[:-1], scales[:-1], strict=True)]  # type: ignore[arg-type]
        # Each place at half the resolution sees its four pixels and gives four results: small convolutions at full
        # resolution would take longer than all else.
        sides[0] = sides[0] + self.see(inputs)
        decoded = self.lateral[-1](coarse)
        for side, merge in zip(sides[::-1], self.merge, strict=True):
            enlarged = F.interpolate(decoded, size=side.shape[-2:], mode="bilinear", align_corners=False)
            decoded = merge(enlarged + side)
        return F.pixel_shuffle(self.head(decoded), 2)


class _Block(nn.Module):
    """Add two 3×3 convolutions to the shortcut (He et al., 2015)."""

    def __init__(self, inside: int, outside: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample = None
        if stride > 1:
            shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outside))

    def forward(self, inputs: Tensor) -> Tensor:
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(inputs))))) + shortcut)


def _stage(inside: int, outside: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(inside, outside, stride), _Block(outside, outside))


def _convolution(inside: int, outside: int) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


# ---- what it sees ---------------------------------------------------------------------------------------------


def channels(image: np.ndarray, config: NetworkConfig) -> np.ndarray:
    """Return what the network is to see of an image, but for the places.

    Args:
        image: uint8 RGB [H, W, 3].
        config: of the network.

    Returns:
        uint8 [side, side, 3 + priors + 3]: colours; maps of the priors, of their levelled mean, of its colour model and
        of the cut, as 0 to 255.

    Raises:
        ValueError: not uint8 [H, W, 3], or without pixels.
    """
    scene = Scene(image, config.prior_side, config.superpixels)
    maps = [prior(scene) for prior in find_priors(config.priors).values()]
    maps.append(levelled(sum(maps) / np.float32(len(maps))))  # type: ignore[arg-type]
    colours = to_square(scene.whole, config.side)
    shown = [to_square(scene.framed(each), config.side) for each in maps]
    mean = shown[-1]
    for side, method in ((config.model_side, _by_colour), (config.cut_side, cut)):
        shown.append(to_square(method(to_square(colours, side), to_square(mean, side)), config.side))
    return np.concatenate([colours, np.round(np.stack(shown, axis=-1) * 255).astype(np.uint8)], axis=-1)


def _by_colour(colours: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    return smoothed(colours, saliency, COLOUR_MODEL)


def normalized(seen: Tensor) -> Tensor:
    """Add the places to what is seen, uint8 [N, side, side, C], and scale all: float32 [N, C + 2, side, side]."""
    number, side, _, count = seen.shape
    along = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(along, along, indexing="ij")
    scaled = torch.zeros(number, side, side, count + PLACES)
    scaled[..., :count] = seen
    scaled.mul_(1 / (255 * 0.27)).sub_(0.4 / 0.27)  # whole rows in place: a third of the time of a new tensor per step
    scaled[..., count:] = torch.stack([x.abs(), y], dim=-1)
    return scaled.permute(0, 3, 1, 2)


# ---- using it -------------------------------------------------------------------------------------------------


def maps(network: SaliencyNetwork, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Map images by a network, in bfloat16 where the processor computes in it.

    Args:
        network: as `ready` returns it.
        images: uint8 RGB [H, W, 3] each.

    Returns:
        float32 [side, side] each, in [0, 1]; salient above one half.
    """
    made: list[np.ndarray] = []
    for start in range(0, len(images), BATCH):
        seen = np.stack([channels(image, network.config) for image in images[start : start + BATCH]])
        made += list(probabilities(network, normalized(torch.from_numpy(seen))).numpy())
    return made


@torch.inference_mode()
def probabilities(network: SaliencyNetwork, inputs: Tensor) -> Tensor:
    """Run the network on at most `BATCH` images as `normalized` gives them: float32 [N, side, side] in [0, 1]."""
    blanks = inputs.new_zeros(BATCH - len(inputs), *inputs.shape[1:])
    whole = torch.cat([inputs, blanks]).to(network.head.weight.dtype).contiguous(memory_format=torch.channels_last)
    return network(whole)[: len(inputs), 0].float().sigmoid()


def ready(network: SaliencyNetwork) -> SaliencyNetwork:
    """Return a copy that only predicts, in two thirds of the time: norms folded into the convolutions before them, and
    bfloat16 where the processor computes in it.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        names = [name for name, _ in module.named_children()]
        for first, second in itertools.pairwise(names):
            convolution, norm = getattr(module, first), getattr(module, second)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, first, fuse_conv_bn_eval(convolution, norm))
                setattr(module, second, nn.Identity())
    return network.to(torch.bfloat16 if has_bfloat16() else torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]


def has_bfloat16() -> bool:
    """Say whether the CPU has instructions for bfloat16: half the time of float32 there, twice elsewhere."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def multiply_adds(config: NetworkConfig) -> int:
    """Count the multiply-adds that an image takes in the convolutions."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()  # type: ignore[index,union-attr]

    network = SaliencyNetwork(config).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, config.channels, config.side, config.side))
    return total


# ---- keeping it -----------------------------------------------------------------------------------------------


def save(network: SaliencyNetwork, path: Path, facts: dict[str, str]) -> None:
    """Write a network to a safetensors file; `facts` stand in its metadata beside the configuration."""
    metadata = {**facts, "format": FORMAT, "config": json.dumps(asdict(network.config))}
    temporary = path.with_name(f".{path.name}.partial")
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, temporary, metadata)
    temporary.replace(path)


def load(path: Path) -> SaliencyNetwork:
    """Read a network, in evaluation mode.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no saliency network, or a damaged one.
    """
    mend = "give the network.safetensors that `relic masks fit` wrote"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {mend}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        weights = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); {mend}") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: not a saliency network; {mend}")
    fields = json.loads(metadata["config"])
    network = SaliencyNetwork(NetworkConfig(**{**fields, "priors": tuple(fields["priors"])}))
    network.load_state_dict(weights)
    return network.eval()
