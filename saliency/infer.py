"""Images to masks: a map of each → threshold → 128 × 128 bits, with the masks that are no use rejected."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saliency.priors import DEFAULT, find_priors, levelled, mean
from saliency.priors.scene import WORKING_SIDE, Scene
from saliency.squares import to_square
from saliency.store import EMPTY, HAS_MASK, MASK_BYTES, SIDE, TOO_LARGE, TOO_SMALL

SMALLEST, LARGEST = 0.01, 0.9  # shares of the image; a mask outside is rejected (specification, section 5)

Method = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Images, uint8 RGB [H, W, 3] → a map of each, float32 [h, w] in [0, 1], of any size, to be cut at one half."""


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What makes masks: some priors, or a network. Its text goes with the masks."""

    priors: tuple[str, ...] = DEFAULT
    """Names in `saliency.priors.PRIORS`, whose mean it is."""
    side: int = WORKING_SIDE
    """Pixels of the longer side at which priors work."""
    network: Path | None = None
    """File of a network, which is then used instead."""
    sha256: str = ""
    """Hash of that file."""

    def __str__(self) -> str:
        if self.network is not None:
            return f"network sha256:{self.sha256}"
        return f"priors {','.join(self.priors)} at {self.side}"

    def method(self) -> Method:
        """Return what maps images; raises ValueError where the network's file is another by now."""
        if self.network is None:
            return by_priors(self.priors, self.side)
        if self != network_maker(self.network):
            raise ValueError(f"{self.network}: is another file than when the masks were begun; start again")
        return by_network(self.network)


def network_maker(path: Path) -> Maker:
    """Describe the network in a file; FileNotFoundError where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such network; make one by `relic masks fit`")
    return Maker(priors=(), network=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def by_priors(names: Sequence[str], side: int = WORKING_SIDE) -> Method:
    """Map images by the mean of some priors, at the priors' working size; ValueError for unknown ones."""
    priors = find_priors(names)

    def of_image(image: np.ndarray) -> np.ndarray:
        scene = Scene(image, side)
        return scene.framed(levelled(mean(scene, priors)))

    return lambda images: [of_image(image) for image in images]


def by_network(path: Path) -> Method:
    """Map images by a fitted network; raises what `saliency.network.load` raises."""
    from saliency import network  # imports torch, which the priors do without

    net = network.ready(network.load(path))
    return lambda images: network.maps(net, images)


def binary_mask(saliency: np.ndarray) -> np.ndarray:
    """Bring a map to the store's size, averaging where it shrinks, and cut it at one half.

    Args:
        saliency: float32 [h, w] in [0, 1].

    Returns:
        bool [128, 128].
    """
    return to_square(saliency, SIDE) >= 0.5


def packed_mask(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Turn a mask, bool [128, 128], into what the store keeps: uint8 [2048], and the image's flag.

    One that is no use is rejected: the flag says why, and the bits are 0.
    """
    flag = _flag(float(mask.mean()))
    return np.packbits(mask) if flag == HAS_MASK else np.zeros(MASK_BYTES, np.uint8), flag


def _flag(coverage: float) -> int:
    if coverage == 0:
        return EMPTY
    if coverage < SMALLEST:
        return TOO_SMALL
    return TOO_LARGE if coverage > LARGEST else HAS_MASK
