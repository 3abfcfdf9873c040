"""Batch scripts for Slurm: one process per GPU by srun, requeued and resumed by the same command."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NOTICE_SECONDS = 120
"""How long before its end the job is told to save."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What is asked of Slurm."""

    nodes: int = 1
    """Machines."""
    gpus_per_node: int = 8
    """GPUs of each machine; one process per GPU."""
    cpus_per_gpu: int = 4
    """Cores of each process: two make the views for an H100, the rest is for the loop and the checkpoint writer."""
    hours: float = 24.0
    """Time limit of one part of the run; the run goes on in the next."""
    partition: str | None = None
    """Partition; None takes the site's default."""
    account: str | None = None
    """Account; None takes the user's default."""

    def __post_init__(self) -> None:
        for name in ("nodes", "gpus_per_node", "cpus_per_gpu"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least 1")
        if self.hours * 3600 < 2 * NOTICE_SECONDS:
            raise ValueError(f"--hours {self.hours:g}: a job is told to save {NOTICE_SECONDS} s before its end")

    @property
    def world_size(self) -> int:
        """Processes."""
        return self.nodes * self.gpus_per_node


def render(allocation: Allocation, command: list[str], *, name: str, folder: Path, plan: str = "") -> str:
    """Write a batch script.

    Args:
        allocation: what to ask for.
        command: what each process runs; running it again must resume.
        name: names job and log file; letters that Slurm's log names do not take become `_`.
        folder: where the script runs and the log lies.
        plan: text for the head of the script.
    """
    plain = re.sub(r"[^\w.+-]", "_", name)
    options = {
        "job-name": plain,
        "chdir": str(folder),
        "output": f"{plain}-%j.log",
        "open-mode": "append",
        "nodes": allocation.nodes,
        "ntasks-per-node": allocation.gpus_per_node,
        "gpus-per-node": allocation.gpus_per_node,
        "cpus-per-task": allocation.cpus_per_gpu,
        "time": _duration(allocation.hours),
        "partition": allocation.partition,
        "account": allocation.account,
        "signal": f"USR1@{NOTICE_SECONDS}",
    }
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH --{key}={shlex.quote(str(value))}" for key, value in options.items() if value is not None]
    lines += ["#SBATCH --requeue", "#", *(f"# {line}".rstrip() for line in plan.splitlines())]
    # srun does not take --cpus-per-task from the job since Slurm 22.05.
    srun = ["srun", f"--cpus-per-task={allocation.cpus_per_gpu}", "--kill-on-bad-exit=0", *command]
    return "\n".join([*lines, *_REMARKS, "trap : TERM USR1", "export RELIC_REQUEUE=1", shlex.join(srun), ""])


_REMARKS = """#
# The signal goes to all processes. They save and leave with exit code 85, and rank 0 asks for the requeue itself: this
# script must not. Where a node fails, Slurm requeues. The same command then resumes from the newest checkpoint.
# kill-on-bad-exit=0: those who have left must not take rank 0 with them, which still writes.
# RELIC_REQUEUE: the job is this run and nothing else.
# trap: where a site signals this shell too, it waits for srun.""".splitlines()


def submit(script: str) -> str:
    """Hand a script to sbatch; return the job's number.

    Raises:
        FileNotFoundError: there is no sbatch.
        OSError: Slurm refuses, with what it says.
    """
    if shutil.which("sbatch") is None:
        raise FileNotFoundError(
            "no sbatch here: submit from a login node of the cluster, or write the script with --out FILE"
        )
    done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"sbatch refuses: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip().split(";")[0]  # JOB or JOB;CLUSTER


def _duration(hours: float) -> str:
    minutes, seconds = divmod(round(hours * 3600), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
