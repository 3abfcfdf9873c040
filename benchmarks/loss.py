"""`python -m benchmarks loss`: time and memory of the fused loss and of its reference, and how they grow."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)
"""Images per batch of the growth with negatives."""
ALL_OTHERS_SIZES = (1024, 2048, 3072, 4096)
"""Images per batch of the growth with all others as negatives, whose time grows with their square."""
DTYPES = ("float32", "bfloat16")
WEIGHTS: dict[str, Any] = {"temperature": 0.2, "contrastive_weight": 0.3, "invariance_weight": 5.0}
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Case:
    """One computation of the loss and its gradient."""

    provider: str
    """reference or fused."""
    dtype: str
    batch_size: int
    features: int
    online: int
    target: int
    negatives: int | None
    threads: int

    def __post_init__(self) -> None:
        for name in ("batch_size", "features", "online", "target", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', '-')} {getattr(self, name)}: give at least 1")
        if self.negatives is not None and not 1 <= self.negatives < self.batch_size:
            raise ValueError(f"negatives {self.negatives}: give 1 to {self.batch_size - 1}, the other images")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What became of a case."""

    case: Case
    seconds: list[float]
    """One per round."""
    extra: int
    """Bytes of memory at the highest point, beyond the outputs of the networks."""


def loss(
    batch_size: int = 1024,
    features: int = 256,
    online: int = 6,
    target: int = 4,
    negatives: int = 10,
    threads: int = 1,
    repeats: int = 7,
    growth: bool = True,
    json: str | None = None,
) -> int:
    """Measure forward and backward of the loss on the CPU: fused and reference, in interleaved rounds.

    Memory is measured apart, in a process per case. The growth is that of the fused loss in float32.

    Args:
        batch_size: Images.
        features: Numbers of an output.
        online: Views of the online network.
        target: Views of the target network.
        negatives: Negatives per image; all other images are measured too.
        threads: Threads of torch.
        repeats: Rounds.
        growth: Measure also how time and memory grow with the images.
        json: File for the records, - for standard output (the table then goes to standard error).
    """
    from benchmarks import machine, records
    from relic import cores

    if repeats < 1:
        raise ValueError(f"repeats {repeats}: give at least 1")
    if threads > cores.available():
        raise ValueError(f"threads {threads}: this process may use {cores.available()} cores; give at most that")
    base = Case(
        provider="fused", dtype="float32", batch_size=batch_size, features=features, online=online, target=target,
        negatives=negatives, threads=threads,
    )  # fmt: skip
    records.check_target(json)
    shared = records.conditions(machine.describe())
    out = sys.stderr if json == "-" else sys.stdout
    print(conditions_line(base, repeats, shared["machine"]), file=out)
    pairs = [
        replace(base, provider=provider, dtype=dtype, negatives=chosen)
        for chosen, dtypes in ((negatives, DTYPES), (None, DTYPES[:1]))
        for dtype in dtypes
        for provider in ("reference", "fused")
    ]
    measured = measure(pairs, repeats)
    made = [record(one, measured, shared) for one in measured]
    print(f"\n{comparison(made)}", file=out)
    if growth:
        for one in ("negatives", "all others"):
            made += grown(one, base, repeats, shared)
            print(f"\n{growth_lines(made[-2:])}", file=out)
    if json is not None:
        records.write(made, json)
    return 0


def prepare(case: Case) -> Callable[[], None]:
    """Make random outputs and negatives; return what computes the loss and its gradient once."""
    import torch

    from relic.losses import draw_negatives, reference_loss, relic_loss

    torch.set_num_threads(case.threads)
    function = {"reference": reference_loss, "fused": relic_loss}[case.provider]
    generator = torch.Generator().manual_seed(0)

    def outputs(views: int) -> torch.Tensor:
        made = torch.empty(views, case.batch_size, case.features, dtype=getattr(torch, case.dtype))
        return made.normal_(generator=generator)

    online, target = outputs(case.online).requires_grad_(), outputs(case.target)
    negatives = None
    if case.negatives is not None:
        negatives = torch.from_numpy(draw_negatives(case.batch_size, case.negatives, seed=0, step=0))

    def run() -> None:
        torch.autograd.grad(function(online, target, negatives, **WEIGHTS).total, online)

    return run


def measure(cases: Sequence[Case], repeats: int) -> list[Measured]:
    """Time all cases in rounds, so that a busy machine's noise hits all alike, the first unmeasured; then memory."""
    runs = [prepare(case) for case in cases]
    rounds = [[_seconds(run) for run in runs] for _ in range(repeats + 1)][1:]
    times = [list(of_case) for of_case in zip(*rounds, strict=True)]
    return [
        Measured(case=case, seconds=seconds, extra=extra_memory(case))
        for case, seconds in zip(cases, times, strict=True)
    ]


def extra_memory(case: Case) -> int:
    """Return the bytes that a case takes beyond its inputs."""
    from benchmarks.memory import extra_bytes

    few = None if case.negatives is None else 1
    return extra_bytes(prepare, replace(case, batch_size=2, negatives=few), case)


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def grown(name: str, base: Case, repeats: int, shared: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of time and of memory over the images per batch."""
    sizes, chosen, rounds = SIZES, base.negatives, repeats
    if name == "all others":
        sizes, chosen, rounds = ALL_OTHERS_SIZES, None, 1
    points = measure([replace(base, batch_size=size, negatives=chosen) for size in sizes], rounds)
    milliseconds = [1000 * statistics.median(point.seconds) for point in points]
    memory = [point.extra / MIB for point in points]
    pairs = [size * size / 1e6 for size in sizes]
    x, of_time = (sizes, "ms per image") if chosen is not None else (pairs, "ms per million pairs of images")
    case = points[0].case
    return [
        growth_record(f"loss, growth in time with {name}", of_time, case, x, milliseconds, rounds, shared),
        growth_record(f"loss, growth in memory with {name}", "MiB per image", case, sizes, memory, rounds, shared),
    ]


# ---- records and tables --------------------------------------------------------------------------------------


def record(one: Measured, all_measured: list[Measured], shared: dict[str, Any]) -> dict[str, Any]:
    """Return the record of one case, beside the reference of the same inputs."""
    from benchmarks import records
    from benchmarks.harness import spread

    case = one.case
    (reference,) = [other for other in all_measured if other.case == replace(case, provider="reference")]
    seconds, fastest, slowest = spread(one.seconds)
    ratio = spread([theirs / mine for theirs, mine in zip(reference.seconds, one.seconds, strict=True)])
    return {
        "benchmark": f"loss, {_negatives(case)}",
        "provider": f"{case.provider}, {case.dtype}",
        "value": case.batch_size / seconds,
        "unit": "images/s",
        "low": case.batch_size / slowest,
        "high": case.batch_size / fastest,
        "repeats": len(one.seconds),
        "threads": case.threads,
        "recipe": {key: value for key, value in asdict(case).items() if key not in ("provider", "threads")},
        "images": {"count": case.batch_size},
        "milliseconds": 1000 * seconds,
        "times_faster_than_reference": dict(zip(("value", "low", "high"), ratio, strict=True)),
        "extra_mib": one.extra / MIB,
        "share_of_reference_memory": one.extra / reference.extra,
        "versions": records.versions((*records.ALWAYS, "numba")),
        **shared,
    }


def growth_record(
    benchmark: str,
    unit: str,
    case: Case,
    x: Sequence[float],
    values: list[float],
    repeats: int,
    shared: dict[str, Any],
) -> dict[str, Any]:
    """Return the record of one line."""
    from benchmarks import records
    from benchmarks.harness import straight_line

    slope, intercept, fit = straight_line(x, values)
    return {
        "benchmark": benchmark,
        "provider": "fused",
        "value": slope,
        "unit": unit,
        "low": min(values),
        "high": max(values),
        "repeats": repeats,
        "threads": case.threads,
        "recipe": {**asdict(case), "batch_size": "varied"},
        "images": None,
        "x": list(x),
        "y": values,
        "line": {"slope": slope, "intercept": intercept, "r2": fit},
        "versions": records.versions((*records.ALWAYS, "numba")),
        **shared,
    }


def conditions_line(case: Case, repeats: int, machine: dict[str, Any]) -> str:
    """Say on what and of what it is measured."""
    return (
        f"{machine['cpu']}, {case.threads} thread(s), {machine['cores_allowed']} of {machine['cores']} cores allowed,"
        f" {' '.join(machine['vector_units'])}; load {machine['load_average'][0]} before; {case.batch_size:,} images,"
        f" {case.online} online and {case.target} target views of {case.features} numbers; forward and backward,"
        f" medians of {repeats} interleaved rounds"
    )


def comparison(made: list[dict[str, Any]]) -> str:
    """Show time and memory, a line per case."""
    from benchmarks.table import text_table

    rows = []
    for one in made:
        low, high = (1000 * one["images"]["count"] / one[bound] for bound in ("high", "low"))
        ratio = one["times_faster_than_reference"]
        rows.append(
            (
                f"{one['provider']}, {one['benchmark'].removeprefix('loss, ')}",
                f"{one['milliseconds']:.1f}",
                f"{low:.1f}–{high:.1f}",
                f"{ratio['value']:.1f}× ({ratio['low']:.1f}–{ratio['high']:.1f})",
                f"{one['extra_mib']:.1f}",
                f"{100 * one['share_of_reference_memory']:.1f} %",
            )
        )
    header = ("loss", "ms", "low–high", "faster than reference", "extra MiB", "of reference")
    return text_table(header, rows)


def growth_lines(made: list[dict[str, Any]]) -> str:
    """Show the points and the straight line through them."""
    lines = []
    for one in made:
        unit, fit = one["unit"].split()[0], one["line"]
        points = ", ".join(f"{x:,.6g}: {y:.1f}" for x, y in zip(one["x"], one["y"], strict=True))
        lines.append(
            f"{one['benchmark']}: {points} {unit}; line {fit['intercept']:.2f} + {fit['slope']:.4g} {one['unit']},"
            f" R² {fit['r2']:.4f}"
        )
    return "\n".join(lines)


def _negatives(case: Case) -> str:
    return "all others" if case.negatives is None else f"{case.negatives} negatives"
