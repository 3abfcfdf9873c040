"""How much memory a piece of work takes beyond what was there before it, in a fresh process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")

Case = TypeVar("Case")


def extra_bytes(prepare: Callable[[Case], Callable[[], None]], warm_up: Case, case: Case) -> int:
    """Return the high-water mark of resident memory during one run, above what was resident before it.

    Args:
        prepare: makes a case's inputs and returns what runs it; a function that another process can import.
        warm_up: a small case that loads and compiles whatever `case` needs.
        case: what is measured.

    Raises:
        OSError: on systems without /proc/self/status.
    """
    with _freed_memory_returns(), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, prepare, warm_up, case).result()


def _measure(prepare: Callable[[Case], Callable[[], None]], warm_up: Case, case: Case) -> int:
    prepare(warm_up)()
    run = prepare(case)
    with contextlib.suppress(OSError):  # not permitted in some containers: the mark of the preparation then stays
        CLEAR_REFS.write_text("5")
    before = _kilobytes("VmRSS")
    run()
    return max(_kilobytes("VmHWM") - before, 0) * 1024


def _kilobytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    if found is None:
        raise OSError(f"{STATUS} has no {field}")
    return int(found[1])


@contextlib.contextmanager
def _freed_memory_returns() -> Iterator[None]:
    """Let glibc map arrays of 64 kB and more one by one, so that memory freed before the run is not used in it."""
    name = "MALLOC_MMAP_THRESHOLD_"
    before = os.environ.get(name)
    os.environ[name] = "65536"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
