"""Where a loader stands in its epoch: what every backend must agree on, whatever it renders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines import sampler
from pipelines.shards import AnyBeton

STATE_VERSION = 2  # of the order; 1 was a permutation of numpy's


@dataclass(kw_only=True)
class Position:
    """Epoch, images delivered, and the share of the order that is this rank's.

    Raises:
        ValueError: the data set is smaller than one batch of all ranks, and `drop_last` leaves nothing of it.
    """

    beton: AnyBeton
    batch_size: int
    """Images per batch on this rank."""
    seed: int
    rank: int
    world_size: int
    shuffle: bool
    drop_last: bool
    """True drops the incomplete batch at the end of an epoch."""
    epoch: int = 0
    delivered: int = 0
    """Images of this epoch already delivered to all ranks together."""

    def __post_init__(self) -> None:
        if self.epoch_batches() == 0:
            raise ValueError(
                f"{self.beton.path} has {self.beton.num_images} images, fewer than one batch of"
                f" {self.batch_size * self.world_size} (batch_size): lower batch_size"
            )

    def epoch_batches(self) -> int:
        """Return the batches of a whole epoch."""
        return self._batches(self.beton.num_images)

    def batches(self) -> Iterator[np.ndarray]:
        """Give the indices of each batch that is left, the same number of batches on every rank.

        Without `drop_last` the last batch may be short; a rank's share of it may be empty. Each is computed when it is
        asked for, of the epoch and from the position of this call.
        """
        epoch, first, step = self.epoch, self.delivered, self.batch_size * self.world_size
        return (
            sampler.order(
                self.beton.num_images,
                seed=self.seed,
                epoch=epoch,
                rank=self.rank,
                world_size=self.world_size,
                start=first + number * step,
                count=self.batch_size,
                shuffle=self.shuffle,
            )
            for number in range(self._batches(self.beton.num_images - first))
        )

    def _batches(self, num_images: int) -> int:
        global_batch = self.batch_size * self.world_size
        return num_images // global_batch if self.drop_last else -(-num_images // global_batch)

    def advance(self) -> None:
        """Note that every rank got one more batch; the position never runs past the data set."""
        self.delivered = min(self.delivered + self.batch_size * self.world_size, self.beton.num_images)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch, self.delivered = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Return where the next batch starts, with what identifies the order it belongs to."""
        return {**self._identity(), "epoch": self.epoch, "position": self.delivered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position.

        Raises:
            ValueError: the state is of another version, seed or data set.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"loader state has version {state.get('version')}, this loader {STATE_VERSION}, which reads images in"
                " another order: finish the run with the relicv2 that began it, or start it again under another name"
            )
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise ValueError(
                    f"loader state has {name} {state.get(name)}, this loader {own} ({self.beton.path}):"
                    " resume with the run's own data and seed"
                )
        self.epoch, self.delivered = state["epoch"], state["position"]

    def _identity(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "seed": self.seed,
            "num_images": self.beton.num_images,
            "fingerprint": self.beton.fingerprint(),
        }
