"""What a configuration amounts to on a data set: steps, rates and sizes, worked out before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from relic.config import RunConfig
from relic.schedules import duration_steps, scaled_learning_rate


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Durations in steps, and the sizes they follow from."""

    num_images: int
    batch_size: int
    local_batch_size: int
    """Images per step on one process."""
    micro_batch_size: int
    """Images of one forward and backward pass on one process."""
    world_size: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    checkpoint_steps: int
    keep_every_steps: int | None
    log_steps: int
    health_steps: int
    peak_learning_rate: float


def make_plan(config: RunConfig, *, num_images: int, world_size: int) -> Plan:
    """Turn durations into steps and check that sizes fit.

    Raises:
        ValueError: names the field that does not fit, and the mend.
    """
    if world_size < 1:
        raise ValueError(f"{world_size} processes: give at least 1")
    if config.batch_size < 1 or config.batch_size % world_size:
        raise ValueError(f"batch_size={config.batch_size} is no multiple of the {world_size} processes")
    accumulate, local_batch_size = config.optim.accumulate, config.batch_size // world_size
    if accumulate < 1 or local_batch_size % accumulate:
        raise ValueError(f"optim.accumulate={accumulate} does not divide the {local_batch_size} images of a process")
    _check_negatives(config, local_batch_size // accumulate, world_size)
    if config.optim.clip_norm is not None and not config.optim.clip_norm > 0:
        raise ValueError(f"optim.clip_norm={config.optim.clip_norm:g} is not positive: leave it out to clip nothing")
    if not config.distributed.timeout_seconds > 0:
        raise ValueError(f"distributed.timeout_seconds={config.distributed.timeout_seconds:g} is not positive")
    if config.batch_size > num_images:
        raise ValueError(
            f"batch_size={config.batch_size} is larger than the data set of {num_images} images: lower --batch-size"
        )

    def steps(field: str, duration: str, total_steps: int | None) -> int:
        try:
            found = duration_steps(
                duration, num_images=num_images, batch_size=config.batch_size, total_steps=total_steps
            )
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from error
        return found

    total = steps("duration", config.duration, None)
    warmup = steps("optim.warmup", config.optim.warmup, total)
    if total < 1:
        raise ValueError(f"duration={config.duration} is no step at all")
    if warmup > total:
        raise ValueError(
            f"optim.warmup={config.optim.warmup} ({warmup} steps) is longer than the run of {total} steps:"
            " shorten it (--optim.warmup 5%)"
        )
    keep_every = config.checkpoint.keep_every
    return Plan(
        num_images=num_images,
        batch_size=config.batch_size,
        local_batch_size=local_batch_size,
        micro_batch_size=local_batch_size // accumulate,
        world_size=world_size,
        steps_per_epoch=num_images // config.batch_size,
        total_steps=total,
        warmup_steps=warmup,
        checkpoint_steps=max(steps("checkpoint.every", config.checkpoint.every, total), 1),
        keep_every_steps=None if keep_every is None else max(steps("checkpoint.keep_every", keep_every, total), 1),
        log_steps=max(steps("log.every", config.log.every, total), 1),
        health_steps=max(steps("log.health_every", config.log.health_every, total), 1),
        peak_learning_rate=scaled_learning_rate(config.optim.base_learning_rate, config.batch_size),
    )


def _check_negatives(config: RunConfig, micro_batch_size: int, world_size: int) -> None:
    """Raise ValueError where there are not as many other images as each is to be compared with."""
    if config.loss.kind != "relic":
        return
    images = micro_batch_size * (world_size if config.loss.negatives_from == "global" else 1)
    wanted = 1 if config.loss.num_negatives is None else config.loss.num_negatives
    if not 1 <= wanted < images:
        where = "all processes" if config.loss.negatives_from == "global" else "a part of a process's batch"
        raise ValueError(
            f"loss.num_negatives={config.loss.num_negatives} does not fit the {images} images of {where}: take fewer"
            " negatives, processes or parts, or --loss.negatives-from global"
        )
