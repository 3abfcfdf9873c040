"""One door to all backends: open the files, pick the renderer, return a loader."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from pipelines.config import ViewsConfig
from pipelines.contract import Loader
from pipelines.engine.settings import Output
from pipelines.loader import Source, TableLoader
from pipelines.position import Position
from pipelines.shards import open_beton
from saliency.store import open_masks

Backend = Literal["fused", "reference", "dali", "ffcv", "synthetic"]
BACKENDS: tuple[str, ...] = get_args(Backend)
Photometric = Literal["host", "device"]


def build_loader(
    data: str | Path,
    recipe: ViewsConfig,
    *,
    batch_size: int,
    seed: int = 0,
    backend: Backend = "fused",
    masks: str | Path | None = None,
    plates: str | Path | None = None,
    rank: int = 0,
    world_size: int = 1,
    num_threads: int = 2,
    prefetch: int = 2,
    shuffle: bool = True,
    drop_last: bool = True,
    device: torch.device | str = "cpu",
    on_corrupt: Literal["raise", "skip"] = "raise",
    photometric: Photometric = "host",
    output: Output = "uint8",
) -> Loader:
    """Open a data set (and its masks and plates) and serve its views.

    Args:
        data: a beton, or the manifest of many.
        recipe: the views.
        batch_size: images per batch on this rank.
        seed: seed of order and views.
        backend: who decodes and renders; `reference` is the truth, `fused` the fast one, `dali` spares the host's cores
            where the device is a GPU.
        masks: mask store of this beton, or the manifest of many; without one every view keeps its background.
        plates: .npy of uint8 [P, h, w, 3], needed for `background.mode="swap"`.
        rank, world_size: which share of the order is this rank's.
        shuffle: False keeps the stored order.
        drop_last: True drops the incomplete batch at the end of an epoch.
        num_threads, prefetch, device, on_corrupt: as `pipelines.loader.TableLoader`.
        photometric: `device` lets the host stop after crop, resize and flip, and does the rest there (fused; dali
            always does).
        output: uint8 views, or normalised ones, [N, size, size, 3] of that type. Normalised on the host, they are four
            or two times the bytes to the device (fused, dali).

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: unknown backend; something asked of a backend that cannot do it; masks of another beton; swaps
            without plates.
    """
    if backend not in BACKENDS:
        nearest = difflib.get_close_matches(str(backend), BACKENDS, 1) or [BACKENDS[0]]
        raise ValueError(f"backend {backend!r} is unknown: did you mean {nearest[0]!r}? (one of {', '.join(BACKENDS)})")
    if backend in ("ffcv", "dali") and on_corrupt == "skip":
        raise ValueError(f"backend {backend} cannot leave out a corrupt image: take on_corrupt=raise, or backend fused")
    if backend not in ("fused", "dali") and (photometric, output) != ("host", "uint8"):
        raise ValueError(f"photometric={photometric}, output={output} need backend=fused or dali, not {backend}")
    source = open_source(data, recipe, masks=masks, plates=plates)
    position = Position(
        beton=source.beton,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        shuffle=shuffle,
        drop_last=drop_last,
    )
    options: dict[str, Any] = {"num_threads": num_threads, "prefetch": prefetch, "device": device}
    if backend == "ffcv":
        from pipelines.backends.ffcv import FfcvLoader  # imports ffcv, which takes seconds

        return FfcvLoader(source, recipe, position, **options)
    options["output"] = getattr(torch, output)
    if backend == "dali":
        from pipelines.backends.dali import DaliLoader  # imports DALI, which is optional

        return DaliLoader(source, recipe, position, **options)
    make_renderer = importlib.import_module(f"pipelines.backends.{backend}").renderer
    choice = {}
    if backend == "fused":
        on_host = photometric == "host"
        choice = {"photometric": on_host, "output": output if on_host else "uint8", "quiet": rank != 0}
    options |= {"on_corrupt": on_corrupt, "photometric": photometric}
    return TableLoader(source, recipe, make_renderer(recipe, **choice), position, **options)


def open_source(
    data: str | Path, recipe: ViewsConfig, *, masks: str | Path | None = None, plates: str | Path | None = None
) -> Source:
    """Open and check the files; raises as `build_loader`."""
    beton = open_beton(data)
    store = None
    if masks is not None:
        store = open_masks(masks)
        store.check(beton.fingerprint(), beton.num_images)
    bank = None
    if plates is not None:
        bank = np.load(plates, mmap_mode="r")
        if bank.ndim != 4 or bank.shape[-1] != 3 or bank.dtype != np.uint8 or len(bank) == 0:
            raise ValueError(f"{plates} holds {bank.dtype} {bank.shape}, not uint8 [P, h, w, 3] background plates")
    if recipe.background.mode == "swap" and recipe.background.chance > 0 and store is not None and bank is None:
        raise ValueError("background.mode=swap needs plates: give --plates FILE.npy, or background.mode=remove")
    return Source(beton=beton, masks=store, plates=bank)
