"""`--dry-run`: what a run will do and need, worked out without starting it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from relic.config import RunConfig
from relic.distributed import from_environment
from relic.models.backbones import Stem, build_backbone
from relic.plan import make_plan
from relic.precision import DTYPES
from relic.state import build_model
from relic.telemetry import duration_text
from relic.train import describe_data

# RN50 supervised training at 224, AMP and channels-last, images/s (public figures; see docs): the yardstick from which
# the demand of other backbones and views is scaled by multiply-adds.
RESNET50_RATES = {"A100": 2340, "H100": 4200}
RESNET50_MACS = 4.09e9


@dataclass(frozen=True, kw_only=True)
class ForwardCost:
    """One image through a backbone."""

    macs: float
    """Multiply-adds of convolutions and linear layers."""
    activations: int
    """Elements that the backward pass needs: outputs of convolutions, batch norms and activations."""


def dry_run(config: RunConfig, *, rate: float | None, world_size: int | None, num_nodes: int | None = None) -> str:
    """Return the plan as text.

    Args:
        config: the run.
        rate: source images/s per GPU to reckon hours with; None gives the demand of an A100 and an H100.
        world_size: processes; None takes those of this launch.
        num_nodes: machines; None takes those of this launch, or does not know.

    Raises:
        FileNotFoundError, ValueError: as training would.
    """
    data = describe_data(config)
    if world_size is None:
        launched = from_environment(config.device)
        world_size, num_nodes = launched.world_size, num_nodes or launched.num_nodes
    if num_nodes is not None and (num_nodes < 1 or world_size % num_nodes):
        raise ValueError(f"--gpus {world_size} cannot be spread evenly over --nodes {num_nodes}")
    plan = make_plan(config, num_images=data["num_images"], world_size=world_size)
    large = forward_cost(config.model.backbone, config.model.stem, config.views.large.size)
    small = forward_cost(config.model.backbone, config.model.stem, config.views.small.size)
    # A training step is one forward and a backward of twice its cost; the target network only goes forward.
    views = config.views
    is_relic = config.loss.kind == "relic"
    macs = 3 * (views.large.count * large.macs + views.small.count * small.macs)
    macs += views.large.count * large.macs if is_relic else 0
    equivalents = macs / (3 * RESNET50_MACS)

    spread = "" if num_nodes in (None, 1) else f" ({num_nodes} nodes of {world_size // num_nodes})"
    if config.optim.accumulate > 1:
        spread += f" in {config.optim.accumulate} parts of {plan.micro_batch_size:,}"
    views_per_image = views.large.count + views.small.count
    source_images = plan.total_steps * plan.batch_size
    lines = [
        f"recipe            {config.recipe}: {config.model.backbone} on {config.data} ({plan.num_images:,} images)",
        f"steps             {plan.total_steps:,} of {plan.batch_size:,} images ({plan.steps_per_epoch:,} per epoch),"
        f" {plan.local_batch_size:,} on each of {world_size} processes{spread}",
        f"images            {source_images:,} source images, {source_images * views_per_image:,} views",
        f"learning rate     peak {plan.peak_learning_rate:.4g} after {plan.warmup_steps:,} steps ({config.optim.name})",
        f"memory            about {memory_bytes(config, plan.micro_batch_size, large, small) / 2**30:.1f} GiB per"
        f" process (weights, optimizer, target, activations in {config.precision})",
        f"work              {macs * 2 / 1e9:,.1f} GFLOP per source image = {equivalents:.2f} ResNet-50 training images",
    ]
    rates = {"given rate": rate} if rate else {name: r / equivalents for name, r in RESNET50_RATES.items()}
    for name, wanted in rates.items():
        hours = source_images / (wanted * world_size)
        lines.append(
            f"{name:<17} {wanted:,.0f} source images/s per GPU: {duration_text(hours)} on {world_size} GPU"
            f"{'s' if world_size > 1 else ''}"
        )
    return "\n".join(lines)


def forward_cost(backbone: str, stem: Stem, size: int) -> ForwardCost:
    """Count multiply-adds and kept activations of one image on torch's meta device, which computes nothing."""
    with torch.device("meta"):
        network = build_backbone(backbone, stem=stem)
        image = torch.empty(1, 3, size, size)
    macs, activations = 0.0, 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal macs, activations
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
            macs += output.numel() * kernel
        elif isinstance(module, nn.Linear):
            macs += output.numel() * module.in_features
        activations += output.numel()

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    network.eval()(image)
    return ForwardCost(macs=macs, activations=activations)


def memory_bytes(config: RunConfig, images: int, large: ForwardCost, small: ForwardCost) -> float:
    """Estimate the peak: float32 weights, gradients, optimizer and target, and all online views' activations.

    Args:
        config: the run.
        images: of one forward and backward pass.
        large, small: what one view costs.
    """
    with torch.device("meta"):
        model = build_model(config, num_classes=1000)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    buffers = 2 if config.optim.name == "adamw" else 1
    element = torch.empty(0, dtype=DTYPES[config.precision]).element_size()
    views = config.views
    activations = views.large.count * large.activations + views.small.count * small.activations
    return 4 * (parameters + trained * (1 + buffers)) + images * activations * element
