"""DALI on the CPU: one decode, six resizes by region of interest, and the rest only for the samples that need it.

What gives DALI its best chance here: JPEG bytes enter without a copy, conditionals spare the samples that an
operation leaves alone, grayscale is folded into the colour matrix, blur takes the window of its sigma, solarize is a
lookup table. A pass ends with its last batch, so that nothing is prefetched while another library is timed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types

from benchmarks.image_by_image import grey_levels
from benchmarks.work import Work
from pipelines.config import IMAGENET_MEAN, IMAGENET_STD

INTERPOLATIONS = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}
FIELDS = ("start", "end", "jitter", "brightness", "contrast", "saturation", "hue", "blurs", "sigma", "solarize")
SOLARIZED = [level if level < 128 else 255 - level for level in range(256)]
PREFETCHED_BATCHES = 2
NOTE = "colour is one matrix: fixed order, hue in YIQ, contrast about one half, no clamp between"


class Dali:
    """One pipeline fed with JPEG bytes and with the rows, field by field."""

    note = NOTE

    def __init__(self, work: Work):
        self._jpegs = [np.frombuffer(jpeg, np.uint8) for jpeg in work.jpegs]
        self._arguments = [_arguments(work.rows[:, view]) for view in range(len(work.sizes))]
        self._batch_size = work.batch_size
        self._waiting: list[Sequence[int]] = []
        options: dict[str, Any] = {
            "batch_size": work.batch_size,
            "num_threads": work.threads,
            "device_id": None,
            "prefetch_queue_depth": PREFETCHED_BATCHES,
        }
        self._pipeline: Any = _graph(self._feed, work.sizes, INTERPOLATIONS[work.recipe.interpolation], **options)
        self._pipeline.build()

    def run(self, indices: Sequence[int]) -> dict[str, float]:
        """Make all views of these images, normalised float32, one tensor per view and batch."""
        for _ in self._batches(indices):
            pass
        return {}

    def views(self, index: int) -> list[np.ndarray]:
        """Return the views of one image as grey levels."""
        (views,) = self._batches([index])
        return [grey_levels(np.array(view)[0]) for view in views]

    def _batches(self, indices: Sequence[int]) -> Iterator[list[Any]]:
        """Yield the views of each batch, [N, S, S, 3] each, valid until the next one."""
        starts = range(0, len(indices), self._batch_size)
        self._waiting = [indices[start : start + self._batch_size] for start in starts]
        while True:
            try:
                outputs = self._pipeline.run()
            except StopIteration:
                self._pipeline.reset()
                return
            yield [output.as_tensor() for output in outputs]

    def _feed(self) -> list[Any]:
        """Give DALI the next batch: JPEGs, then ten arguments per view."""
        if not self._waiting:
            raise StopIteration
        indices = list(self._waiting.pop(0))
        fields = [arguments[field][indices] for arguments in self._arguments for field in FIELDS]
        return [[self._jpegs[index] for index in indices], *fields]


def prepare(work: Work) -> Dali:
    """Build the pipeline."""
    return Dali(work)


def _arguments(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the operators of one view want, an array [images, ...] per field."""
    top, left = rows["top"].astype(np.float32), rows["left"].astype(np.float32)
    bottom, right = top + rows["height"].astype(np.float32), left + rows["width"].astype(np.float32)
    flip, gray = rows["flip"], rows["gray"]
    is_jittered = (rows["brightness"] != 1) | (rows["contrast"] != 1) | (rows["saturation"] != 1) | (rows["hue"] != 0)
    return {
        # A region of interest that runs backwards mirrors the view.
        "start": np.stack([top, np.where(flip, right, left)], 1),
        "end": np.stack([bottom, np.where(flip, left, right)], 1),
        "jitter": is_jittered | gray,
        "brightness": rows["brightness"],
        "contrast": rows["contrast"],
        "saturation": np.where(gray, np.float32(0), rows["saturation"]),
        "hue": rows["hue"] * np.float32(360),
        "blurs": rows["blur_sigma"] > 0,
        "sigma": rows["blur_sigma"],
        "solarize": rows["solarize"],
    }


@pipeline_def(enable_conditionals=True)
def _graph(feed: Any, sizes: list[int], interpolation: Any) -> tuple[Any, ...]:
    jpegs, *fields = fn.external_source(feed, num_outputs=1 + len(FIELDS) * len(sizes), batch=True, no_copy=True)
    image = fn.decoders.image(jpegs, device="cpu", output_type=types.RGB, adjust_orientation=False)
    views = []
    for number, size in enumerate(sizes):
        row = {name: fields[number * len(FIELDS) + place] for place, name in enumerate(FIELDS)}
        views.append(_view(image, row, size, interpolation))
    return tuple(views)


def _view(image: Any, row: dict[str, Any], size: int, interpolation: Any) -> Any:
    view = fn.resize(
        image,
        size=[size, size],
        roi_start=row["start"],
        roi_end=row["end"],
        interp_type=interpolation,
        antialias=True,
    )
    if row["jitter"]:
        view = fn.color_twist(
            view,
            brightness=row["brightness"],
            contrast=row["contrast"],
            saturation=row["saturation"],
            hue=row["hue"],
        )
    if row["blurs"]:
        view = fn.gaussian_blur(view, sigma=row["sigma"])
    if row["solarize"]:
        view = fn.lookup_table(view, keys=list(range(256)), values=SOLARIZED, dtype=types.UINT8)
    mean, deviation = [255 * m for m in IMAGENET_MEAN], [255 * s for s in IMAGENET_STD]
    return fn.crop_mirror_normalize(view, dtype=types.FLOAT, output_layout="HWC", mean=mean, std=deviation)
