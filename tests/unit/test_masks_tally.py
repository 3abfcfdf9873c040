"""What came of many images is counted right, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest

from relic.masks.tally import Tally
from saliency.store import HAS_MASK, REASONS


def test_quantiles_of_counts_are_those_of_the_shares():
    rng = np.random.default_rng(0)
    flags = rng.choice([HAS_MASK, *REASONS], 1001).astype(np.uint8)
    areas = rng.integers(0, 128 * 128 + 1, 1001)
    tally = Tally()
    for part in np.array_split(np.arange(1001), 7):
        tally.add(flags[part], areas[part])
    summary = tally.summary(maker="m", resumed=1, seconds=10)
    kept = areas[flags == HAS_MASK] / 128**2
    assert list(summary.coverage_quantiles.values()) == pytest.approx(np.quantile(kept, [0.05, 0.25, 0.5, 0.75, 0.95]))
    assert summary.masks == len(kept)
    assert sum(summary.rejected.values()) == 1001 - len(kept)
    assert summary.images_per_second == pytest.approx(100)


def test_nothing_to_count():
    summary = Tally().summary(maker="m", resumed=0, seconds=1)
    assert (summary.images, summary.rejected, summary.coverage_quantiles) == (0, {}, {})
