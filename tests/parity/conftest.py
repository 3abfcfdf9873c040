"""The bar that fused views are held to; the figures are printed after the tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image
from view_cases import square

MEAN_ERROR = 1.0
"""Largest mean absolute difference to the reference, in grey levels (design, section 6)."""
PSNR = 40.0
"""Smallest peak signal-to-noise ratio in dB (design, section 6)."""

BIAS = 0.05
"""Largest mean difference, with its sign, over the views of one kind, in grey levels."""


@dataclass(kw_only=True)
class Agreement:
    """How far fused views are from the reference; every single view must keep the bar."""

    figures: dict[str, list[tuple[float, float, float, float]]] = field(default_factory=dict)
    """Operation -> (mean, largest absolute, mean signed difference in grey levels, PSNR in dB) of each view."""

    def hold(
        self,
        operation: str,
        fused: np.ndarray,
        reference: np.ndarray,
        case: object = "",
        *,
        mean_error: float = MEAN_ERROR,
        psnr: float = PSNR,
    ) -> None:
        """Compare two views in grey levels, note the figures, and fail below the bar, naming the case."""
        assert fused.shape == reference.shape
        signed = fused.astype(np.float64) - reference.astype(np.float64)
        difference = np.abs(signed)
        square = float((difference**2).mean())
        decibel = 10 * math.log10(255**2 / square) if square else math.inf
        figures = (float(difference.mean()), float(difference.max()), float(signed.mean()), decibel)
        self.figures.setdefault(operation, []).append(figures)
        assert difference.mean() <= mean_error, f"{operation} {case}"
        assert decibel >= psnr, f"{operation} {case}"

    def hold_bias(self, operation: str) -> None:
        """Fail where the views are brighter or darker on the whole: truncating for rounding costs half a level."""
        bias = np.mean([signed for _, _, signed, _ in self.figures[operation]])
        assert abs(bias) <= BIAS, f"{operation}: {bias}"

    def table(self) -> Iterator[str]:
        """Yield the lines of a table, one operation each."""
        yield f"{'fused against reference':<34}{'views':>7}{'mean':>9}{'worst':>9}{'max':>9}{'bias':>9}{'worst':>8}"
        yield f"{'':<34}{'':>7}{'|d|':>9}{'mean |d|':>9}{'|d|':>9}{'':>9}{'dB':>8}"
        for operation, views in self.figures.items():
            means, largest, signed, psnr = np.array(views).T
            yield (
                f"{operation:<34}{len(views):>7}{means.mean():>9.4f}{means.max():>9.4f}{largest.max():>9.3f}"
                f"{signed.mean():>9.4f}{psnr.min():>8.1f}"
            )


FIGURES = Agreement()


@pytest.fixture(scope="session")
def agreement() -> Agreement:
    """Return the table that all parity tests of views write into."""
    return FIGURES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES.figures:
        terminalreporter.section("parity of views")
        for line in FIGURES.table():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def photographs(imagenet_files) -> list[np.ndarray]:
    """Return 200 real images, uint8 [H, W, 3]."""
    images = [np.array(Image.open(path).convert("RGB")) for path in imagenet_files[::2][:200]]
    assert len(images) == 200
    return images


@pytest.fixture(scope="session")
def small_views(photographs: list[np.ndarray]) -> list[np.ndarray]:
    """Return the 200 photographs as uint8 [96, 96, 3]."""
    return [square(photograph, 96) for photograph in photographs]
