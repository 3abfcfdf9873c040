"""One job at a time in a run directory."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_writer(run: Path, flag: str = "--name") -> Iterator[None]:
    """Hold the run directory, which `flag` names; the system lets go of it when the process ends, however that comes.

    Raises:
        ValueError: another process holds it.
    """
    with open(run / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{run} is being written by another process: wait for it, or give another {flag}"
            ) from error
        except OSError:  # a file system without locks (some NFS): go on as if there were none to ask
            pass
        yield
