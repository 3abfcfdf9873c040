"""Files that one process at a time may write."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def open_locked(path: Path) -> int:
    """Open a file, which is made where it is missing, for this process alone; return its descriptor.

    Raises:
        OSError: another process has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and lock another process may have finished and renamed this very file.
        ours = os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        ours = False
    if not ours:
        os.close(descriptor)
        raise OSError(f"{path}: another process is writing it; wait for it or stop it")
    return descriptor
