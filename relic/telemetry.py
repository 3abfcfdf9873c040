"""What a run tells about itself: averaged metrics, throughput, what bounds it, and where it ran."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from pipelines.contract import Loader
from relic.distributed import Group, World
from relic.plan import Plan

VERSIONED = ("relicv2", "torch", "torchvision", "numpy", "numba", "simplejpeg", "opencv-python-headless")
LOADER_BOUND_SHARE = 0.2  # of the wall time spent waiting for views, above which the console says so


class Meter:
    """Average the step's metrics on the device between two logs, and time what passes between them.

    The sums are part of the checkpoint, so that a resumed run logs the same averages.
    """

    def __init__(self, plan: Plan, loader: Loader, group: Group):
        self._plan, self._loader, self._group = plan, loader, group
        self._device = group.world.device
        self._names: list[str] = []
        self._sums: torch.Tensor | None = None
        self._first_nonfinite = torch.tensor(-1.0, dtype=torch.float64, device=self._device)
        self._count = 0
        self._every: list[list[float]] = []
        self._restart_clock()

    def add(self, step: int, metrics: dict[str, torch.Tensor]) -> None:
        """Count a step; waits for nothing.

        Args:
            step: number of the update, from 0.
            metrics: scalars on the device; `finite` is 0 where the step went wrong.
        """
        finite = metrics.pop("finite")
        unknown = self._first_nonfinite < 0
        self._first_nonfinite = torch.where(unknown & (finite == 0), float(step), self._first_nonfinite)
        self._names = list(metrics)
        values = torch.stack([value.to(torch.float64) for value in metrics.values()])
        self._sums = values if self._sums is None else self._sums + values
        self._count += 1

    def exchange(self) -> None:
        """Read the sums and gather those of all processes; the one place where the loop waits for the device."""
        sums = [0.0] * len(self._names) if self._sums is None else self._sums.tolist()
        waited = self._loader.stats().get("wait", 0.0) - self._waited
        self._every = self._group.gather([float(self._first_nonfinite), waited, *sums])

    def first_nonfinite(self) -> int | None:
        """Return the first step whose loss or gradient was not finite on any process, as of the last exchange."""
        steps = [int(row[0]) for row in self._every if row[0] >= 0]
        return min(steps) if steps else None

    def read(self) -> dict[str, float]:
        """Return means over steps and processes as of the last exchange, the rates since, and start over.

        `data_wait` is the share of the time that the process which waited longest for views waited.
        """
        record = {}
        for column, name in enumerate(self._names, start=2):
            record[name] = sum(row[column] for row in self._every) / len(self._every) / self._count
        seconds = time.perf_counter() - self._since
        waited = max(row[1] for row in self._every)
        images = (self._count - self._counted) * self._plan.batch_size
        record |= {"images_per_second": images / seconds, "data_wait": min(waited / seconds, 1.0), "seconds": seconds}
        self._sums, self._count = None, 0
        self._every = [[row[0], 0.0, *[0.0] * len(self._names)] for row in self._every]
        self._restart_clock()
        return record

    def pause(self) -> _Pause:
        """Return a context whose time (checkpoints, health) does not count in the throughput."""
        return _Pause(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums since the last log, a row per process, as of the last exchange."""
        return {"names": self._names, "sums": [row[2:] for row in self._every], "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sums of a checkpoint; of another number of processes, their mean."""
        self._names, self._count, rows = list(state["names"]), state["count"], state["sums"]
        if len(rows) == self._group.world.world_size:
            own = rows[self._group.world.rank]
        else:
            own = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        self._sums = torch.tensor(own, dtype=torch.float64, device=self._device) if self._count else None
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._since = time.perf_counter()
        self._waited = self._loader.stats().get("wait", 0.0)
        self._counted = self._count


class _Pause:
    def __init__(self, meter: Meter):
        self._meter = meter

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self._meter._since += time.perf_counter() - self._start


def console_line(record: dict[str, Any], plan: Plan, stats: dict[str, float]) -> str:
    """Return the one line that a person reads, with a hint where the loader holds the run up."""
    parts = [f"step {record['step']:>6,}/{plan.total_steps:,}", f"epoch {record['epoch']:.2f}"]
    losses = ("loss", "contrastive", "invariance", "accuracy")
    parts += [f"{name} {record[name]:.4f}" for name in losses if name in record]
    parts.append(f"lr {record['learning_rate']:.2e}")
    if "target_decay" in record:
        parts.append(f"ema {record['target_decay']:.4f}")
    parts += [
        f"{record['images_per_second']:,.0f} images/s",
        f"data wait {record['data_wait']:.0%}",
        f"ETA {duration_text(record['eta_seconds'])}",
    ]
    if torch.cuda.is_available():
        parts.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    line = "  ".join(parts)
    if record["data_wait"] > LOADER_BOUND_SHARE:
        stages = {name: stats[name] for name in ("decode", "render") if name in stats}
        slowest = max(stages, key=lambda name: stages[name], default="")
        share = (
            f" ({slowest} takes {stages[slowest] / sum(stages.values()):.0%} of the workers' time)" if slowest else ""
        )
        line += f"\n  loader-bound{share}: raise --loader.num-threads if cores are idle"
    return line


def duration_text(seconds: float) -> str:
    """Return 3h05m, 4m10s or 12s."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def environment(world: World) -> dict[str, Any]:
    """Return machine, versions and commit, for `environment.json`."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "device": _device_name(world),
        "world_size": world.world_size,
        "versions": {name: _version(name) for name in VERSIONED},
        "commit": commit(),
    }


def commit() -> str | None:
    """Return the commit of the checkout that this code runs from, marked when it is changed; None elsewhere."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _device_name(world: World) -> str:
    if world.device.type == "cuda":
        return torch.cuda.get_device_name(world.device)
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "cpu"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
