"""What this machine has and lacks, each with the command that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from relic.checks import machine, software
from relic.checks.check import SIGNS, Check


def examine(data: Path | None = None) -> Iterator[Check]:
    """Yield one check after the other; none of them raises.

    Args:
        data: a beton whose reading speed is measured.
    """
    checks: list[Callable[[], Iterator[Check]]] = [
        software.python,
        software.own_packages,
        software.required_packages,
        software.torch_and_gpus,
        software.triton,
        software.jpeg_decoding,
        software.compiled_engine,
        software.numba_cache,
        software.dali,
        software.ffcv,
        software.optional_packages,
        machine.cores,
        machine.memory,
        machine.shared_memory,
        machine.open_files,
    ]
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # a machine odd enough to break a check is what the doctor is for
            yield Check(name=check.__name__.replace("_", " "), status="broken", detail=f"the check failed: {error!r}")
    if data is not None:
        yield from machine.reading(data)


def line(check: Check, width: int) -> str:
    """Write a check for people: sign, name padded to `width`, detail, and below it the mend."""
    text = f"{SIGNS[check.status]} {check.name:<{width}}  {check.detail}"
    return text if check.mend is None else f"{text}\n  {'':<{width}}  mend: {check.mend}"
