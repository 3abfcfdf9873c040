"""The order in which batches are staged and delivered, with streams that only write down what they are asked."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipelines import photometric
from pipelines.build import build_loader
from pipelines.config import ViewsConfig
from pipelines.contract import Batch
from pipelines.kernels import photometric as kernels
from pipelines.loader import TableLoader
from pipelines.ops import batched
from pipelines.photometric import Finisher
from pipelines.prefetch import CudaStreams, DevicePrefetcher
from pipelines.views import ROW
from relic import recipes
from relic.config import LoaderConfig
from relic.train import output_of


class Recorded:
    """Streams that note what happens."""

    def __init__(self):
        self.notes: list[str] = []
        self._events = count()

    @contextmanager
    def aside(self) -> Iterator[None]:
        self.notes.append("[")
        try:
            yield
        finally:
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

    def rendered() -> Iterator[int]:
        for number in range(items):
            streams.notes.append(f"item {number}")
            yield number

    for batch in prefetcher(rendered(), is_ready):
        streams.notes.append(f"use {int(batch.index)}")
    return streams.notes


def test_a_batch_is_rendered_and_staged_aside_and_waited_for_before_it_is_used():
    assert run(2, is_ready=lambda: False) == [
        *("[", "item 0", "stage 0", "]", "wait for event 0 of batch 0", "use 0"),
        *("[", "item 1", "stage 1", "]", "wait for event 1 of batch 1", "use 1"),
        *("[", "]"),
    ]


def test_the_next_is_staged_before_the_present_is_used_where_it_is_ready():
    assert run(3, is_ready=lambda: True) == [
        *("[", "item 0", "stage 0", "]", "[", "item 1", "stage 1", "]", "wait for event 0 of batch 0", "use 0"),
        *("[", "item 2", "stage 2", "]", "wait for event 1 of batch 1", "use 1"),
        *("[", "]", "wait for event 2 of batch 2", "use 2", "[", "]"),
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


@pytest.mark.parametrize("ready", [True, False])
def test_an_error_of_a_stage_reaches_the_consumer_after_the_batch_before(ready: bool):
    def stage(number: int) -> Batch:
        if number == 1:
            raise ValueError("batch 1 fails")
        return batch_of(number)

    batches = DevicePrefetcher(stage, torch.device("cpu"), Recorded())(range(3), lambda: ready)
    assert int(next(batches).index) == 0
    with pytest.raises(ValueError, match="batch 1 fails"):
        next(batches)


def test_the_consumer_waits_for_the_event_and_takes_all_memory_over(monkeypatch):
    """CUDA's calls, which no CPU has, written down."""
    calls: list[tuple[str, object]] = []
    consumer = SimpleNamespace(wait_event=lambda event: calls.append(("wait", event)))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(record_event=lambda: "event"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: consumer)
    parts = [SimpleNamespace(record_stream=lambda stream, n=n: calls.append((f"record {n}", stream))) for n in range(5)]
    batch = SimpleNamespace(index=parts[0], label=parts[1], large=parts[2:4], small=parts[4:])
    streams = CudaStreams(torch.device("cuda", 1))
    streams.join(streams.mark(), batch)  # type: ignore[arg-type]
    assert calls == [("wait", "event"), *((f"record {n}", consumer) for n in range(5))]


def test_a_loader_stages_ahead_only_what_is_rendered(tiny_beton, monkeypatch):
    """The answer that the loader gives its prefetcher, before and after the threads are done with the next batch."""
    loader = build_loader(tiny_beton, ViewsConfig(), batch_size=2, backend="synthetic", prefetch=2)
    assert isinstance(loader, TableLoader)
    go_on, answers, render = threading.Event(), [], loader.render
    later = set(list(loader.position.batches())[1].tolist())

    def slow(source, index, *given):
        if index in later:
            go_on.wait()
        return render(source, index, *given)

    def staged(items, is_ready):
        for item in items:
            answers.append(is_ready())
            go_on.set()
            while not is_ready():
                time.sleep(0.01)
            yield loader._stage(item)

    monkeypatch.setattr(loader, "render", slow)
    monkeypatch.setattr(loader, "_to_device", staged)
    next(iter(loader))
    assert answers == [False]
    loader.close()


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_what_goes_to_a_gpu_is_pinned(kind, monkeypatch):
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    finisher = Finisher(ViewsConfig(), torch.device("cpu"), torch.uint8, None)
    finisher.device = torch.device(kind)
    rows = np.zeros((2, 6), ROW)
    rows["height"] = rows["width"] = 9
    finisher.drawn(rows, np.full(2, 9), np.full(2, 9), np.zeros((2, 2048), np.uint8))
    assert len(pinned) == (7 if kind == "cuda" else 0)  # six views' lines, and the masks


def test_more_plates_than_a_device_tells_apart_are_refused():
    plates = np.broadcast_to(np.uint8(0), (2**24 + 1, 1, 1, 3))
    with pytest.raises(ValueError, match="16777217 background plates: a device tells 16777216 apart, give fewer"):
        Finisher(ViewsConfig(), torch.device("cpu"), torch.uint8, plates)


@pytest.mark.parametrize("has_triton", [True, False])
def test_a_gpu_gets_the_kernels_where_triton_is(has_triton, monkeypatch):
    monkeypatch.setattr(photometric, "_has_triton", lambda: has_triton)
    assert photometric.finish_on(torch.device("cuda", 1)) is (kernels.finish if has_triton else batched.finish)
    assert photometric.finish_on(torch.device("cpu")) is batched.finish


@pytest.mark.parametrize(
    ("loader", "precision", "output"),
    [
        ({"backend": "dali"}, "bfloat16", "bfloat16"),
        ({"backend": "dali"}, "float16", "uint8"),
        ({"photometric": "device"}, "float32", "float32"),
        ({}, "bfloat16", "uint8"),
    ],
)
def test_a_run_asks_for_normalised_views_where_a_device_finishes_them(loader, precision, output):
    config = dataclasses.replace(recipes.get("demo"), loader=LoaderConfig(**loader), precision=precision)
    assert output_of(config) == output
