"""What came of many images, in counts that do not grow with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saliency.store import HAS_MASK, REASONS, SIDE, MaskStore

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BLOCK = 1 << 12  # images looked at together, 8 MiB of masks


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of a data set's images, whoever made which."""

    maker: str
    """What made the masks."""
    images: int
    masks: int
    """Images that have one."""
    rejected: dict[str, int]
    """Reason → images without one."""
    coverage_quantiles: dict[str, float]
    """Quantile → salient share of the image, over the masks."""
    resumed: int
    """Images that an earlier run had made."""
    seconds: float
    images_per_second: float
    """Of this run."""


class Tally:
    """Count images by their flag, and masks by their size."""

    def __init__(self) -> None:
        self._flags = np.zeros(256, np.int64)
        self._areas = np.zeros(SIDE * SIDE + 1, np.int64)

    def add(self, flags: np.ndarray, areas: np.ndarray) -> None:
        """Count images: flags as in a mask store, uint8 [n], and salient pixels of 128 × 128, int64 [n]."""
        self._flags += np.bincount(flags, minlength=len(self._flags))
        self._areas += np.bincount(areas[flags == HAS_MASK], minlength=len(self._areas))

    def add_store(self, path: Path) -> None:
        """Count the images of a mask store."""
        with MaskStore(path) as store:
            for start in range(0, store.num_images, _BLOCK):
                flags = store.flags[start : start + _BLOCK]
                self.add(flags, store.areas(start, start + len(flags)))

    def summary(self, *, maker: str, resumed: int, seconds: float) -> Summary:
        """Say what was counted, of which a run of so many seconds found `resumed` images made."""
        images = int(self._flags.sum())
        return Summary(
            maker=maker,
            images=images,
            masks=int(self._flags[HAS_MASK]),
            rejected={reason: int(self._flags[flag]) for flag, reason in REASONS.items() if self._flags[flag]},
            coverage_quantiles=self._quantiles(),
            resumed=resumed,
            seconds=seconds,
            images_per_second=(images - resumed) / seconds,
        )

    def _quantiles(self) -> dict[str, float]:
        """Give the quantiles that `np.quantile` would give of all shares in one array."""
        up_to = np.cumsum(self._areas)
        if not up_to[-1]:
            return {}
        places = np.array(QUANTILES) * (up_to[-1] - 1)
        below = np.searchsorted(up_to, np.floor(places), side="right")
        above = np.searchsorted(up_to, np.ceil(places), side="right")
        shares = (below + (above - below) * (places % 1)) / (SIDE * SIDE)
        return {str(level): float(share) for level, share in zip(QUANTILES, shares, strict=True)}
