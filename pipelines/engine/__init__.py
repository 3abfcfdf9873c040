"""The fused CPU engine: from a decoded image and its rows of the table to all its views, in one call without the GIL.

Compiled C++ for AVX-512, AVX2 and any other processor (`source/`), chosen when it runs, and a numba twin for machines
where it was not compiled. All compute the same bytes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import cache

import numpy as np

from pipelines import views

try:
    from pipelines.engine import native  # type: ignore[attr-defined]  # compiled by setup.py
except ImportError as error:
    native, _missing = None, error

STAGES = ("taps", "vertical", "horizontal", "color", "blur", "write")
"""Where the compiled engine's seconds go; `horizontal` includes the colour operations before contrast."""
NOT_COMPILED = (
    "the compiled engine is missing: views are rendered by numba, the same pixels several times slower. Install a C++"
    " compiler (Debian: apt-get install g++ python3-dev) and install relicv2 again"
)


def available() -> list[str]:
    """Return the engines of this machine, fastest first; `numba` is always the last."""
    return [*(native.available() if native is not None else ()), "numba"]


@cache
def chosen() -> str:
    """Return the engine in use: the fastest, or the one that the environment variable RELIC_ENGINE names.

    Raises:
        ValueError: RELIC_ENGINE names none of this machine's.
    """
    name = os.environ.get("RELIC_ENGINE") or available()[0]
    if name not in available():
        raise ValueError(f"RELIC_ENGINE={name} is not an engine of this machine: take one of {', '.join(available())}")
    if native is not None:
        layout = {field: offset for field, (_, offset) in (views.ROW.fields or {}).items()}  # type: ignore[misc]
        if layout != native.row_layout():
            raise ValueError("the compiled engine is of another version of relicv2: install relicv2 again")
    return name


@cache
def prepare(engine: str, *, quiet: bool = False) -> None:
    """Get an engine ready for its first image. Numba compiles, once per machine, and says so where that takes long."""
    if engine != "numba":
        return
    from pipelines.engine import numba_twin  # numba takes half a second to import

    def tell(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    if native is None:
        tell(f"warning: {NOT_COMPILED}")
    start, notice = time.perf_counter(), threading.Timer(1.0, tell, ["numba compiles the engine, once per machine ..."])
    notice.start()
    numba_twin.compile_all()
    notice.cancel()
    if (seconds := time.perf_counter() - start) > 1:
        tell(f"numba compiled the engine in {seconds:.0f} s")


def render(
    engine: str,
    image: np.ndarray,
    rows: np.ndarray,
    outputs: list[np.ndarray],
    settings: np.ndarray,
    mask: np.ndarray | None = None,
    plates: np.ndarray | None = None,
    seconds: np.ndarray | None = None,
    *,
    slot: int = 0,
) -> None:
    """Render all views of an image.

    Args:
        engine: one of `available()`.
        image: uint8 [H, W, 3].
        rows: `pipelines.views.ROW` [views].
        outputs: per view, contiguous [size, size, 3] of what `settings` names; or [N, size, size, 3], a batch of such
            views, of which number `slot` is written.
        settings: from `pipelines.engine.settings.settings_of`.
        mask: bool or uint8 [h, w] over the whole image, for rows whose background is not KEEP.
        plates: uint8 [P, h, w, 3], of which a row that swaps takes number `plate % P`; None: the constant fill.
        seconds: float64 [len(STAGES)], to which the compiled engine adds what each stage took.
        slot: place in the batch.

    Raises:
        ValueError: a box outside the image, or a wrong shape.
        MemoryError: no memory for the engine's planes.
    """
    if engine == "numba":
        from pipelines.engine import numba_twin

        numba_twin.render(image, rows, outputs, settings, mask, plates, slot)
    else:
        native.render(engine, image, rows, outputs, settings, mask, plates, seconds, slot)  # type: ignore[union-attr]
