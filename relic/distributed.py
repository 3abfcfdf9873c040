"""Which process of how many this is. The only module that reads rank variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import distributed


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all processes of the run."""

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only one that prints and writes."""
        return self.rank == 0


def from_environment(device: Literal["auto", "cpu", "cuda"] = "auto") -> World:
    """Read what torchrun set; without it this is the only process.

    Raises:
        ValueError: a GPU was asked for and there is none.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no GPU: `relic doctor` says why, or take --device cpu")
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return World(
        rank=int(os.environ.get("RANK", 0)),
        world_size=int(os.environ.get("WORLD_SIZE", 1)),
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        device=torch.device("cuda", local_rank) if on_gpu else torch.device("cpu"),
    )


@contextmanager
def process_group(world: World) -> Iterator[None]:
    """Hold the process group open (NCCL on GPUs, gloo on CPUs); nothing for a single process."""
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world.world_size == 1:
        yield
        return
    distributed.init_process_group("nccl" if world.device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()
