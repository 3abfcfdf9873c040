"""How long the interpreter's lock is held per image: what bounds the images/s of one process, whatever its threads."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from pathlib import Path

IMAGES, BATCH_SIZE, PASSES = 2048, 64, 5


def microseconds_per_image() -> float:
    """Return an upper bound: the time of a whole loader whose pixels cost nothing.

    Images of 8 x 8 pixels, six views of one pixel, one thread. Everything else is there: order, table, masks, futures,
    the calls of decoder and engine with their buffers, the batch. All of it is counted as if it held the lock.
    """
    import numpy as np
    from PIL import Image

    from pipelines.beton import Beton
    from pipelines.build import build_loader
    from pipelines.config import CropConfig, ViewsConfig
    from pipelines.prepare.convert import ConvertConfig, convert
    from saliency.store import MaskStoreWriter

    recipe = ViewsConfig(large=CropConfig(count=4, size=1), small=CropConfig(count=2, size=1, area=(0.05, 0.25)))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for index in range(IMAGES):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file, "JPEG")
            (folder / "images" / f"{index:05d}.jpg").write_bytes(file.getvalue())
        convert(folder / "images", folder / "images.beton", config=ConvertConfig())
        masks = folder / "images.masks"
        with Beton(folder / "images.beton") as beton, MaskStoreWriter(masks, IMAGES, beton.fingerprint()) as writer:
            for index in range(IMAGES):
                writer.write(index, np.eye(128, dtype=bool))
        loader = build_loader(folder / "images.beton", recipe, batch_size=BATCH_SIZE, masks=masks, num_threads=1)
        try:
            seconds = []
            for epoch in range(PASSES + 1):  # the first warms up
                loader.set_epoch(epoch)
                start = time.perf_counter()
                for _ in loader:
                    pass
                seconds.append(time.perf_counter() - start)
        finally:
            loader.close()
    return statistics.median(seconds[1:]) / IMAGES * 1e6
