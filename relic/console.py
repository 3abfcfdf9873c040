"""Progress for people: a bar with ETA on a terminal, plain lines elsewhere, nothing from ranks other than 0."""

from __future__ import annotations

import sys
import time
from types import TracebackType

PLAIN_INTERVAL_SECONDS = 10.0


class Progress:
    """Show how far `total` units of work have come.

    On a terminal this is a rich bar with rate and ETA; elsewhere (a log file, Slurm) one plain line at most every
    ten seconds and one at the end. `quiet=True` (ranks other than 0) prints nothing. Output goes to stderr, so that
    stdout stays machine-readable.
    """

    def __init__(self, description: str, total: int, unit: str = "images", *, quiet: bool = False):
        self.description, self.total, self.unit, self.quiet = description, total, unit, quiet
        self.done = 0
        self._start = self._last_line = time.monotonic()
        self._bar = None

    def __enter__(self) -> Progress:
        self._start = self._last_line = time.monotonic()
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total, rate="")
        return self

    def advance(self, n: int = 1) -> None:
        """Count `n` more units as done."""
        self.done += n
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=f"{self._rate():,.0f}/s")
        elif not self.quiet and time.monotonic() - self._last_line >= PLAIN_INTERVAL_SECONDS:
            self._print_line()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self.quiet and kind is None and self.done:
            self._print_line()

    def _rate(self) -> float:
        return self.done / max(time.monotonic() - self._start, 1e-9)

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        rate = self._rate()
        left = (self.total - self.done) / rate if rate else float("inf")
        print(
            f"{self.description}: {self.done:,}/{self.total:,} {self.unit}, {rate:,.0f}/s, {left:,.0f} s left",
            file=sys.stderr,
            flush=True,
        )
