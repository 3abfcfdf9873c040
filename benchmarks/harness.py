"""Time providers against each other: a process each, one at work at a time, round by round.

The rounds are interleaved (round 1: decode, fused, dali, ...; round 2: the same), so that a busy machine's noise hits
all alike, and providers are compared by the ratio of their times within a round.
"""

from __future__ import annotations

import os
import pickle
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.process import ProviderFailed, ProviderProcess
from benchmarks.providers import PROVIDERS
from benchmarks.work import Work

SLOW_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How often, and how long at most."""

    repeats: int = 7
    """Rounds."""
    slow_repeats: int = 3
    """Rounds of a provider whose first pass took more than SLOW_SECONDS, spread evenly over all."""
    limit: float = 900.0
    """Seconds that a start, or a pass, may take."""
    parity_images: int = 16
    """Images whose pixels are compared with the reference's; 0 leaves parity out."""

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.slow_repeats < 1:
            raise ValueError(f"repeats {self.repeats}, slow-repeats {self.slow_repeats}: give at least 1")


@dataclass(kw_only=True)
class Measured:
    """What became of one provider."""

    name: str
    images: int
    cold_start_seconds: float
    """Import, preparation and a pass over a few images: compiles and fills caches."""
    note: str
    rounds: dict[int, float] = field(default_factory=dict)
    """Round -> seconds of its pass over all images."""
    stages: list[dict[str, float]] = field(default_factory=list)
    """Seconds by stage of each pass, summed over threads."""
    parity: dict[str, Any] | None = None

    def images_per_second(self) -> tuple[float, float, float]:
        """Return median, lowest and highest over the rounds."""
        return spread([self.images / seconds for seconds in self.rounds.values()])

    def times_faster_than(self, other: Measured) -> tuple[float, float, float] | None:
        """Return median, lowest and highest of the ratio of speeds within a round; None without a common round."""
        common = sorted(self.rounds.keys() & other.rounds.keys())
        return spread([other.rounds[number] / self.rounds[number] for number in common]) if common else None

    def seconds_per_image(self) -> dict[str, float] | None:
        """Return the median over the passes of every stage; None where the provider does not know its stages."""
        names = self.stages[0] if self.stages else {}
        return {name: statistics.median(p[name] for p in self.stages) / self.images for name in names} or None


def straight_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Return slope, intercept and R² of the least-squares line; R² is 1 where all y are the same."""
    import numpy as np

    at, values = np.asarray(x, float), np.asarray(y, float)
    base = float(values.min())  # moments are large numbers, of which little is the line
    slope, offset = np.polyfit(at, values - base, 1)
    rest, variance = values - base - (slope * at + offset), float(values.var())
    return float(slope), float(offset) + base, 1 - float(rest.var()) / variance if variance else 1.0


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return median, lowest and highest."""
    return statistics.median(values), min(values), max(values)


def slow_rounds(plan: Plan) -> set[int]:
    """Return the rounds that slow providers take part in: the first, the last, and evenly between."""
    count = min(plan.slow_repeats, plan.repeats)
    return {round(place * (plan.repeats - 1) / max(count - 1, 1)) for place in range(count)}


def measure(works: dict[str, Work], plan: Plan, *, on_note: Callable[[str], None]) -> dict[str, Measured]:
    """Time the providers, then compare their pixels.

    Args:
        works: provider -> what it is to make; all have the same images and threads.
        plan: rounds and limits.
        on_note: gets a line for people: a provider left out, a round done.

    Returns:
        Measured by name, in the order of `works`, without those that failed.
    """
    results: dict[str, Measured] = {}
    with _processes(works, plan, on_note) as running:
        for name in list(running):
            with _left_out_if_it_fails(name, running, results, on_note):
                started = running[name].ask("start")
                results[name] = Measured(
                    name=name,
                    images=len(works[name].jpegs),
                    cold_start_seconds=started["seconds"],
                    note=started["note"],
                )
        for number in range(plan.repeats):
            _round(number, plan, running, results, on_note)
        for name in list(running):
            with _left_out_if_it_fails(name, running, results, on_note):
                indices = evenly_spaced(results[name].images, plan.parity_images)
                results[name].parity = running[name].ask("parity", indices=indices)["parity"] if indices else None
    return results


def evenly_spaced(count: int, limit: int) -> list[int]:
    """Return at most `limit` of the numbers below `count`, evenly spaced."""
    return [place * count // limit for place in range(limit)] if count > limit else list(range(count))


def allowed_cores(threads: int) -> list[int]:
    """Return the cores that a provider of so many threads runs on: so many of those this process may use."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return allowed[:threads]


def _round(number: int, plan: Plan, running: dict, results: dict[str, Measured], on_note: Callable) -> None:
    speeds = []
    for name in list(running):
        result = results[name]
        is_slow = number > 0 and result.rounds[0] > SLOW_SECONDS
        if is_slow and number not in slow_rounds(plan):
            continue
        with _left_out_if_it_fails(name, running, results, on_note):
            answer = running[name].ask("run")
            result.rounds[number] = answer["seconds"]
            if answer["stages"]:
                result.stages.append(answer["stages"])
            speeds.append(f"{name} {result.images / answer['seconds']:.1f}")
    on_note(f"round {number + 1} of {plan.repeats}, images/s: {', '.join(speeds)}")


@contextmanager
def _processes(works: dict[str, Work], plan: Plan, on_note: Callable) -> Iterator[dict[str, ProviderProcess]]:
    """Write down the work and start the processes, which do nothing yet; end them."""
    running: dict[str, ProviderProcess] = {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name_of_folder:
        folder = Path(name_of_folder)
        for name, work in works.items():
            if not (folder / "jpegs.pickle").exists():
                (folder / "jpegs.pickle").write_bytes(pickle.dumps(work.jpegs))
            (folder / f"{name}.pickle").write_bytes(pickle.dumps(replace(work, jpegs=[])))
        try:
            for name, work in works.items():
                cores = allowed_cores(work.threads)
                running[name] = ProviderProcess(name, folder, threads=work.threads, cores=cores, limit=plan.limit)
            yield running
        finally:
            for process in running.values():
                process.close()


@contextmanager
def _left_out_if_it_fails(name: str, running: dict, results: dict, on_note: Callable) -> Iterator[None]:
    try:
        yield
    except ProviderFailed as error:
        mend = f"; {PROVIDERS[name].mend}" if error.is_missing else ""
        on_note(f"{name} is left out: {error}{mend}")
        running.pop(name).close()
        results.pop(name, None)


def print_note(note: str) -> None:
    """Print a line for people."""
    print(note, file=sys.stderr, flush=True)
