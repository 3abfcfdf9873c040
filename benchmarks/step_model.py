"""One training step on many GPUs, on paper: what each part takes, from counts of the model and stated assumptions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from relic.config import RunConfig

BUCKET_BYTES = 25 * 2**20
"""Gradients that DistributedDataParallel sends at once."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """GPUs, what lies between them, and what feeds them."""

    images_per_second: float
    """ResNet-50 training images of 224 px per second and GPU."""
    memory_bytes_per_second: float
    launch_seconds: float
    """Host time per kernel of a network's forward or backward pass."""
    gpus_per_node: int
    nvlink_bytes_per_second: float
    """Bus bandwidth of a large all-reduce inside a node."""
    network_bytes_per_second: float
    """Of a node, all its cards together."""
    collective_seconds: float
    """Added to NCCL's own latency for every collective: launch and change of stream."""
    cores_per_gpu: float
    core_images_per_second: float
    """Source images whose views one core makes."""
    storage_bytes_per_second: float
    """Of a node, when images are not in its page cache."""
    cache_bytes: float
    """Memory of a node that may hold images."""
    disk_bytes_per_second: float
    """Of one writer of checkpoints."""
    host_bytes_per_second: float
    """From a GPU to the host's memory."""
    node_failure_hours: float
    """Mean hours between failures of one node."""
    restart_seconds: float
    """From a failure to the first new step."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the recipe asks for, counted from its networks."""

    total_images: int
    """Source images over the whole run."""
    macs: float
    """Multiply-adds per source image: online forward and backward, target forward."""
    overlap_macs: float
    """Those of the backward pass during which gradients become final, per source image."""
    forward_kernels: int
    """Kernels of all forward passes of a step."""
    backward_kernels: int
    trained_parameters: int
    target_parameters: int
    statistics_forward: int
    """Exchanges of batch statistics of a step in forward passes."""
    statistics_backward: int
    statistics_floats: int
    """Numbers that a process contributes to all forward exchanges of a step."""
    image_bytes: float
    dataset_images: int
    checkpoint_bytes: int
    checkpoint_images: float
    """Source images between two checkpoints."""
    checkpoint_seconds: float
    """A checkpoint is also due after so many seconds."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of the parts of one step; those of `chain` follow one another, the others run beside it."""

    gpus: int
    batch_size: int
    compute: float
    launches: float
    """What launching kernels takes beyond computing."""
    statistics: float
    gradients: float
    """What the backward pass does not hide."""
    optimizer: float
    cores: float
    """Making the views."""
    storage: float
    """Reading the images."""
    checkpoint_stall: float
    """Seconds that training waits for one checkpoint, written in the background."""
    checkpoint_blocking: float
    """Seconds that it would wait for the disk."""
    checkpoint_interval: float
    failure_interval: float
    """Seconds between failures of the whole machine."""
    lost_per_failure: float
    """Seconds of work lost, and of starting again."""

    @property
    def chain(self) -> dict[str, float]:
        """Return what the GPU waits for or does, one after the other."""
        names = ("compute", "launches", "statistics", "gradients", "optimizer")
        return {name: getattr(self, name) for name in names}

    @property
    def seconds(self) -> float:
        """Return how long a step takes."""
        return max(sum(self.chain.values()), self.cores, self.storage)

    @property
    def bottleneck(self) -> str:
        """Return what bounds the step: the input if it is slower than the rest, else the largest part."""
        parts = self.chain
        beside = {"cores": self.cores, "storage": self.storage}
        slowest = max(beside, key=beside.__getitem__)
        return slowest if beside[slowest] > sum(parts.values()) else max(parts, key=parts.__getitem__)

    @property
    def images_per_second_per_gpu(self) -> float:
        """Return source images/s."""
        return self.batch_size / self.gpus / self.seconds

    @property
    def efficiency(self) -> float:
        """Return the share of the step in which the GPU computes."""
        return self.compute / self.seconds

    @property
    def overhead(self) -> float:
        """Return the share of time that checkpoints and failures add."""
        return self.checkpoint_stall / self.checkpoint_interval + self.lost_per_failure / self.failure_interval


def step(
    work: Workload,
    machine: Machine,
    *,
    gpus: int,
    batch_size: int,
    statistics: Literal["all_gather", "all_reduce"],
    resnet50_macs: float,
) -> Step:
    """Work out one step.

    Args:
        work: the recipe.
        machine: where.
        gpus: processes, one GPU each; nodes are full or there is one.
        batch_size: source images over all GPUs.
        statistics: collective of the forward exchange of batch statistics; the backward one is an all-reduce.
        resnet50_macs: multiply-adds of the forward pass that `machine.images_per_second` refers to.

    Raises:
        ValueError: a batch that does not divide.
    """
    if gpus < 1 or batch_size % gpus:
        raise ValueError(f"batch {batch_size} cannot be divided over {gpus} GPUs")
    local, nodes = batch_size // gpus, math.ceil(gpus / machine.gpus_per_node)
    macs_per_second = machine.images_per_second * 3 * resnet50_macs
    compute = local * work.macs / macs_per_second
    launched = (work.forward_kernels + work.backward_kernels) * machine.launch_seconds
    gradients = gradient_seconds(4 * work.trained_parameters, machine, gpus=gpus)
    bucket = gradient_seconds(min(BUCKET_BYTES, 4 * work.trained_parameters), machine, gpus=gpus)
    hidden = local * work.overlap_macs / macs_per_second
    moved = 28 * work.trained_parameters + 12 * work.target_parameters  # bytes: docs/kernels.md
    local_bytes = local * min(gpus, machine.gpus_per_node) * work.image_bytes
    missing = max(1 - machine.cache_bytes / (work.dataset_images * work.image_bytes), 0.0)
    parts = {
        "compute": compute,
        "launches": max(launched - compute, 0.0),
        "statistics": statistics_seconds(work, machine, gpus=gpus, collective=statistics),
        "gradients": max(gradients - hidden, bucket),
        "optimizer": moved / machine.memory_bytes_per_second,
        "cores": local / (machine.cores_per_gpu * machine.core_images_per_second),
        "storage": missing * local_bytes / machine.storage_bytes_per_second,
    }
    seconds = max(sum(list(parts.values())[:5]), parts["cores"], parts["storage"])
    interval = min(work.checkpoint_images / batch_size * seconds, work.checkpoint_seconds)
    return Step(
        gpus=gpus,
        batch_size=batch_size,
        **parts,
        checkpoint_stall=work.checkpoint_bytes / machine.host_bytes_per_second,
        checkpoint_blocking=work.checkpoint_bytes / machine.disk_bytes_per_second,
        checkpoint_interval=interval,
        failure_interval=machine.node_failure_hours * 3600 / nodes,
        lost_per_failure=interval / 2 + machine.restart_seconds,
    )


# -- collectives: latencies as NCCL reckons them itself (src/graph/tuning.cc), which has them in microseconds ----------


def small_collective_seconds(
    kind: Literal["all_gather", "all_reduce"], *, gpus: int, gpus_per_node: int, added: float
) -> float:
    """Return the latency of a collective of a few kilobytes: protocol LL, a tree where NCCL has one."""
    if gpus == 1:
        return 0.0
    nodes = math.ceil(gpus / gpus_per_node)
    slower = 1.8 if nodes > 1 else 1.0
    ring_steps = 2 * (gpus - 1) if kind == "all_reduce" else gpus - 1
    between = 2 * (nodes - 1) if kind == "all_reduce" else nodes - 1
    best = 3.6 + (ring_steps - between) * 0.47 * slower + between * 2.7
    if kind == "all_reduce":
        tree = 4.4 + 2 * ((gpus / nodes - 1) * 0.52 * slower + math.log2(nodes) * 5.0)
        best = min(best, tree)
    return best * 1e-6 + added


def gradient_seconds(size: float, machine: Machine, *, gpus: int) -> float:
    """Return the time of the all-reduce of all gradients, a bucket at a time: ring or tree, protocol Simple."""
    if gpus == 1 or not size:
        return 0.0
    nodes = math.ceil(gpus / machine.gpus_per_node)
    bus = bus_bandwidth(machine, nodes)
    steps, between = 2 * (gpus - 1), 2 * (nodes - 1)
    ring = (8.4 + (steps - between) * 3.4 + between * 9.6) * 1e-6
    tree = 2 * ((gpus / nodes - 1) * 28 + math.log2(nodes) * 50) * 1e-6
    buckets = math.ceil(size / BUCKET_BYTES)
    times = (ring * buckets + size / (bus * gpus / steps), tree * buckets + size / (0.45 * bus))
    return min(times) + buckets * machine.collective_seconds


def statistics_seconds(work: Workload, machine: Machine, *, gpus: int, collective: str) -> float:
    """Return the time of all exchanges of batch statistics; nothing hides them, as each stands between two layers."""
    if gpus == 1:
        return 0.0
    nodes = math.ceil(gpus / machine.gpus_per_node)

    def latency(kind: Literal["all_gather", "all_reduce"]) -> float:
        return small_collective_seconds(
            kind, gpus=gpus, gpus_per_node=machine.gpus_per_node, added=machine.collective_seconds
        )

    gathers = collective == "all_gather"
    received = 4 * work.statistics_floats * (gpus if gathers else 2)
    return (
        work.statistics_forward * latency("all_gather" if gathers else "all_reduce")
        + work.statistics_backward * latency("all_reduce")
        + received / bus_bandwidth(machine, nodes)
    )


def bus_bandwidth(machine: Machine, nodes: int) -> float:
    """Return what a ring moves: NVLink in a node, the slower of NVLink and the node's network between nodes."""
    if nodes == 1:
        return machine.nvlink_bytes_per_second
    return min(machine.nvlink_bytes_per_second, machine.network_bytes_per_second)


# -- counting ---------------------------------------------------------------------------------------------------------


def workload(config: RunConfig, *, dataset_images: int, image_bytes: float, concatenate: bool) -> Workload:
    """Count what a recipe asks for, on torch's meta device.

    Raises:
        ValueError: the recipe is no ReLIC recipe, or its durations do not fit.
    """
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    from relic.dry_run import forward_cost
    from relic.models.twin import Twin
    from relic.plan import make_plan
    from relic.state import build_model

    with torch.device("meta"):
        model = build_model(config, num_classes=1000)
    if not isinstance(model, Twin):
        raise ValueError(f"{config.recipe} has no target network: give a recipe of the method")
    plan = make_plan(config, num_images=dataset_images, world_size=1)
    views, stem, backbone = config.views, config.model.stem, config.model.backbone
    large = forward_cost(backbone, stem, views.large.size).macs
    small = forward_cost(backbone, stem, views.small.size).macs
    passes = (
        ((views.large.count > 0) + (views.small.count > 0)) if concatenate else views.large.count + views.small.count
    )
    target_passes = 1 if concatenate else views.large.count

    def norms(module: nn.Module) -> list[_BatchNorm]:
        return [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]

    def layers(module: nn.Module) -> int:
        return sum(not list(layer.children()) for layer in module.modules())

    def floats(module: nn.Module) -> int:
        return sum(2 * norm.num_features for norm in norms(module))

    online, target = model.online, model.target
    trained = sum(parameter.numel() for parameter in online.parameters())
    averaged = sum(parameter.numel() for parameter in target.parameters())
    buffers = sum(buffer.numel() for buffer in model.buffers())
    moments = 2 if config.optim.name == "adamw" else 1
    # Gradients of all views are added up before they are sent, in the backward pass of those that went forward first.
    first = large * (views.large.count if concatenate else 1)
    return Workload(
        total_images=plan.total_steps * plan.batch_size,
        macs=3 * (views.large.count * large + views.small.count * small) + views.large.count * large,
        overlap_macs=2 * first,
        forward_kernels=passes * layers(online) + target_passes * layers(target),
        backward_kernels=2 * passes * layers(online),
        trained_parameters=trained,
        target_parameters=averaged,
        statistics_forward=passes * len(norms(online)) + target_passes * len(norms(target)),
        statistics_backward=passes * len(norms(online)),
        statistics_floats=(views.large.count + views.small.count) * floats(online) + views.large.count * floats(target),
        image_bytes=image_bytes,
        dataset_images=dataset_images,
        checkpoint_bytes=4 * ((1 + moments) * trained + averaged + buffers),
        checkpoint_images=plan.checkpoint_steps * plan.batch_size,
        checkpoint_seconds=60 * config.checkpoint.every_minutes or math.inf,
    )
