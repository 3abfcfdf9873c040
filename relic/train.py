"""The story of a run: set up, resume, loop, finish. Read this file first."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from pipelines.beton import Beton
from pipelines.build import build_loader
from pipelines.config import evaluation_views
from pipelines.contract import Batch, Loader
from relic import checkpoint
from relic import config as configuration
from relic.config import RunConfig, run_directory
from relic.cores import available
from relic.distributed import World, from_environment, process_group
from relic.evaluate.health import health_warnings, measure
from relic.losses.negatives import draw_negatives
from relic.models.twin import Twin
from relic.plan import Plan, make_plan
from relic.schedules import learning_rate, target_decay
from relic.sinks import Sink, open_sinks
from relic.state import TrainState, build_state
from relic.step import train_step
from relic.telemetry import Meter, console_line, duration_text, environment


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process of a run works with."""

    config: RunConfig
    plan: Plan
    world: World
    folder: Path
    """`runs/NAME`."""
    state: TrainState
    loader: Loader
    meter: Meter


def train(config: RunConfig) -> Path:
    """Pretrain from the newest checkpoint of the run (or from the start) to the end.

    Args:
        config: the whole configuration; the run directory is `runs/NAME`.

    Returns:
        The run directory.

    Raises:
        FileNotFoundError: data or masks are missing.
        ValueError: a field does not fit; the run directory belongs to another configuration; a damaged checkpoint.
    """
    world = from_environment(config.device)
    with process_group(world), shared_cores(config, world) as loader_threads:
        # Set up: what is to be done, and the room for it.
        data = describe_data(config)
        plan = make_plan(config, num_images=data["num_images"], world_size=world.world_size)
        loader = training_loader(config, plan, world, loader_threads)
        job = Job(
            config=config,
            plan=plan,
            world=world,
            folder=open_run(config, world),
            state=build_state(config, world, num_classes=data["num_classes"]),
            loader=loader,
            meter=Meter(plan, loader),
        )

        # Resume: everything is built as for a new run, then the newest checkpoint is loaded over it.
        first_step = restore(job)
        if world.is_main:
            print(opening_line(job, first_step), flush=True)

        sinks = open_sinks(config, step=first_step) if world.is_main else []
        try:
            loop(job, sinks, first_step)
        finally:
            loader.close()
            for sink in sinks:
                sink.close()
        return job.folder


def loop(job: Job, sinks: list[Sink], first_step: int) -> None:
    """Do the updates from `first_step` on; log, measure health and save at their intervals and at the end."""
    config, plan, state, meter = job.config, job.plan, job.state, job.meter
    probe = health_probe(job) if job.world.is_main and isinstance(state.model, Twin) else None
    batches = all_epochs(job.loader)
    for step in range(first_step, plan.total_steps):
        rate = learning_rate(
            step, base=plan.peak_learning_rate, total_steps=plan.total_steps, warmup_steps=plan.warmup_steps
        )
        decay = target_decay(step, base=config.optim.target_decay, total_steps=plan.total_steps)
        batch = next(batches)
        negatives = draw_local_negatives(job, step)
        meter.add(train_step(state, batch, negatives, config.loss, learning_rate=rate, target_decay=decay))

        done = step + 1
        is_last = done == plan.total_steps
        if job.world.is_main and (is_last or done % plan.log_steps == 0):
            record = {"step": done, "epoch": done / plan.steps_per_epoch, "learning_rate": rate}
            if isinstance(state.model, Twin):
                record["target_decay"] = decay
            record |= meter.read()
            record["eta_seconds"] = (plan.total_steps - done) * plan.batch_size / record["images_per_second"]
            print(console_line(record, plan, job.loader.stats()), flush=True)
            write_all(sinks, record)
        if probe is not None and (is_last or done % plan.health_steps == 0):
            with meter.pause():
                write_health(job, probe, sinks, done)
        if is_last or done % plan.checkpoint_steps == 0:
            with meter.pause():
                save(job, done)


# -- set up -----------------------------------------------------------------------------------------------------------


def describe_data(config: RunConfig) -> dict[str, int]:
    """Return `num_images` and `num_classes` of the beton.

    Raises:
        ValueError: no data was named, or the supervised loss has no labels to learn.
    """
    if not config.data:
        raise ValueError("data is missing: give --data FILE.beton (made by `relic data convert`)")
    with Beton(config.data) as beton:
        if config.loss.kind == "supervised" and (beton.labels < 0).any():
            raise ValueError(f"{config.data} has images without labels: the supervised loss needs a class folder each")
        return {"num_images": beton.num_images, "num_classes": int(beton.labels.max(initial=-1)) + 1}


def open_run(config: RunConfig, world: World) -> Path:
    """Make the run directory and write what the run is; an existing one must have the same configuration.

    Raises:
        ValueError: the directory belongs to a run with another configuration.
    """
    run = run_directory(config)
    path = run / "config.yaml"
    if path.exists():
        difference = configuration.difference(configuration.load(path), config)
        if difference:
            raise ValueError(
                f"{run} belongs to a run with another configuration ({'; '.join(difference[:3])}): give another --name,"
                f" or `relic resume {run}` to continue it as it is"
            )
    elif world.is_main:
        run.mkdir(parents=True, exist_ok=True)
        configuration.save(config, path)
        (run / "command.txt").write_text(shlex.join(["relic", *sys.argv[1:]]) + "\n")
        (run / "environment.json").write_text(json.dumps(environment(world), indent=1) + "\n")
    return run


@contextmanager
def shared_cores(config: RunConfig, world: World) -> Iterator[int]:
    """Give the loader its threads, and on a CPU the networks the cores that are left; yields the loader's number.

    Threads of torch that wait for a core that the loader holds stall each other: on two cores the demo made 205
    images/s with one thread for the networks and 109 with two. OMP_NUM_THREADS, where set, is left as it is.
    """
    cores = max(available() // world.local_world_size, 1)
    on_cpu = world.device.type == "cpu"
    loader_threads = config.loader.num_threads or max(cores // 4 if on_cpu else cores, 1)
    before = torch.get_num_threads()
    if on_cpu and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(cores - loader_threads, 1))
    try:
        yield loader_threads
    finally:
        torch.set_num_threads(before)


def training_loader(config: RunConfig, plan: Plan, world: World, num_threads: int) -> Loader:
    """Open the views of this rank."""
    return build_loader(
        config.data,
        config.views,
        batch_size=plan.local_batch_size,
        seed=config.seed,
        backend=config.loader.backend,
        masks=config.masks,
        plates=config.plates,
        rank=world.rank,
        world_size=world.world_size,
        num_threads=num_threads,
        prefetch=config.loader.prefetch,
        device=world.device,
        on_corrupt=config.loader.on_corrupt,
        photometric=config.loader.photometric,
    )


def opening_line(job: Job, first_step: int) -> str:
    """Return what is about to happen, in one line."""
    config, plan, world = job.config, job.plan, job.world
    start = f"resumes at step {first_step:,}" if first_step else "starts"
    return (
        f"{job.folder} {start}: {config.model.backbone}, {plan.num_images:,} images, {plan.total_steps:,} steps of"
        f" {plan.batch_size:,} on {world.world_size} × {world.device.type} ({config.precision}), peak learning rate"
        f" {plan.peak_learning_rate:.3g}, {config.views.large.count}×{config.views.large.size} +"
        f" {config.views.small.count}×{config.views.small.size} views by {config.loader.backend}"
    )


# -- loop -------------------------------------------------------------------------------------------------------------


def all_epochs(loader: Loader) -> Iterator[Batch]:
    """Yield batches for ever, from the loader's position on."""
    while True:
        yield from loader
        loader.set_epoch(loader.state_dict()["epoch"] + 1)


def draw_local_negatives(job: Job, step: int) -> torch.Tensor:
    """Draw int64 [B, n] indices into the local batch, a pure function of seed, step and rank."""
    config, size, world = job.config, job.plan.local_batch_size, job.world
    if config.loss.kind == "supervised":
        return torch.empty(size, 0, dtype=torch.int64)
    stream = step * world.world_size + world.rank
    drawn = draw_negatives(size, config.loss.num_negatives, seed=config.seed, step=stream)
    return torch.from_numpy(drawn).to(world.device, non_blocking=True)


def write_all(sinks: list[Sink], record: dict) -> None:
    """Write one record to every sink."""
    for sink in sinks:
        sink.write(record)


# -- health -----------------------------------------------------------------------------------------------------------


def health_probe(job: Job) -> list[torch.Tensor]:
    """Return centre crops of a fixed subset, uint8 [n, size, size, 3] a batch, on the device."""
    config = job.config
    loader = build_loader(
        config.data,
        evaluation_views(config.views.large.size),
        batch_size=64,
        seed=config.seed,
        drop_last=False,
        device=job.world.device,
        on_corrupt=config.loader.on_corrupt,
        photometric=config.loader.photometric,
    )
    views, wanted = [], config.log.health_images
    for batch in loader:
        views.append(batch.large[0][:wanted])
        wanted -= len(batch.index)
        if wanted <= 0:
            break
    loader.close()
    return views


def write_health(job: Job, probe: list[torch.Tensor], sinks: list[Sink], done: int) -> None:
    """Measure collapse on the probe, warn in plain words, log."""
    metrics = measure(cast(Twin, job.state.model), probe, job.world.device)
    warnings = health_warnings(metrics)
    for warning in warnings:
        print(f"warning at step {done:,}: {warning}", file=sys.stderr, flush=True)
    write_all(sinks, {"step": done, **metrics, "warnings": warnings})


# -- checkpoints ------------------------------------------------------------------------------------------------------


def save(job: Job, done: int) -> None:
    """Write everything that the rest of the run depends on, and drop old checkpoints."""
    if job.world.is_main:
        payload = job.state.state_dict() | {"loader": job.loader.state_dict(), "meter": job.meter.state_dict()}
        payload["config"] = configuration.to_dict(job.config)
        checkpoint.save(job.folder, done, payload)
        checkpoint.prune(job.folder, keep_last=job.config.checkpoint.keep_last, keep_every=job.plan.keep_every_steps)


def restore(job: Job) -> int:
    """Load the newest checkpoint; return the number of steps already done."""
    path = checkpoint.newest(job.folder)
    if path is None:
        return 0
    saved = checkpoint.read(path)
    job.state.load_state_dict(saved)
    job.loader.load_state_dict(saved["loader"])
    job.meter.load_state_dict(saved["meter"], job.world.device)
    return saved["step"]


def closing_line(run: Path, seconds: float) -> str:
    """Return where the results are and what to do next."""
    return f"{run} done in {duration_text(seconds)}: `relic evaluate {run} --test FILE.beton`, `relic report {run}`"
