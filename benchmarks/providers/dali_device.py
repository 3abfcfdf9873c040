"""Our loader on DALI: the GPU decodes, crops and resizes, and its kernels do the rest."""

from __future__ import annotations

from benchmarks.through_loader import ThroughLoader
from benchmarks.work import Work


def prepare(work: Work) -> ThroughLoader:
    """Prepare the loader."""
    return ThroughLoader(work, "dali")
