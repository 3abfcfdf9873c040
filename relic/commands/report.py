"""`relic report RUN...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")],
    out: Path | None = None,
) -> None:
    """Write one self-contained HTML file on a run, or on several side by side.

    Args:
        runs: Run directories.
        out: File to write; by default report.html in the run directory, of several runs in the folder of the first.
    """
    if not runs:
        raise ValueError("no run was named: relic report RUN, for instance relic report runs/demo")

    from relic.report import write_report

    target = out or (runs[0] if len(runs) == 1 else runs[0].parent) / "report.html"
    write_report(runs, target)
    print(f"{target}: {target.stat().st_size / 1000:,.0f} kB, opens in any browser, without a network")
