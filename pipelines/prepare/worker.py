"""A process that works for this one, and the pipe to it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any


class Worker:
    """Run `target(connection, *arguments)` in a process of its own for as long as this context lasts.

    Both ends notice the other's death: `send` and `receive` raise ChildProcessError here, and there a
    `recv` raises EOFError.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any):
        # Spawned: a forked child would hold the other workers' pipes open and never notice a parent's death.
        context = multiprocessing.get_context("spawn")
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, message: Any) -> None:
        """Send a message; ChildProcessError where the worker is gone."""
        try:
            self.connection.send(message)
        except OSError:
            raise self._died() from None

    def receive(self) -> Any:
        """Wait for a message; ChildProcessError where the worker is gone."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            raise self._died() from None

    def _died(self) -> ChildProcessError:
        self._process.join(timeout=5)
        code = self._process.exitcode or 0
        how = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"ended with exit code {code}"
        return ChildProcessError(f"a worker {how}; what is finished is kept, run the same command again to continue")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self._process.terminate()
        self._process.join()
