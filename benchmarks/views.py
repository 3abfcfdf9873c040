"""`python -m benchmarks views` and `decode`: who makes the views of an image how fast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from benchmarks.harness import Measured, Plan
    from benchmarks.work import Work

UNIT = "decode"
NORMALISED = ("fused-bf16", "fused-float32")
"""Ours that peers are compared with: all of those deliver normalised float32; training takes bfloat16."""


def views(
    images: Path,
    threads: int = 1,
    providers: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = (),
    limit: int = 500,
    repeats: int = 7,
    slow_repeats: int = 3,
    jitter: Literal["relicv2", "torchvision"] = "relicv2",
    batch_size: int = 32,
    seed: int = 0,
    parity_images: int = 16,
    timeout: float = 900.0,
    gil: bool = False,
    json: str | None = None,
) -> int:
    """Compare ways to make the views of ReLICv2: 4 of 224 and 2 of 96 pixels, all augmentations, from JPEG bytes.

    Every library runs in a process of its own, one at a time, in interleaved rounds; ratios are taken within a round.
    Those that are not installed are named and left out.

    Args:
        images: Folder with JPEG files.
        threads: Threads that a provider may use; it runs on so many of the cores that this process may use.
        providers: Who takes part; by default all, those for a GPU only where there is one. `decode` always does.
        limit: Most images, evenly spaced in the sorted list.
        repeats: Rounds.
        slow_repeats: Rounds of a provider whose pass takes more than four seconds.
        jitter: Colour jitter of our own providers; the others know torchvision's only.
        batch_size: Images per batch.
        seed: Seed of the views.
        parity_images: Images whose pixels are compared with the reference's; 0 compares none.
        timeout: Seconds after which a provider that does not answer is left out.
        gil: Measure instead how long our loader holds the interpreter's lock per image.
        json: File for the records, - for standard output (the table then goes to standard error).
    """
    from benchmarks.harness import Plan

    if gil:
        return _interpreter_lock()
    plan = Plan(repeats=repeats, slow_repeats=slow_repeats, limit=timeout, parity_images=parity_images)
    names = _chosen(providers)
    works = _Works(images, limit=limit, threads=threads, batch_size=batch_size, seed=seed, jitter=jitter)
    return _measured("views", names, works, plan, json)


def _interpreter_lock() -> int:
    from benchmarks.gil import microseconds_per_image

    held = microseconds_per_image()
    print(
        f"the interpreter's lock is held for at most {held:.0f} µs per image: one process can serve up to"
        f" {1e6 / held:,.0f} images/s, and at 1,200 images/s the lock is taken {0.12 * held:.0f} % of the time"
    )
    return 0


def decode(
    images: Path, threads: int = 1, limit: int = 500, repeats: int = 7, timeout: float = 900.0, json: str | None = None
) -> int:
    """Measure bare JPEG decoding, the unit that the views are compared with.

    Args:
        images: Folder with JPEG files.
        threads: Threads that decode.
        limit: Most images, evenly spaced in the sorted list.
        repeats: Rounds.
        timeout: Seconds after which it is given up.
        json: File for the records, - for standard output (the table then goes to standard error).
    """
    from benchmarks.harness import Plan

    plan = Plan(repeats=repeats, limit=timeout, parity_images=0)
    works = _Works(images, limit=limit, threads=threads, batch_size=32, seed=0, jitter="relicv2")
    return _measured("decode", [UNIT], works, plan, json)


def _chosen(providers: tuple[str, ...]) -> list[str]:
    """Return the providers in the registry's order, the unit always among them; raises ValueError."""
    import difflib

    from benchmarks import machine
    from benchmarks.providers import PROVIDERS

    for name in providers:
        if name not in PROVIDERS:
            nearest = difflib.get_close_matches(name, PROVIDERS, 1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"one of {', '.join(PROVIDERS)}"
            raise ValueError(f"no provider {name!r}: {hint}")
    if providers:
        return [name for name in PROVIDERS if name in providers or name == UNIT]
    has_gpu = machine.describe()["gpu"] is not None
    return [name for name, entry in PROVIDERS.items() if has_gpu or not entry.on_gpu]


class _Works:
    """The images, and what each provider is to make of them."""

    def __init__(self, folder: Path, *, limit: int, threads: int, batch_size: int, seed: int, jitter: Any):
        from benchmarks import images, jpeg
        from benchmarks.harness import print_note
        from relic import cores

        for name, number in (("threads", threads), ("batch-size", batch_size)):
            if number < 1:
                raise ValueError(f"{name} {number}: give at least 1")
        if threads > cores.available():
            raise ValueError(f"threads {threads}: this process may use {cores.available()} cores; give at most that")
        self._jpegs = images.read_jpegs(folder, limit, on_note=print_note)
        self._sizes = [jpeg.size_of(data) for data in self._jpegs]
        self._threads, self._batch_size, self._seed, self._jitter = threads, batch_size, seed, jitter
        self.images = images.describe(folder, self._jpegs, self._sizes)

    def of(self, name: str) -> Work:
        """Return the work of one provider; those with one jitter share their rows' values."""
        from benchmarks.providers import PROVIDERS
        from benchmarks.work import Work, benchmark_recipe, draw_rows

        entry = PROVIDERS[name]
        recipe = benchmark_recipe(self._jitter if entry.is_ours else "torchvision")
        return Work(
            jpegs=self._jpegs,
            recipe=recipe,
            rows=draw_rows(recipe, self._seed, self._sizes),
            seed=self._seed,
            threads=self._threads,
            output=entry.output or "uint8",
            batch_size=self._batch_size,
            photometric=entry.photometric,
        )


def _measured(benchmark: str, names: list[str], works: _Works, plan: Plan, json: str | None) -> int:
    """Measure, print and write; return 1 where nothing was measured."""
    from benchmarks import harness, machine, records, table

    records.check_target(json)
    shared = records.conditions(machine.describe())
    each = {name: works.of(name) for name in names}
    results = harness.measure(each, plan, on_note=harness.print_note)
    if not results:
        raise ValueError("no provider was measured: the reasons stand above")
    made = [
        records.of_provider(benchmark, result, results.get(UNIT), work=each[name], images=works.images, shared=shared)
        for name, result in results.items()
    ]
    parts = [table.machine_line(made), table.speeds(made, _faster(results)), table.notes(made)]
    if stages := table.stages(made):
        parts.append(f"milliseconds per image by stage, summed over threads:\n{stages}")
    print("\n\n".join(filter(None, parts)), file=sys.stderr if json == "-" else sys.stdout)
    if json is not None:
        records.write(made, json)
    return 0


def _faster(results: dict[str, Measured]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return for each of our normalised outputs how many times faster than a peer it is (median, lowest, highest)."""
    from benchmarks.providers import PROVIDERS

    peers = [result for name, result in results.items() if not PROVIDERS[name].is_ours]
    return {
        name: {peer.name: ratio for peer in peers if (ratio := results[name].times_faster_than(peer))}
        for name in NORMALISED
        if name in results and peers
    }
