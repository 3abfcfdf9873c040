"""What is inside a beton, without decoding it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.beton import Beton
from pipelines.prepare.jpeg import read_header
from pipelines.shards import AnyBeton, ShardedBeton, open_beton
from saliency.store import open_masks

# Each header touches another page of the file, so a large beton is sampled; 2,000 tell a share of 2 % to +- 0.6 %.
HEADER_SAMPLE = 2000
# Quantiles of more images than this are those of so many, evenly spaced.
SIZE_SAMPLE = 1 << 20
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def describe(path: str | Path) -> dict[str, Any]:
    """Describe a beton, or all its shards, in values that JSON can hold; raises what `open_beton` raises.

    `class_sizes` is (least, median, most) images of the classes that have any; `width`, `height` and `jpeg_bytes` are
    quantiles 0, 5, 50, 95 and 100 %; `gray_share` and `turned` (EXIF orientations, which no decoder here heeds) are of
    `headers_sampled` JPEGs of evenly spaced images; `shards` is 0 where all is one file; `masks` tells about the mask
    store beside the beton.
    """
    with open_beton(path) as beton:
        sizes, unlabeled, jpegs = _count(beton)
        sampled = _evenly_spaced(beton.num_images, SIZE_SAMPLE)
        are_jpegs = np.array([beton.is_jpeg(int(index)) for index in sampled], np.bool_)
        looked_at = [int(index) for index in _evenly_spaced(beton.num_images, HEADER_SAMPLE)]
        headers = [read_header(beton.jpeg(index)) for index in looked_at if beton.is_jpeg(index)]
        return {
            "path": str(beton.path),
            "images": beton.num_images,
            "shards": len(beton.files) if isinstance(beton, ShardedBeton) else 0,
            "classes": len(beton.class_names or sizes),
            "unlabeled": unlabeled,
            "class_sizes": [int(sizes.min()), float(np.median(sizes)), int(sizes.max())] if len(sizes) else None,
            "width": _quantiles(beton.widths[sampled]),
            "height": _quantiles(beton.heights[sampled]),
            "jpegs": jpegs,
            "raw": beton.num_images - jpegs,
            "jpeg_bytes": _quantiles(beton.payload_sizes[sampled[are_jpegs]]),
            "gray_share": sum(header.components == 1 for header in headers) / len(headers) if headers else None,
            "turned": sum(header.orientation != 1 for header in headers),
            "headers_sampled": len(headers),
            "bytes": sum(file.stat().st_size for file in beton.files),
            "page_size": beton.page_size,
            "fingerprint": beton.fingerprint(),
            "masks": _describe_masks(beton),
        }


def _count(beton: AnyBeton) -> tuple[np.ndarray, int, int]:
    """Count the images of each class that has any, those without a label, and those stored as JPEG, file by file."""
    sizes: Counter[int] = Counter()
    jpegs = 0
    for file in beton.files:
        with Beton(file) as part:
            jpegs += sum(part.is_jpeg(index) for index in range(part.num_images))
            for labels in part.labels.blocks():
                values, counts = np.unique(labels, return_counts=True)
                sizes.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    unlabeled = sum(sizes.pop(label) for label in [label for label in sizes if label < 0])
    return np.array(list(sizes.values()), np.int64), unlabeled, jpegs


def _evenly_spaced(count: int, most: int) -> np.ndarray:
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)


def _quantiles(values: np.ndarray) -> list[int] | None:
    return [int(q) for q in np.quantile(values, QUANTILES, method="nearest")] if len(values) else None


def _describe_masks(beton: AnyBeton) -> dict[str, Any] | None:
    path = beton.path.with_suffix(".masks")
    if not path.exists():
        return None
    try:
        with open_masks(path) as masks:
            masks.check(beton.fingerprint(), beton.num_images, beton.path)
            absent = int(masks.absent.sum())
            return {"path": str(path), "masks": masks.num_images - absent, "absent": absent, "maker": masks.maker}
    except (ValueError, OSError) as error:
        return {"path": str(path), "problem": str(error)}
