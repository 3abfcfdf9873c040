"""Who of the processes is alive: heartbeats through the store, and one clear line when one is not."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from torch import distributed

from relic.distributed import Group, World

FAILURE = "peers/failure"
FINISHED = "finished"
FAILED = 1
PATIENCE_SECONDS = 3.0
"""With the store, when something has gone wrong already."""
T = TypeVar("T")


class PeerLostError(OSError):
    """Another process died, failed or cannot be reached; the message says which, where and when."""


@dataclass(frozen=True)
class Beat:
    """What a process last said of itself."""

    count: int
    step: int
    host: str
    state: str

    @classmethod
    def parse(cls, text: bytes) -> Beat:
        count, step, state, host = text.decode().split(" ", 3)
        return cls(int(count), int(step), host, state)


class Peers:
    """Tell the others that this process lives, watch the next one, and end this process where a peer is lost.

    Every process watches its successor only, and whoever finds a failure writes it down for all: four small requests
    a second and process, at any number of processes. One thread talks to the store, where a dead connection may hold
    it for minutes whatever timeout was set; another one only looks at the clock.

    Args:
        world: this process.
        store: the store that all reach; a connection of its own is made, since requests wait for each other.
        timeout_seconds: silence after which a process, or the store, counts as dead.
    """

    def __init__(self, world: World, store: distributed.Store, *, timeout_seconds: float):
        self.step = 0
        """Updates done, for the others to read."""
        self._world, self._timeout = world, timeout_seconds
        self._interval = min(1.0, timeout_seconds / 6)
        self._store = store.clone()
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._count = 0
        self._failure_read: str | None = None
        self._successor = (world.rank + 1) % world.world_size
        self._last_beat, self._heard = b"", time.monotonic()
        self._contact = time.monotonic()
        self._beat("running")
        for task in (self._talk, self._watch):
            threading.Thread(target=task, name=f"peers{task.__name__}", daemon=True).start()

    def close(self) -> None:
        """Say that this process is done, and stop watching."""
        self._finished.set()
        self._in_time(lambda: self._beat(FINISHED))

    def tell(self, error: BaseException) -> bool:
        """Let the others know why this process ends; return whether it is the first to, and so tells the user."""
        self._finished.set()
        reason = " ".join(str(error).split()) or type(error).__name__
        text = f"rank {self._world.rank} on {self._world.host} failed at step {self.step:,}: {reason}"
        is_first = self._in_time(lambda: self._claim(text))
        return is_first is None or is_first  # None: nobody is left to hear it

    def explain(self) -> str | None:
        """Say why a collective failed; None where another process says it to the user."""
        self._finished.set()

        def find() -> tuple[str, bool]:
            known = self._failure()
            failure = known or self._who_is_silent()
            return failure, known is None and self._claim(failure)

        found = self._in_time(find)
        if found is None:
            return self._unreachable()
        failure, is_first = found
        return failure if is_first or self._world.is_main else None

    # -- the threads --------------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        while not self._finished.wait(self._interval):
            try:
                self._beat("running")
                self._failure_read = self._failure()
                beat = self._read([self._successor])[0]
            except distributed.DistError:  # the watch sees that there is no contact any more
                return
            self._contact = time.monotonic()
            if beat != self._last_beat:
                self._last_beat, self._heard = beat, self._contact

    def _watch(self) -> None:
        while not self._finished.wait(self._interval):
            now = time.monotonic()
            if self._failure_read is not None:
                # The main thread usually ends by itself, unless it is caught in a collective for good.
                if not self._finished.wait(self._timeout):
                    self._end(self._failure_read if self._world.is_main else None)
            elif now - self._contact > self._timeout:
                self._end(self._unreachable())
            elif now - self._heard > self._timeout and Beat.parse(self._last_beat).state != FINISHED:
                silent = f"has been silent for {now - self._heard:.0f} s"
                failure = self._text([self._successor], [self._last_beat], silent)
                self._end(failure if self._in_time(lambda text=failure: self._claim(text)) is not False else None)

    def _end(self, failure: str | None) -> None:
        """End the process from this thread: the main thread may wait in a collective that never returns."""
        if failure is not None:
            print(f"relic pretrain: error: {failure}", file=sys.stderr, flush=True)
        os._exit(FAILED)

    def _in_time(self, request: Callable[[], T]) -> T | None:
        """Return what a request to the store gave, None if the store does not answer."""
        answers: list[T] = []

        def ask() -> None:
            with contextlib.suppress(distributed.DistError):
                answers.append(request())

        thread = threading.Thread(target=ask, name="peers_request", daemon=True)
        thread.start()
        thread.join(PATIENCE_SECONDS + 3 * self._interval)
        return answers[0] if answers else None

    # -- the store ----------------------------------------------------------------------------------------------------

    def _beat(self, state: str) -> None:
        self._count += 1
        text = f"{self._count} {self.step} {state} {self._world.host}"
        with self._lock:
            self._store.set(_key(self._world.rank), text)

    def _read(self, ranks: list[int]) -> list[bytes]:
        with self._lock:
            return self._store.multi_get([_key(rank) for rank in ranks])

    def _failure(self) -> str | None:
        with self._lock:
            return self._store.get(FAILURE).decode() if self._store.check([FAILURE]) else None

    def _claim(self, failure: str) -> bool:
        """Write a failure down for all if it is the first; return whether it is."""
        with self._lock:
            is_first = self._store.add(f"{FAILURE}/claims", 1) == 1
            if is_first:
                self._store.set(FAILURE, failure)
        return is_first

    def _who_is_silent(self) -> str:
        """Compare everybody's beats over a few intervals."""
        others = [rank for rank in range(self._world.world_size) if rank != self._world.rank]
        before = self._read(others)
        time.sleep(2.5 * self._interval)
        after = self._read(others)
        silent = [place for place in range(len(others)) if before[place] == after[place]]
        if silent:
            return self._text([others[place] for place in silent], [after[place] for place in silent], "is gone")
        slowest = min(range(len(others)), key=lambda place: Beat.parse(after[place]).step)
        return self._text([others[slowest]], [after[slowest]], f"lives, but did not answer within {self._timeout:g} s")

    def _text(self, ranks: list[int], beats: list[bytes], what: str) -> str:
        heard = [(rank, Beat.parse(beat)) for rank, beat in zip(ranks, beats, strict=True)]
        named = [f"rank {rank} on {beat.host} (last heard of at step {beat.step:,})" for rank, beat in heard[:4]]
        more = f" and {len(heard) - 4} more" if len(heard) > 4 else ""
        return f"{', '.join(named)}{more} {what}; {_MEND}"

    def _unreachable(self) -> str:
        return (
            f"rank {self._world.rank} on {self._world.host} at step {self.step:,} has lost contact with the host of"
            f" rank 0; {_MEND}"
        )


@contextmanager
def watched(group: Group, *, timeout_seconds: float) -> Iterator[Peers | None]:
    """Hold the processes' watch over each other; None for a single process.

    Raises:
        PeerLostError: another process died, failed or cannot be reached.
        SystemExit: the same, where another process tells the user.
    """
    if group.store is None:
        yield None
        return
    peers = Peers(group.world, group.store, timeout_seconds=timeout_seconds)
    try:
        yield peers
    except BaseException as error:
        if not is_lost_contact(error):
            if peers.tell(error):
                raise
            raise SystemExit(FAILED) from error
        failure = peers.explain()
        raise SystemExit(FAILED) if failure is None else PeerLostError(failure) from error
    peers.close()


def is_lost_contact(error: BaseException) -> bool:
    """Return whether an error means that a collective failed: torch and gloo raise plain RuntimeErrors too."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", "Connection closed"))


_MEND = "run the same command again to resume from the newest checkpoint"


def _key(rank: int) -> str:
    return f"peers/{rank}"
