"""The story of a run: set up, resume, loop, finish. Read this file first."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from pipelines.build import build_loader
from pipelines.contract import Batch, Loader
from pipelines.engine.settings import Output
from pipelines.shards import open_beton
from relic import checkpoint, nonfinite, randomness
from relic import config as configuration
from relic.config import RunConfig, run_directory
from relic.cores import of_process
from relic.distributed import Group, World, from_environment, process_group
from relic.evaluate.health import health_warnings, measure
from relic.evaluate.probe import probe_views
from relic.lock import only_writer
from relic.models.twin import Twin
from relic.peers import Peers, watched
from relic.plan import Plan, make_plan
from relic.preempt import Notice, Preempted
from relic.schedules import learning_rate, target_decay
from relic.sinks import Sink, open_sinks
from relic.state import TrainState, build_state
from relic.step import train_step
from relic.telemetry import Meter, console_line, duration_text, environment

GO_ON, SAVE, SAVE_AND_STOP = range(3)
"""What a process may wish for at the end of a step; all do what the largest wish says."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process of a run works with."""

    config: RunConfig
    plan: Plan
    group: Group
    peers: Peers | None
    """None where this is the only process."""
    folder: Path
    """`runs/NAME`."""
    state: TrainState
    loader: Loader
    meter: Meter
    saver: checkpoint.Saver
    sinks: list[Sink]

    @property
    def world(self) -> World:
        """This process among all."""
        return self.group.world


def train(config: RunConfig) -> Path:
    """Pretrain from the newest whole checkpoint of the run (or from the start) to the end.

    Args:
        config: the whole configuration; the run directory is `runs/NAME`.

    Returns:
        The run directory.

    Raises:
        FileNotFoundError: data or masks are missing.
        ValueError: a field does not fit; the run directory belongs to another configuration; no checkpoint is whole; a
            loss that is not finite.
        OSError: a checkpoint could not be written, or another process was lost.
        Preempted: a signal asked to stop; everything is saved.
    """
    world, timeout = from_environment(config.device), config.distributed.timeout_seconds
    start = time.perf_counter()
    with (
        Notice() as notice,
        process_group(world, timeout_seconds=timeout) as group,
        watched(group, timeout_seconds=timeout) as peers,
        shared_cores(config, world) as loader_threads,
        ExitStack() as closing,
    ):
        # Set up: what is to be done, and the room for it.
        data = describe_data(config)
        plan = make_plan(config, num_images=data["num_images"], world_size=world.world_size)
        folder = run_directory(config)
        if world.is_main:
            open_run(config, world)
            closing.enter_context(only_writer(folder))
        loader = training_loader(config, plan, world, loader_threads)
        closing.callback(loader.close)
        kept = config.checkpoint
        saver = checkpoint.Saver(folder, keep_last=kept.keep_last, keep_every=plan.keep_every_steps)
        closing.callback(saver.close)
        job = Job(
            config=config,
            plan=plan,
            group=group,
            peers=peers,
            folder=folder,
            state=build_state(config, world, num_classes=data["num_classes"]),
            loader=loader,
            meter=Meter(plan, loader, group),
            saver=saver,
            sinks=[],
        )

        # Resume: everything is built as for a new run, then the newest checkpoint is loaded over it.
        first_step = restore(job)
        if world.is_main:
            print(opening_line(job, first_step), flush=True)
            job.sinks.extend(open_sinks(config, step=first_step))
            for sink in job.sinks:
                closing.callback(sink.close)
        last_step = loop(job, first_step, notice)
        saver.wait()
        group.settle()
        group.gather([0.0])  # torchrun kills 30 s after the first process has left: rank 0 has to have written by then
    if last_step < plan.total_steps:
        raise Preempted(last_step, is_main=world.is_main)
    if world.is_main:
        print(closing_line(folder, time.perf_counter() - start), flush=True)
    return folder


def loop(job: Job, first_step: int, notice: Notice) -> int:
    """Do the updates from `first_step` on; log, measure health and save at their intervals and at the end.

    Returns:
        The number of steps done: fewer than the run has where `notice` was given on any process.
    """
    config, plan, state, meter = job.config, job.plan, job.state, job.meter
    probe = probe_views(config, job.world) if job.world.is_main and isinstance(state.model, Twin) else None
    batches, last_save, saved = all_epochs(job.loader), time.monotonic(), first_step
    for step in range(first_step, plan.total_steps):
        rate = learning_rate(
            step, base=plan.peak_learning_rate, total_steps=plan.total_steps, warmup_steps=plan.warmup_steps
        )
        decay = target_decay(step, base=config.optim.target_decay, total_steps=plan.total_steps)
        batch = next(batches)
        negatives = randomness.negatives(config, plan, job.world, step)
        randomness.seed_networks(config.seed, step, job.world.rank)
        meter.add(step, train_step(state, batch, negatives, learning_rate=rate, target_decay=decay))

        done = step + 1
        if job.peers is not None:
            job.peers.step = done
        decision = job.group.agree(wish(config, notice, last_save))
        if decision == SAVE and job.peers is not None and saved == done - 1:
            decision = GO_ON  # the wish of the step before, which that step's save has granted
        is_last = done == plan.total_steps
        is_log = is_last or done % plan.log_steps == 0
        is_kept = plan.keep_every_steps is not None and done % plan.keep_every_steps == 0
        is_save = is_last or is_kept or done % plan.checkpoint_steps == 0 or decision != GO_ON
        if is_log or is_save:
            meter.exchange()  # here, and only here, the loop waits for the device
            nonfinite.stop_if_found(meter.first_nonfinite(), config, plan, job.folder, job.world)
        if is_log:
            write_metrics(job, done, rate, decay)
        if probe is not None and (is_last or done % plan.health_steps == 0):
            with meter.pause():
                write_health(job, probe, done)
        if is_save:
            with meter.pause():
                save(job, done)
            last_save, saved = time.monotonic(), done
        if decision == SAVE_AND_STOP:
            return done
    return plan.total_steps


# -- set up -----------------------------------------------------------------------------------------------------------


def describe_data(config: RunConfig) -> dict[str, int]:
    """Return `num_images` of the data set, and `num_classes` where the loss learns them.

    Raises:
        ValueError: no data was named, or the supervised loss has no labels to learn.
    """
    if not config.data:
        raise ValueError("data is missing: give --data FILE.beton (made by `relic data convert`)")
    with open_beton(config.data) as beton:
        if config.loss.kind != "supervised":  # the labels of a billion images are gigabytes to read
            return {"num_images": beton.num_images, "num_classes": 0}
        if beton.labels.min(initial=0) < 0:
            raise ValueError(f"{config.data} has images without labels: the supervised loss needs a class folder each")
        return {"num_images": beton.num_images, "num_classes": beton.labels.max(initial=-1) + 1}


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
    cores = of_process(world.local_world_size, world.launcher)
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
        output=output_of(config),
    )


def output_of(config: RunConfig) -> Output:
    """Return the type of the views: where a device finishes them, its kernels normalise and cast them, too."""
    on_device = config.loader.backend == "dali" or config.loader.photometric == "device"
    return config.precision if on_device and config.precision in ("float32", "bfloat16") else "uint8"


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


def wish(config: RunConfig, notice: Notice, last_save: float) -> int:
    """Return what this process wishes for; only its own clock and signals decide."""
    if notice.given:
        return SAVE_AND_STOP
    minutes = config.checkpoint.every_minutes
    return SAVE if minutes and time.monotonic() - last_save > 60 * minutes else GO_ON


def write_metrics(job: Job, done: int, rate: float, decay: float) -> None:
    """Log what the meter has gathered since the last time; only the main process writes."""
    plan = job.plan
    record = {"step": done, "epoch": done / plan.steps_per_epoch, "learning_rate": rate}
    if isinstance(job.state.model, Twin):
        record["target_decay"] = decay
    record |= job.meter.read()
    record["eta_seconds"] = (plan.total_steps - done) * plan.batch_size / record["images_per_second"]
    if job.world.is_main:
        print(console_line(record, plan, job.loader.stats()), flush=True)
        write_all(job.sinks, record)


def write_health(job: Job, probe: list[torch.Tensor], done: int) -> None:
    """Measure collapse on the probe, warn in plain words, log."""
    metrics = measure(cast(Twin, job.state.model), probe, job.world.device)
    warnings = health_warnings(metrics)
    for warning in warnings:
        print(f"warning at step {done:,}: {warning}", file=sys.stderr, flush=True)
    write_all(job.sinks, {"step": done, **metrics, "warnings": warnings})


def write_all(sinks: list[Sink], record: dict) -> None:
    """Write one record to every sink."""
    for sink in sinks:
        sink.write(record)


# -- checkpoints ------------------------------------------------------------------------------------------------------


def save(job: Job, done: int) -> None:
    """Write everything that the rest of the run depends on, and drop old checkpoints; the main process writes."""
    if job.world.is_main:
        payload = job.state.state_dict() | {"loader": job.loader.state_dict(), "meter": job.meter.state_dict()}
        payload["config"] = configuration.to_dict(job.config)
        job.saver.save(done, payload)


def restore(job: Job) -> int:
    """Load the newest whole checkpoint, which the main process reads for all; return the number of steps done."""

    def warn(text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)

    content = checkpoint.newest_intact(job.folder, on_damage=warn) if job.world.is_main else None
    content = job.group.broadcast(content)
    if content is None:
        return 0
    saved = checkpoint.load(content, name=f"the checkpoint of {job.folder}")
    job.state.load_state_dict(saved)
    job.loader.load_state_dict(saved["loader"])
    job.meter.load_state_dict(saved["meter"])
    return saved["step"]


def closing_line(run: Path, seconds: float) -> str:
    """Return where the results are and what to do next."""
    return f"{run} done in {duration_text(seconds)}: `relic evaluate {run} --test FILE.beton`, `relic report {run}`"
