"""How many cores this process may use."""

from __future__ import annotations

import os


def available() -> int:
    """Return the cores that the scheduler grants (taskset, Slurm, containers), or all where it cannot say (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def of_process(local_world_size: int, launcher: str) -> int:
    """Return the cores of one of several processes on this machine.

    Args:
        local_world_size: processes here.
        launcher: who started them; srun binds each task to cores of its own, where cores per task were asked for.
    """
    per_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if launcher == "srun" and per_task.isdigit():
        return max(min(available(), int(per_task)), 1)
    return max(available() // local_world_size, 1)
