"""Triton where it is installed; elsewhere modules of kernels still import, as everything does, and are never called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import triton.language as tl

    def jit(function: Callable[..., Any]) -> Any: ...

    def constexpr(value: object) -> Any: ...
else:
    try:
        import triton.language as tl
        from triton import jit

        constexpr = tl.constexpr
    except ImportError:
        tl = None

        def jit(function):
            return function

        def constexpr(value):
            return value


__all__ = ["constexpr", "jit", "tl"]
