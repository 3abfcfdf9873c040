"""Many training runs side by side, a core each, that go on where they were stopped."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import QUIET, THREAD_VARIABLES


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one run does with backgrounds."""

    mode: str
    """`none` (no masks at all), `remove` or `swap`."""
    chance: float
    """Chance of a large view to lose its background."""
    seed: int
    """Seed of the run."""

    @property
    def name(self) -> str:
        """Name of the run's directory."""
        return f"{self.mode}-{self.chance:g}-seed{self.seed}"


def settings(modes: Sequence[str], chances: Sequence[float], seeds: Sequence[int]) -> list[Setting]:
    """Return all runs, those without masks first; seed by seed, so that a stopped sweep has whole comparisons."""
    treatments = [("none", 0.0), *((mode, chance) for mode in modes for chance in chances)]
    return [Setting(mode=mode, chance=chance, seed=seed) for seed in seeds for mode, chance in treatments]


def remember(folder: Path, conditions: dict[str, Any]) -> None:
    """Write down what all runs of a folder have in common.

    Raises:
        ValueError: the folder was begun with other conditions, whose runs would stand beside these.
    """
    file = folder / "conditions.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(json.dumps(conditions, indent=1) + "\n")
        return
    begun = json.loads(file.read_text())
    if begun != conditions:
        changed = [key for key in conditions if begun.get(key) != conditions[key]]
        was = ", ".join(f"{key}={begun.get(key)}" for key in changed)
        raise ValueError(f"{folder} was begun with {was}: give that again, or another --folder")


def relic(*arguments: object, log: Path, threads: int) -> str:
    """Run a command of relic and return what it printed; its messages go to the log.

    Raises:
        OSError: it failed.
    """
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, **QUIET, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "relic", *map(str, arguments)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as messages:
        messages.write(f"$ relic {' '.join(command[3:])}\n")
        messages.flush()
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=messages, text=True, check=False)
        messages.write(done.stdout)
    if done.returncode:
        said = [line for line in re.split(r"[\r\n]", log.read_text()) if line.strip()]
        raise OSError(f"relic {command[3]} failed (exit code {done.returncode}): {said[-1]}; see {log}")
    return done.stdout


def run_all(
    chosen: Sequence[Setting], run: Callable[[Setting], None], *, jobs: int, on_done: Callable[[], None]
) -> None:
    """Do runs, `jobs` at a time, each thread and what it starts on a core of its own.

    The first failure, or Ctrl-C, starts no more runs, waits for those under way, and is raised.
    """
    cores: queue.SimpleQueue[int] = queue.SimpleQueue()
    pins = hasattr(os, "sched_setaffinity")
    for core in sorted(os.sched_getaffinity(0)) if pins else ():
        cores.put(core)

    def settle() -> None:
        if pins:
            os.sched_setaffinity(0, {cores.get()})  # of this thread; processes inherit it

    stops = threading.Event()

    def do(setting: Setting) -> None:
        if stops.is_set():
            return
        try:
            run(setting)
        except BaseException:
            stops.set()
            raise
        on_done()

    with ThreadPoolExecutor(jobs, initializer=settle) as pool:
        futures = [pool.submit(do, setting) for setting in chosen]
        try:
            wait(futures)
        finally:
            stops.set()
    for future in futures:
        future.result()
