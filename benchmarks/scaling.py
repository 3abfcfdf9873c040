"""`python -m benchmarks scaling`: a training step on 8 to 512 GPUs, on paper, with every assumption it rests on."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from benchmarks.step_model import Machine, Step, Workload

VIEWS = Path(__file__).parent / "results" / "views.json"


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What the model takes for granted; None takes the figure of the GPU, or ours."""

    resnet50_rate: float | None = None
    """ResNet-50 training images/s of one GPU."""
    memory_bandwidth: float | None = None
    """GPU memory, GB/s."""
    nvlink: float | None = None
    """Bus bandwidth of a large all-reduce inside a node, GB/s."""
    network: float | None = None
    """Network of a node, all cards together, Gbit/s."""
    gpus_per_node: int = 8
    """GPUs of a node."""
    launch_microseconds: float = 5.0
    """Host time per kernel of a network."""
    collective_microseconds: float = 10.0
    """Launch of a collective, beside NCCL's own latency."""
    cores_per_gpu: float = 2.0
    """Cores that make views, per GPU."""
    core_rate: float | None = None
    """Source images whose views one core makes per second."""
    storage: float = 2.0
    """Reading of a node, GB/s, where an image is not in its memory."""
    node_memory: float = 1000.0
    """Memory of a node that may hold images, GB."""
    disk: float = 1.0
    """Writing of a checkpoint, GB/s."""
    host_copy: float = 4.0
    """Copy of a checkpoint from the GPU to plain memory of the host, GB/s."""
    node_failure_hours: float = 6300.0
    """Mean hours between failures of one node."""
    restart_seconds: float = 300.0
    """From a failure to the first new step."""
    dataset_images: int = 1_281_167
    """Images of the data set."""
    image_kilobytes: float = 110.0
    """Mean size of an image, kB."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"--{field.name.replace('_', '-')} {value:g}: give more than 0")


GPUS: dict[str, dict[str, float]] = {
    "A100": {"memory_bandwidth": 2039.0, "nvlink": 230.0, "network": 1600.0},
    "H100": {"memory_bandwidth": 3350.0, "nvlink": 360.0, "network": 3200.0},
}
"""What stands for None, beside the rate of `relic.dry_run`."""

SOURCES = {
    "resnet50_rate": "public figure, AMP and channels-last; relic/dry_run.py",
    "memory_bandwidth": "maker's figure",
    "nvlink": "guess, near what nccl-tests is reported to reach on a DGX",
    "network": "maker's figure: a DGX's eight cards",
    "gpus_per_node": "maker's figure",
    "launch_microseconds": "guess, from common profiles of eager PyTorch; CUDA graphs would remove it",
    "collective_microseconds": "guess; NCCL's latency itself is that of its own tuning model (src/graph/tuning.cc)",
    "cores_per_gpu": "our goal (design)",
    "storage": "guess: a shared file system",
    "node_memory": "guess: half of a DGX H100",
    "disk": "guess: a shared file system",
    "host_copy": "guess: pageable memory",
    "node_failure_hours": "public figure: 419 failures of 2,048 nodes in 54 days (Llama 3, section 3.3.4)",
    "restart_seconds": "guess",
    "dataset_images": "ImageNet-1k",
    "image_kilobytes": "ImageNet-1k: 141 GB",
}


def scaling(
    recipe: str = "relicv2_r50_300ep",
    gpu: Literal["A100", "H100"] = "H100",
    gpus: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N [N ...]")] = (8, 64, 512),
    local_batch: int = 512,
    concatenate_views: bool | None = None,
    statistics: Literal["all_gather", "all_reduce"] = "all_reduce",
    assumptions: Annotated[Assumptions, tyro.conf.arg(name="")] = Assumptions(),
    json: str | None = None,
) -> int:
    """Work out a step of a recipe on so many GPUs, and what bounds it first. Nothing is measured.

    Args:
        recipe: Recipe of the method.
        gpu: Kind of GPU.
        gpus: Numbers of GPUs.
        local_batch: Source images per GPU of the second table, where the batch grows with the GPUs.
        concatenate_views: One forward pass for all views of a size; by default as in the recipe.
        statistics: How batch statistics are exchanged in the forward pass; all_reduce is what the code does.
        assumptions: What the model rests on.
        json: File for the records, - for standard output.
    """
    from benchmarks import machine as this_machine
    from benchmarks import records, step_model
    from relic import recipes
    from relic.dry_run import RESNET50_MACS

    records.check_target(json)
    config = recipes.get(recipe)
    values, sources = filled(assumptions, gpu)
    concatenate = config.model.concatenate_views if concatenate_views is None else concatenate_views
    work = step_model.workload(
        config,
        dataset_images=int(values["dataset_images"]),
        image_bytes=1e3 * values["image_kilobytes"],
        concatenate=concatenate,
    )
    where = machine_of(values)

    def steps(batch_of: Any) -> list[Step]:
        return [
            step_model.step(
                work, where, gpus=n, batch_size=batch_of(n), statistics=statistics, resnet50_macs=RESNET50_MACS
            )
            for n in gpus
        ]

    tables = {
        f"batch {config.batch_size:,}": steps(lambda _: config.batch_size),
        f"batch grows with the GPUs, {local_batch} each": steps(lambda n: n * local_batch),
    }
    out = sys.stderr if json == "-" else sys.stdout
    print("assumptions", file=out)
    for name, value in values.items():
        print(f"  {name:<24} {value:>10,g}  {sources[name]}", file=out)
    print(f"\n{recipe}: {counts_line(work, concatenate, statistics)}", file=out)
    for title, made in tables.items():
        print(f"\n{title}\n{table(work, made)}", file=out)
    if json is not None:
        options = {"gpu": gpu, "statistics": statistics, "concatenate_views": concatenate, **values}
        shared = records.conditions(this_machine.describe())
        made = [_record(one, work, config, options, shared) for steps in tables.values() for one in steps]
        records.write(made, json)
    return 0


def filled(assumptions: Assumptions, gpu: str) -> tuple[dict[str, float], dict[str, str]]:
    """Return every assumption's value and its source."""
    from relic.dry_run import RESNET50_RATES

    rate, source = core_rate()
    defaults = {**GPUS[gpu], "resnet50_rate": RESNET50_RATES[gpu], "core_rate": rate}
    sources = SOURCES | {"core_rate": source}
    values: dict[str, float] = {}
    for field in dataclasses.fields(assumptions):
        given = getattr(assumptions, field.name)
        values[field.name] = defaults[field.name] if given is None else given
        if given is not None and given != field.default:
            sources[field.name] = "given"
    return values, sources


def core_rate() -> tuple[float, str]:
    """Return source images/s that one core makes all views of, measured by us, and the conditions."""
    from benchmarks import records

    measured = {entry["provider"]: entry for entry in records.read(VIEWS)}
    fused, decode = measured["fused"], measured["decode"]
    return round(fused["value"] / fused["threads"]), (
        f"measured by us: fused uint8 on one core of a shared {fused['machine']['cpu']}, {fused['date'][:10]}"
        f" (bare decoding {decode['value']:.0f}); benchmarks/results/views.json"
    )


def machine_of(values: dict[str, float]) -> Machine:
    """Return the machine in SI units."""
    from benchmarks.step_model import Machine

    return Machine(
        images_per_second=values["resnet50_rate"],
        memory_bytes_per_second=1e9 * values["memory_bandwidth"],
        launch_seconds=1e-6 * values["launch_microseconds"],
        gpus_per_node=int(values["gpus_per_node"]),
        nvlink_bytes_per_second=1e9 * values["nvlink"],
        network_bytes_per_second=1e9 / 8 * values["network"],
        collective_seconds=1e-6 * values["collective_microseconds"],
        cores_per_gpu=values["cores_per_gpu"],
        core_images_per_second=values["core_rate"],
        storage_bytes_per_second=1e9 * values["storage"],
        cache_bytes=1e9 * values["node_memory"],
        disk_bytes_per_second=1e9 * values["disk"],
        host_bytes_per_second=1e9 * values["host_copy"],
        node_failure_hours=values["node_failure_hours"],
        restart_seconds=values["restart_seconds"],
    )


def counts_line(work: Workload, concatenate: bool, statistics: str) -> str:
    """Say what was counted."""
    return (
        f"{2e-9 * work.macs:,.0f} GFLOP per source image; {work.trained_parameters / 1e6:.1f} M trained and"
        f" {work.target_parameters / 1e6:.1f} M averaged parameters; {'concatenated' if concatenate else 'separate'}"
        f" views: {work.forward_kernels + work.backward_kernels:,} kernels, {work.statistics_forward} {statistics} and"
        f" {work.statistics_backward} all_reduce of batch statistics per step; checkpoint"
        f" {work.checkpoint_bytes / 1e6:,.0f} MB"
    )


def table(work: Workload, steps: list[Step]) -> str:
    """Show steps as a column each."""
    from benchmarks.table import text_table

    def row(name: str, of: Any) -> tuple[str, ...]:
        return (name, *(of(one) for one in steps))

    def milliseconds(name: str) -> tuple[str, ...]:
        return row(f"  {name}, ms", lambda one: f"{1e3 * getattr(one, name):,.1f}")

    names = ("compute", "launches", "statistics", "gradients", "optimizer", "cores", "storage")
    rows = [
        row("images per GPU", lambda one: f"{one.batch_size // one.gpus:,}"),
        *map(milliseconds, names),
        row("step, ms", lambda one: f"{1e3 * one.seconds:,.1f}"),
        row("first bottleneck", lambda one: one.bottleneck),
        row("images/s per GPU", lambda one: f"{one.images_per_second_per_gpu:,.0f}"),
        row("images/s", lambda one: f"{one.gpus * one.images_per_second_per_gpu:,.0f}"),
        row("efficiency", lambda one: f"{100 * one.efficiency:.0f} %"),
        row("checkpoint every, min", lambda one: f"{one.checkpoint_interval / 60:.1f}"),
        row("  waits (were it to block), s", lambda one: f"{one.checkpoint_stall:.1f} ({one.checkpoint_blocking:.1f})"),
        row("  share of time", lambda one: f"{100 * one.checkpoint_stall / one.checkpoint_interval:.2f} %"),
        row("a failure every, days", lambda one: f"{one.failure_interval / 86400:.1f}"),
        row("  costs, min", lambda one: f"{one.lost_per_failure / 60:.1f}"),
        row("whole run, hours", lambda one: f"{hours(work, one):,.1f}"),
    ]
    return text_table(("GPUs", *(f"{one.gpus:,}" for one in steps)), rows)


def hours(work: Workload, one: Step) -> float:
    """Return hours of the whole run, checkpoints and expected failures included."""
    return work.total_images / one.batch_size * one.seconds * (1 + one.overhead) / 3600


def _record(one: Step, work: Workload, config: Any, options: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    from benchmarks import records

    rate = one.images_per_second_per_gpu
    return {
        "benchmark": "scaling",
        "provider": f"{options['gpu']} × {one.gpus}",
        "value": rate,
        "unit": "images/s per GPU, on paper",
        "low": rate,
        "high": rate,
        "repeats": 0,
        "threads": None,
        "recipe": config.recipe,
        "images": None,
        "options": options,
        "step": dataclasses.asdict(one),
        "seconds": one.seconds,
        "bottleneck": one.bottleneck,
        "efficiency": one.efficiency,
        "hours": hours(work, one),
        "versions": records.versions(records.ALWAYS),
        **shared,
    }
