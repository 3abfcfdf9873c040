"""`relic data synthetic`: write the embedded data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from relic import cores


def synthetic(
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    train: int = 5000,
    test: int = 1000,
    seed: int = 0,
    correlation: float = 0.9,
    workers: int | None = None,
) -> None:
    """Write the embedded data set of photograph-like images, with true masks.

    Image folders OUT/train, OUT/test (each class mostly on its own kind of background), OUT/test_shifted (on
    any), with the true masks in OUT/train_masks and so on. Same seed, same bytes.

    Args:
        out: Folder to write into.
        train: Training images.
        test: Test images, and as many shifted ones.
        seed: Seed of everything.
        correlation: Share of train and test images on their class's own background.
    """
    import time

    from pipelines.datasets.synthetic import SPLITS, write_dataset
    from relic.console import Progress

    if min(train, test) < 1:
        raise ValueError(f"--train {train} --test {test}: give at least 1 of each")
    workers = cores.available() if workers is None else workers
    numbers = {"train": train, "test": test, "test_shifted": test}
    start = time.perf_counter()
    with Progress("synthetic images", sum(numbers.values())) as progress:
        for split in SPLITS:
            write_dataset(
                out,
                split=split,
                num_images=numbers[split],
                seed=seed,
                correlation=correlation,
                workers=workers,
                on_progress=progress.advance,
            )
    seconds = time.perf_counter() - start
    for split, number in numbers.items():
        print(f"{out / split}: {number:,} images")
    print(f"{sum(numbers.values()) / seconds:,.0f} images/s with {workers} workers")
