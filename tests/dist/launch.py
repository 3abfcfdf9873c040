"""Start `relic pretrain` in processes of its own, watch what it says, and do it harm."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

from pipelines.prepare.writer import write_beton
from relic import checkpoint

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SMALL = (
    "--device cpu --precision float32 --batch-size 16 --duration 20st --optim.warmup 2st --seed 3"
    " --model.backbone resnet18x0.125 --model.projector-hidden 16 --model.projection-dim 8"
    " --views.large.size 24 --views.small.size 16 --loader.num-threads 1"
    " --checkpoint.every 7st --checkpoint.keep-last 9 --log.every 1st --log.health-every 20st --log.no-tensorboard"
    " --distributed.timeout-seconds 60"
).split()


def write_data(folder: Path) -> Path:
    """Write a beton of 64 small images."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 44, 3), np.uint8) for _ in range(64)]
    write_beton(folder / "small.beton", images, [index % 4 for index in range(64)], class_names=("a", "b", "c", "d"))
    return folder / "small.beton"


def pretrain(data: Path, runs: Path, name: str, *options: str) -> list[str]:
    """Return the arguments after `python`."""
    where = ["--data", str(data), "--runs", str(runs), "--name", name]
    return ["-m", "relic", "pretrain", "demo", *where, *SMALL, *options]


def torchrun(processes: int, *options: str) -> list[str]:
    """Return the arguments that put torchrun before what `pretrain` returns."""
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *options]


class Running:
    """A command and the lines it has printed so far."""

    def __init__(self, *command: str, environment: dict[str, str] | None = None):
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            command,
            env=ENVIRONMENT if environment is None else environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until a line with this text was printed."""
        deadline = time.monotonic() + seconds
        while not any(text in line for line in self.lines):
            assert time.monotonic() < deadline, f"{text!r} was not printed:\n" + "\n".join(self.lines)
            assert self._process.poll() is None or self._reader.is_alive(), "\n".join(self.lines)
            time.sleep(0.02)

    def wait(self, seconds: float = 180) -> int:
        """Return the exit code."""
        code = self._process.wait(seconds)
        self._reader.join(10)
        return code

    def signal(self, number: int, child: int | None = None) -> None:
        """Send a signal to the command, or to its child of this position."""
        target = self._process.pid
        if child is not None:
            listed = subprocess.run(["pgrep", "-P", str(target)], capture_output=True, text=True, check=True)
            target = sorted(int(pid) for pid in listed.stdout.split())[child]
        os.kill(target, number)

    def said(self, text: str) -> list[str]:
        """Return the lines with this text."""
        return [line for line in self.lines if text in line]


def outcome(runs: Path, name: str, step: int = 20) -> dict:
    """Return what a run's checkpoint holds, without where it lies."""
    saved = checkpoint.read(checkpoint.path_of(runs / name, step))
    saved.pop("config")
    return saved


def same_bits(left: object, right: object) -> bool:
    """Compare nested containers of tensors and plain values."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return (
            isinstance(right, dict) and left.keys() == right.keys() and all(same_bits(left[k], right[k]) for k in left)
        )
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same_bits, left, right))
    return left == right


PYTHON = sys.executable
