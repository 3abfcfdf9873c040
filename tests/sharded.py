"""Write data sets of many shards for tests, without a conversion."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.beton import Beton, classes_path
from pipelines.prepare.writer import write_beton
from pipelines.shards import describe_shard, write_manifest
from saliency.store import MaskStore, MaskStoreWriter
from saliency.store import write_manifest as write_mask_manifest


def in_shards(beton: Path, folder: Path, sizes: Sequence[int]) -> Path:
    """Write the images of a beton as shards of these sizes; return the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest, shards = folder / beton.name, []
    with Beton(beton) as images:
        for number, (first, last) in enumerate(edges(sizes)):
            path = folder / f"{beton.stem}-{number:05d}.beton"
            stored = [
                bytes(images.jpeg(index)) if images.is_jpeg(index) else np.array(images.pixels(index))
                for index in range(first, last)
            ]
            write_beton(path, stored, images.labels[first:last].tolist())
            shards.append(describe_shard(path))
        if images.class_names is not None:
            classes_path(manifest).write_text("".join(f"{name}\n" for name in images.class_names))
    write_manifest(manifest, shards)
    return manifest


def masks_in_shards(masks: Path, manifest: Path, fingerprint: str, shards: Sequence[Path]) -> Path:
    """Write the masks of a data set as a store for each of its shards; return their manifest."""
    paths, first = [], 0
    with MaskStore(masks) as store:
        for shard in shards:
            path = shard.with_suffix(".masks")
            with Beton(shard) as images, MaskStoreWriter(path, len(images), images.fingerprint()) as writer:
                for place in range(len(images)):
                    if not store.absent[first + place]:
                        writer.write(place, store.mask(first + place))
                first += len(images)
            paths.append(path)
    write_mask_manifest(manifest, fingerprint, paths)
    return manifest


def edges(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first image of each shard, and the first after it."""
    return list(itertools.pairwise([0, *itertools.accumulate(sizes)]))
