"""`relic masks infer`: joins the saliency priors, which know images, to a beton and its mask store."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from relic import cores

if TYPE_CHECKING:
    import numpy as np

    from pipelines.beton import Beton

CHUNK = 32  # images a worker takes at a time
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


# index, mask bits, coverage, reason of rejection
Packed = tuple[int, "np.ndarray | None", float, "str | None"]


def infer(
    beton: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE.beton")],
    out: Path | None = None,
    prior: str = "mbd",
    workers: int | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Make label-free saliency masks of all images of a beton.

    Args:
        beton: Images, a .beton file.
        out: Mask store to write; by default the beton's name ending in .masks.
        prior: Handcrafted saliency prior: mbd (minimum barrier distance).
        workers: Processes; by default one per core. The bytes written are the same for any number.
        overwrite: Replace a mask store that is there already.
        json: Print the summary as JSON.
    """
    import time
    from collections import Counter
    from json import dumps

    import numpy as np

    from pipelines.beton import Beton
    from relic.console import Progress
    from saliency.priors import find_prior
    from saliency.store import SIDE, MaskStoreWriter

    out = beton.with_suffix(".masks") if out is None else out
    workers = cores.available() if workers is None else workers
    if workers < 1:
        raise ValueError(f"--workers is {workers}: give at least 1")
    find_prior(prior)
    rejected: Counter[str] = Counter()
    coverages: list[float] = []
    with Beton(beton) as images:
        _check_free(out, beton, overwrite)
        start = time.perf_counter()
        with (
            MaskStoreWriter(out, images.num_images, images.fingerprint()) as store,
            Progress("masks", images.num_images) as progress,
        ):
            for chunk in _chunks(images, prior, workers):
                for index, bits, coverage, reason in chunk:
                    if bits is None:
                        rejected[str(reason)] += 1
                        store.write(index, None)
                    else:
                        coverages.append(coverage)
                        store.write(index, np.unpackbits(bits).view(np.bool_).reshape(SIDE, SIDE))
                progress.advance(len(chunk))
        seconds = time.perf_counter() - start

    quantiles = np.quantile(coverages, QUANTILES).tolist() if coverages else []
    summary = {
        "masks_file": str(out),
        "prior": prior,
        "images": sum(rejected.values()) + len(coverages),
        "masks": len(coverages),
        "rejected": dict(sorted(rejected.items())),
        "coverage_quantiles": {str(level): share for level, share in zip(QUANTILES, quantiles, strict=False)},
        "images_per_second": (sum(rejected.values()) + len(coverages)) / seconds,
        "workers": workers,
    }
    print(dumps(summary) if json else _table(summary))


def _check_free(out: Path, beton: Path, overwrite: bool) -> None:
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.exists():
        if out.samefile(beton):
            raise ValueError(f"--out {out} is the beton itself: give another name")
        if not overwrite:
            raise FileExistsError(f"{out} exists: give --overwrite to replace it or --out for another name")


def _table(summary: dict) -> str:
    """Lay the summary out for people."""
    rejected = summary["rejected"]
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in rejected.items())
    lines = [
        f"{summary['masks_file']}",
        f"  masks     {summary['masks']:,} of {summary['images']:,} images, prior {summary['prior']}",
        f"  rejected  {sum(rejected.values()):,}" + (f" ({reasons})" if reasons else ""),
    ]
    if summary["coverage_quantiles"]:
        quantiles = summary["coverage_quantiles"].items()
        shares = "   ".join(f"{float(level):.0%}: {share:.0%}" for level, share in quantiles)
        lines.append(f"  coverage  {shares}   (quantile: salient share of the image)")
    lines.append(f"  rate      {summary['images_per_second']:,.1f} images/s, {summary['workers']} workers")
    return "\n".join(lines)


def _chunks(images: Beton, prior: str, workers: int) -> Iterator[list[Packed]]:
    """Infer all images of a beton, chunk by chunk in order, in this process or in a pool."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    last = images.num_images
    chunks = [range(start, min(start + CHUNK, last)) for start in range(0, last, CHUNK)]
    if workers == 1 or len(chunks) == 1:
        yield from (_infer_chunk(images, prior, chunk) for chunk in chunks)
        return
    # spawn: a fork copies the locks of this process's threads (the progress bar has one)
    pool = ProcessPoolExecutor(min(workers, len(chunks)), get_context("spawn"), initializer=_one_thread)
    try:
        yield from pool.map(functools.partial(_infer_chunk_of, images.path, prior), chunks)
    except BrokenProcessPool as error:
        raise OSError(f"a worker on {images.path} died (out of memory?): give fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)  # the processes fill the cores


def _infer_chunk_of(path: Path, prior: str, indices: range) -> list[Packed]:
    return _infer_chunk(_opened(path), prior, indices)


@functools.lru_cache(maxsize=1)
def _opened(path: Path) -> Beton:
    """Open a beton once per worker, not per chunk: the tables of a million images are large."""
    from pipelines.beton import Beton

    return Beton(path)


def _infer_chunk(images: Beton, prior: str, indices: range) -> list[Packed]:
    """Decode and infer some images; a damaged one is rejected, so that it does not cost the others."""
    import numpy as np

    from pipelines import decode
    from saliency.infer import infer as infer_masks
    from saliency.priors import find_prior

    damaged: list[int] = []

    def decoded() -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            try:
                image = decode.fused(images, index)
            except ValueError:
                damaged.append(index)
                continue
            yield index, image

    inferred: list[Packed] = [
        (index, None if mask is None else np.packbits(mask), coverage, reason)
        for index, mask, coverage, reason in infer_masks(decoded(), find_prior(prior))
    ]
    return inferred + [(index, None, 0.0, "does not decode") for index in damaged]
