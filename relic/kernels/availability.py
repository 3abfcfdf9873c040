"""Whether Triton is there."""

from __future__ import annotations

import functools
import sys


@functools.cache
def has_triton() -> bool:
    """Say whether kernels can run; where Triton is missing, say so on stderr, once per process."""
    try:
        import triton  # noqa: F401
    except ImportError:
        print("Triton is missing: optimizer and target update run on slower torch operations", file=sys.stderr)
        return False
    return True
