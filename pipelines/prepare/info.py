"""What is inside a beton, without decoding it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.beton import Beton
from pipelines.prepare.jpeg import read_header
from saliency.store import MaskStore

# Each header touches another page of the file, so a large beton is sampled; 2,000 tell a share of 2 % to +- 0.6 %.
HEADER_SAMPLE = 2000
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def describe(path: str | Path) -> dict[str, Any]:
    """Describe a beton in values that JSON can hold; raises what `Beton` raises.

    `class_sizes` is (least, median, most) images of the classes that have any; `width`, `height` and `jpeg_bytes` are
    quantiles 0, 5, 50, 95 and 100 %; `gray_share` and `turned` (EXIF orientations, which no decoder here heeds) are of
    `headers_sampled` evenly spaced JPEGs; `masks` tells about the mask store beside the beton.
    """
    with Beton(path) as beton:
        jpegs = np.array([beton.is_jpeg(index) for index in range(beton.num_images)], np.bool_)
        labeled = beton.labels[beton.labels >= 0]
        sizes = np.unique(labeled, return_counts=True)[1]
        sampled = np.flatnonzero(jpegs)
        sampled = sampled[
            np.unique(np.linspace(0, max(len(sampled) - 1, 0), HEADER_SAMPLE).astype(np.int64))[: len(sampled)]
        ]
        headers = [read_header(beton.jpeg(int(index))) for index in sampled]
        return {
            "path": str(beton.path),
            "images": beton.num_images,
            "classes": len(beton.class_names or sizes),
            "unlabeled": beton.num_images - len(labeled),
            "class_sizes": [int(sizes.min()), float(np.median(sizes)), int(sizes.max())] if len(sizes) else None,
            "width": _quantiles(beton.widths),
            "height": _quantiles(beton.heights),
            "jpegs": int(jpegs.sum()),
            "raw": int((~jpegs).sum()),
            "jpeg_bytes": _quantiles(beton.payload_sizes[jpegs]),
            "gray_share": sum(header.components == 1 for header in headers) / len(headers) if headers else None,
            "turned": sum(header.orientation != 1 for header in headers),
            "headers_sampled": len(headers),
            "bytes": beton.path.stat().st_size,
            "page_size": beton.page_size,
            "fingerprint": beton.fingerprint(),
            "masks": _describe_masks(beton),
        }


def _quantiles(values: np.ndarray) -> list[int] | None:
    return [int(q) for q in np.quantile(values, QUANTILES, method="nearest")] if len(values) else None


def _describe_masks(beton: Beton) -> dict[str, Any] | None:
    path = beton.path.with_suffix(".masks")
    if not path.exists():
        return None
    try:
        with MaskStore(path) as masks:
            masks.check(beton.fingerprint(), beton.num_images, beton.path)
            return {"path": str(path), "masks": int((~masks.absent).sum()), "absent": int(masks.absent.sum())}
    except (ValueError, OSError) as error:
        return {"path": str(path), "problem": str(error)}
