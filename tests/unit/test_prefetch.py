"""The order in which batches are staged and delivered, with streams that only write down what they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
import torch

from pipelines.contract import Batch
from pipelines.prefetch import DevicePrefetcher


class Recorded:
    """Streams that note what happens."""

    def __init__(self):
        self.notes: list[str] = []
        self._events = count()

    @contextmanager
    def aside(self) -> Iterator[None]:
        self.notes.append("[")
        yield
        self.notes.append("]")

    def mark(self) -> str:
        return f"event {next(self._events)}"

    def join(self, event: object, batch: Batch) -> None:
        self.notes.append(f"wait for {event} of batch {int(batch.index)}")


def batch_of(number: int) -> Batch:
    return Batch(index=torch.tensor(number), label=torch.tensor(0), large=[], small=[])


def run(items: int, *, is_ready) -> list[str]:
    streams = Recorded()

    def stage(number: int) -> Batch:
        streams.notes.append(f"stage {number}")
        return batch_of(number)

    prefetcher = DevicePrefetcher(stage, torch.device("cpu"), streams)
    for batch in prefetcher(range(items), is_ready):
        streams.notes.append(f"use {int(batch.index)}")
    return streams.notes


def test_a_batch_is_staged_aside_and_waited_for_before_it_is_used():
    assert run(2, is_ready=lambda: False) == [
        *("[", "stage 0", "]", "wait for event 0 of batch 0", "use 0"),
        *("[", "stage 1", "]", "wait for event 1 of batch 1", "use 1"),
    ]


def test_the_next_is_staged_before_the_present_is_used_where_it_is_ready():
    assert run(3, is_ready=lambda: True) == [
        *("[", "stage 0", "]", "[", "stage 1", "]", "wait for event 0 of batch 0", "use 0"),
        *("[", "stage 2", "]", "wait for event 1 of batch 1", "use 1"),
        *("wait for event 2 of batch 2", "use 2"),
    ]


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("items", [0, 1, 5])
def test_every_batch_comes_once_and_in_order(items: int, ready: bool):
    notes = run(items, is_ready=lambda: ready)
    assert [note for note in notes if note.startswith("use")] == [f"use {number}" for number in range(items)]


def test_at_most_one_batch_more_than_the_present_is_staged():
    staged, most = 0, 0

    def stage(number: int) -> Batch:
        nonlocal staged
        staged += 1
        return batch_of(number)

    prefetcher = DevicePrefetcher(stage, torch.device("cpu"), Recorded())
    for used, _ in enumerate(prefetcher(range(9), lambda: True), 1):
        most = max(most, staged - used)
    assert most == 1


def test_on_a_cpu_it_only_stages():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(3):
            taken.append(number)
            yield number

    batches = DevicePrefetcher(batch_of, torch.device("cpu"))(items(), lambda: True)
    assert int(next(batches).index) == 0
    assert taken == [0]
    assert [int(batch.index) for batch in batches] == [1, 2]


def test_an_error_of_a_stage_reaches_the_consumer():
    def stage(number: int) -> Batch:
        if number == 1:
            raise ValueError("batch 1 fails")
        return batch_of(number)

    batches = DevicePrefetcher(stage, torch.device("cpu"), Recorded())(range(3))
    next(batches)
    with pytest.raises(ValueError, match="batch 1 fails"):
        next(batches)
