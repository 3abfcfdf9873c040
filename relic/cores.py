"""How many cores this process may use."""

from __future__ import annotations

import os


def available() -> int:
    """Return the cores that the scheduler grants (taskset, Slurm, containers), or all where it cannot say (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
