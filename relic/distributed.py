"""Which process of how many this is, and what they tell each other beside gradients.

The only module that reads rank variables.
"""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import distributed


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all processes of the run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    device: torch.device
    host: str = field(default_factory=socket.gethostname)
    launcher: Literal["python", "torchrun", "srun"] = "python"
    meeting_point: str = "env://"
    """Where the processes find each other, as `torch.distributed` takes it."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only one that prints and writes."""
        return self.rank == 0

    @property
    def num_nodes(self) -> int:
        """Machines, where each runs as many processes as this one."""
        return max(self.world_size // self.local_world_size, 1)


def from_environment(device: Literal["auto", "cpu", "cuda"] = "auto") -> World:
    """Read what torchrun or Slurm's srun set; without them this is the only process.

    Raises:
        ValueError: a GPU was asked for and there is none, or fewer than processes on this machine.
    """
    place = _launched(os.environ)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no GPU: `relic doctor` says why, or take --device cpu")
    if device == "cpu" or not torch.cuda.is_available():
        return World(**place, device=torch.device("cpu"))
    # srun --gpus-per-task shows each process its own GPU only, as number 0.
    visible = torch.cuda.device_count()
    number = 0 if visible == 1 and place["launcher"] == "srun" else place["local_rank"]
    if number >= visible:
        raise ValueError(
            f"process {number} of this machine has no GPU ({visible} visible): start one process per GPU"
            f" (torchrun --nproc-per-node {visible})"
        )
    return World(**place, device=torch.device("cuda", number))


def _launched(environment: os._Environ[str] | dict[str, str]) -> dict[str, Any]:
    """Return the fields of `World` that a launcher decides."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return {
            "rank": int(environment["RANK"]),
            "world_size": int(environment["WORLD_SIZE"]),
            "local_rank": int(environment.get("LOCAL_RANK", 0)),
            "local_world_size": int(environment.get("LOCAL_WORLD_SIZE", 1)),
            "launcher": "torchrun",
        }
    # SLURM_NTASKS is also set in a batch script that calls Python without srun, which then would wait for processes
    # that never come; SLURM_STEP_NUM_TASKS is not.
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        rank, world_size = int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
        host = first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1"))
        port = 20_000 + int(environment.get("SLURM_JOB_ID", 0)) % 20_000
        return {
            "rank": rank,
            "world_size": world_size,
            "local_rank": int(environment.get("SLURM_LOCALID", 0)),
            "local_world_size": world_size // max(int(environment.get("SLURM_STEP_NUM_NODES", 1)), 1),
            "launcher": "srun",
            "meeting_point": f"tcp://{host}:{port}?rank={rank}&world_size={world_size}",
        }
    return {}


def first_host(nodes: str) -> str:
    """Return the first host of Slurm's list: `gpu[07-09,12],cpu1` begins with `gpu07`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)  # up to the first comma outside of brackets
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0]) if first else nodes


class Group:
    """The processes of a run: small messages of the loop, on the CPU, beside the gradients' collectives.

    Args:
        world: this process.
        store: the key-value store that all reach; None for a single process.
        control: a gloo group of its own, so that messages never mix with the gradients' order.
    """

    def __init__(
        self,
        world: World,
        store: distributed.Store | None = None,
        control: distributed.ProcessGroup | None = None,
    ):
        self.world, self.store, self._control = world, store, control
        self._asked: tuple[Any, torch.Tensor] | None = None

    def gather(self, values: list[float]) -> list[list[float]]:
        """Return every process's values, by rank; all processes call this with as many values."""
        if self.world.world_size == 1:
            return [values]
        own = torch.tensor(values, dtype=torch.float64)
        every = [torch.empty_like(own) for _ in range(self.world.world_size)]
        distributed.all_gather(every, own, group=self._control)
        return [row.tolist() for row in every]

    def broadcast(self, data: bytes | None) -> bytes | None:
        """Return rank 0's bytes (or None) on every process."""
        if self.world.world_size == 1:
            return data
        size = torch.tensor(-1 if data is None else len(data))
        distributed.broadcast(size, 0, group=self._control)
        if size < 0:
            return None
        if self.world.is_main:
            assert data is not None
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        else:
            content = torch.empty(int(size), dtype=torch.uint8)
        distributed.broadcast(content, 0, group=self._control)
        return content.numpy().tobytes()

    def collect(self, rows: torch.Tensor, counts: list[int]) -> torch.Tensor | None:
        """Return all processes' rows on the CPU, one process after the other; None on all but rank 0.

        Args:
            rows: [counts[rank], ...] on the CPU.
            counts: rows of every process.
        """
        if self.world.world_size == 1:
            return rows
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        every = [torch.empty_like(padded) for _ in counts] if self.world.is_main else None
        distributed.gather(padded, every, dst=0, group=self._control)
        if every is None:
            return None
        return torch.cat([part[:count] for part, count in zip(every, counts, strict=True)])

    def agree(self, wish: int) -> int:
        """Return the largest wish of any process, the same on all of them.

        Of several processes it is the wishes of the call before: they travel while the step computes, and nobody waits.
        """
        if self.world.world_size == 1:
            return wish
        decided = self._answer()
        asked = torch.tensor(wish)
        work = distributed.all_reduce(asked, distributed.ReduceOp.MAX, group=self._control, async_op=True)
        self._asked = (work, asked)
        return decided

    def settle(self) -> None:
        """Wait for the last exchange of wishes."""
        self._answer()

    def _answer(self) -> int:
        if self._asked is None:
            return 0
        work, asked = self._asked
        self._asked = None
        work.wait()
        return int(asked)


@contextmanager
def process_group(world: World, *, timeout_seconds: float) -> Iterator[Group]:
    """Hold the processes together (NCCL on GPUs, gloo on CPUs).

    Args:
        world: this process.
        timeout_seconds: longest wait for another process, at the meeting and in a collective.
    """
    on_gpu = world.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(world.device)
    if world.world_size == 1:
        yield Group(world)
        return
    timeout = timedelta(seconds=timeout_seconds)
    store = _meet(world, timeout)
    # NCCL's own watchdog kills without a word: it comes second, after the one of `relic.peers`.
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=distributed.PrefixStore("groups", store),
        rank=world.rank,
        world_size=world.world_size,
        timeout=2 * timeout if on_gpu else timeout,
    )
    yield Group(world, store, distributed.new_group(backend="gloo", timeout=timeout))
    distributed.destroy_process_group()  # not after an error: it would wait for those who are gone


def _meet(world: World, timeout: timedelta) -> distributed.Store:
    """Return the store that all processes of this attempt share, and no process of an earlier one.

    Raises:
        OSError: not all came in time.
    """
    try:
        store, _, _ = next(distributed.rendezvous(world.meeting_point, timeout=timeout))
        store.set_timeout(timeout)
        return distributed.PrefixStore(_attempt(world, store, timeout), store)
    except (distributed.DistError, TimeoutError) as error:
        where = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        where = where if world.meeting_point == "env://" else world.meeting_point.split("?")[0]
        raise OSError(
            f"rank {world.rank} on {world.host} did not meet the {world.world_size - 1} others at {where} within"
            f" {timeout.total_seconds():g} s: are all started, and is that port open between the machines?"
        ) from error


def _attempt(world: World, store: distributed.Store, timeout: timedelta) -> str:
    """Agree on a name for this attempt.

    torchrun restarts processes on the store of the attempt before (2.14), where addresses of the dead still stand, and
    its count of restarts differs between machines. So rank 0 proposes a name, everybody answers with a number of their
    own, and the name holds for those whose number rank 0 has repeated.
    """
    own, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if world.is_main:
        name = f"attempt/{own}"
        store.set("attempt", name)
        others = [f"{name}/{rank}" for rank in range(1, world.world_size)]
        store.wait(others, timeout)
        store.set(f"{name}/all", b" ".join([own.encode(), *store.multi_get(others)]))
        return name
    while time.monotonic() < deadline:
        if store.check(["attempt"]):
            name = store.get("attempt").decode()
            store.set(f"{name}/{world.rank}", own)
            if store.check([f"{name}/all"]) and store.get(f"{name}/all").decode().split()[world.rank] == own:
                return name
        time.sleep(0.05)
    raise TimeoutError
