"""Resident memory of a command and all its children while it runs."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SAMPLE_SECONDS = 0.02
PROC = Path("/proc")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """Resident bytes of the whole tree at a moment, seconds since the epoch."""

    moment: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What became of a command."""

    output: str
    """Its standard output."""
    seconds: float
    samples: list[Sample]
    """Memory over time. Pages that processes share count once for each, so this is an upper bound."""

    @property
    def peak(self) -> int:
        """The most resident bytes."""
        return max((sample.bytes for sample in self.samples), default=0)


def watch(command: Sequence[str]) -> Watched:
    """Run a command to its end and watch its memory.

    Raises:
        OSError: it failed; its last line says why. Or there is no /proc.
    """
    if not PROC.is_dir():
        raise OSError("memory is read from /proc, which this system lacks")
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        samples: list[Sample] = []
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                samples.append(Sample(time.time(), resident(process.pid)))

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        output, errors = process.communicate()
        seconds = time.perf_counter() - start
        ended.set()
        thread.join()
    if process.returncode:
        last = (errors.strip() or "no message").splitlines()[-1]
        raise OSError(f"{' '.join(command[:6])} ... ended with {process.returncode}: {last}")
    return Watched(output=output, seconds=seconds, samples=[s for s in samples if s.bytes])


def resident(root: int) -> int:
    """Return the resident bytes of a process and its descendants; 0 where it is gone."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                # The name, in parentheses, may hold spaces; after it come state and parent (proc(5)).
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
    tree, total = {root}, 0
    while children := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= children
    for pid in tree:
        try:
            total += int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE
        except OSError:
            continue
    return total
