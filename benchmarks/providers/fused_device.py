"""Our loader with `photometric="device"`: the host decodes, crops and resizes, the GPU does the rest."""

from __future__ import annotations

from benchmarks.through_loader import ThroughLoader
from benchmarks.work import Work


def prepare(work: Work) -> ThroughLoader:
    """Prepare the loader."""
    return ThroughLoader(work, "fused")
