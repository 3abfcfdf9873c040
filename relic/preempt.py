"""Being told to leave: notice SIGTERM or SIGUSR1, and what follows once all processes have saved."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from types import FrameType, TracebackType
from typing import Any

EXIT_CODE = 85
"""The run was told to stop, saved, and goes on when the same command is run again."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(Exception):
    """The run has saved `step` and stops."""

    def __init__(self, step: int, *, is_main: bool = True):
        super().__init__(f"stopped by a signal; step {step:,} is saved: run the same command again to go on")
        self.step, self.is_main = step, is_main


class Notice:
    """Note a signal that asks to stop, for the loop to act on at the end of its step.

    Only the main thread can take signals; elsewhere (a notebook, a test) this notes nothing.
    """

    def __init__(self) -> None:
        self.given = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Notice:
        try:
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread
            self._before = {}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.given = True


def requeue() -> str | None:
    """Ask Slurm to start the job again; return what was said, None outside of a job that is this run alone.

    The script of `relic slurm` says that it is (RELIC_REQUEUE=1): to requeue another job would end what else is in it.
    The job's own limits decide whether it may (`sbatch --requeue`).
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("RELIC_REQUEUE") != "1" or shutil.which("scontrol") is None:
        return None
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"Slurm did not requeue job {job}: {done.stderr.strip()}; submit it again to go on"
    return f"Slurm requeued job {job}"


def announce(preempted: Preempted) -> int:
    """Let the main process tell the user and Slurm that the run was stopped; return the exit code."""
    if preempted.is_main:
        for line in filter(None, (str(preempted), requeue())):
            print(f"relic pretrain: {line}", file=sys.stderr, flush=True)
    return EXIT_CODE
