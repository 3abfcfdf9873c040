"""What every loader promises, whatever backend renders the views."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Views of one local batch, channels-last; uint8, or normalised floats where a loader was asked for them."""

    index: torch.Tensor
    """int64 [N], positions of the images in the data set."""
    label: torch.Tensor
    """int64 [N], -1 where the data set has no label."""
    large: list[torch.Tensor]
    """One uint8 [N, size, size, 3] per large view."""
    small: list[torch.Tensor]
    """One uint8 [N, size, size, 3] per small view."""

    def to(self, device: torch.device) -> Batch:
        """Copy to a device without waiting for it: from pinned memory, which views are rendered into."""
        pinned = (part.pin_memory() if device.type == "cuda" else part for part in (self.index, self.label))
        index, label = (part.to(device, non_blocking=True) for part in pinned)
        return Batch(
            index=index,
            label=label,
            large=[view.to(device, non_blocking=True) for view in self.large],
            small=[view.to(device, non_blocking=True) for view in self.small],
        )


@runtime_checkable
class Loader(Protocol):
    """Iterates over one epoch's batches of this rank, from the position of its state on.

    Order and views are pure functions of (seed, epoch, image index), so a state is just (epoch, position).
    """

    num_images: int

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the epoch."""
        ...

    def __len__(self) -> int:
        """Return the batches of a whole epoch."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return epoch and position (images of the epoch already delivered to all ranks together)."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; raises ValueError when it belongs to other data or another seed."""
        ...

    def stats(self) -> dict[str, float]:
        """Return seconds per stage, summed over threads, and queue occupancy since the loader was made."""
        ...

    def close(self) -> None:
        """Stop the workers and release the file."""
        ...
