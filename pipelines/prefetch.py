"""Batches to a device while it computes on the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Generic, Protocol, TypeVar

import torch

from pipelines.contract import Batch

T = TypeVar("T")


class Streams(Protocol):
    """What the prefetcher asks of a device."""

    def aside(self) -> AbstractContextManager[object]:
        """Let what is launched inside run beside the stream of the consumer."""
        ...

    def mark(self) -> object:
        """Return an event at the present end of the side stream."""
        ...

    def join(self, event: object, batch: Batch) -> None:
        """Make the consumer's stream wait for the event, and the memory of the batch belong to that stream, too."""
        ...


class CudaStreams:
    """A side stream of one CUDA device."""

    def __init__(self, device: torch.device):
        self._device, self._side = device, torch.cuda.Stream(device)

    def aside(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._side)

    def mark(self) -> torch.cuda.Event:
        return self._side.record_event()

    def join(self, event: object, batch: Batch) -> None:
        consumer = torch.cuda.current_stream(self._device)
        consumer.wait_event(event)  # type: ignore[arg-type]
        for tensor in (batch.index, batch.label, *batch.large, *batch.small):
            # made on the side stream: without this its memory would be given away as soon as Python lets go of it
            tensor.record_stream(consumer)


class DevicePrefetcher(Generic[T]):
    """Bring batches to a device and finish them there, on a stream beside the consumer's.

    Copies from pinned memory and the kernels of the views overlap with the step that the consumer has just launched;
    nothing waits on the host. One batch more is staged ahead where it is ready before the consumer takes the present
    one, so that a consumer that waits for its step every time finds the next batch there: two batches on the device
    at most beside those in use. On a CPU it only calls `stage`.

    Args:
        stage: makes the batch of what a loader has rendered; launches work on the device, does not wait for it.
        device: where batches are delivered.
        streams: stands for the device's streams; default: those of `device`.
    """

    def __init__(self, stage: Callable[[T], Batch], device: torch.device, streams: Streams | None = None):
        self._stage = stage
        self._streams = CudaStreams(device) if streams is None and device.type == "cuda" else streams

    def __call__(self, items: Iterable[T], is_ready: Callable[[], bool] = lambda: False) -> Iterator[Batch]:
        """Yield a batch for every item.

        Args:
            items: what a loader has rendered, in order.
            is_ready: whether the next item would come without waiting.
        """
        items = iter(items)
        if self._streams is None:
            yield from map(self._stage, items)
            return
        staged: deque[tuple[Batch, object]] = deque()
        failed: Exception | None = None
        while True:
            if failed is not None:
                raise failed
            if not staged and not self._stage_next(items, staged):
                return
            batch, event = staged.popleft()
            if is_ready():
                try:
                    self._stage_next(items, staged)
                except Exception as error:  # of the next batch: the present one is whole, and is delivered first
                    failed = error
            self._streams.join(event, batch)
            yield batch

    def _stage_next(self, items: Iterator[T], staged: deque[tuple[Batch, object]]) -> bool:
        assert self._streams is not None
        # The item is asked for inside, too: DALI makes its outputs for the stream that is current when it runs.
        with self._streams.aside():
            for item in items:
                staged.append((self._stage(item), self._streams.mark()))
                return True
        return False
