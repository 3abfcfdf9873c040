"""Where a figure was measured."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from relic import cores

CPU = Path("/proc/cpuinfo")
MEMORY = Path("/proc/meminfo")
VECTOR_UNITS = ("avx2", "avx512f", "avx512bw", "avx512_vbmi", "avx512_vnni", "asimd", "sve")


def describe() -> dict[str, Any]:
    """Return processor, cores this process may use, GPU if any, vector units, memory in GiB, load average, Python and
    system.
    """
    text = CPU.read_text() if CPU.is_file() else ""
    model = re.search(r"model name\s*:\s*(.+)", text)
    flags = re.search(r"(?:flags|Features)\s*:\s*(.+)", text)
    known = set(flags[1].split()) if flags else set()
    total = re.search(r"MemTotal:\s+(\d+) kB", MEMORY.read_text()) if MEMORY.is_file() else None
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "cores_allowed": cores.available(),
        "gpu": _gpu(),
        "vector_units": [unit for unit in VECTOR_UNITS if unit in known],
        "memory_gib": round(int(total[1]) / 2**20, 1) if total else None,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _gpu() -> dict[str, Any] | None:
    """Return name, memory in GiB and compute capability of the first GPU, and the CUDA that torch was built for."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
    }
