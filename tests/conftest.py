"""Fixtures shared by all tests, and the rules of skipping."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

ROOT = Path(__file__).parent.parent
EXTRA_MODULES = {
    "ffcv": "ffcv",
    "dali": "nvidia.dali",
    "albumentations": "albumentations",
    "kornia": "kornia",
    "lightly": "lightly",
    "engine": "pipelines.engine.native",
    "triton": "triton",
    "ray": "ray",
    "pysodmetrics": "py_sod_metrics",
}
"""Name in the marker `extra` -> what must import."""

# Stock FFCV runs numba's parallel loops, and numba's TBB layer can wait for ever when the process exits (docs/ffcv.md).
os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask PyPI for its newest version when it is imported

# A busy machine is no failure: examples may take as long as they take.
settings.register_profile("relic", deadline=None)
settings.load_profile("relic")

TINY_IMAGES = {
    "ant/0.jpg": ("RGB", 333, 500),
    "ant/1.jpg": ("RGB", 150, 211),
    "ant/2.jpg": ("L", 64, 64),
    "ant/3.jpg": ("RGB", 20, 30),
    "bee/0.jpg": ("RGB", 1, 1),
    "bee/1.jpg": ("RGB", 1, 40),
    "bee/2.jpg": ("RGB", 37, 1),
    "bee/3.jpg": ("RGB", 97, 41),
    "bee/4.png": ("RGB", 45, 60),  # stored as pixels
    "cow/0.jpg": ("L", 31, 33),
    "cow/1.jpg": ("RGB", 8, 300),
    "cow/2.jpg": ("RGB", 224, 224),
}
"""Name -> mode, height, width of the images of `tiny_beton`, in their order."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder with imagenet500/, masks80/ and cifar10_train.zip."""
    folder = Path(os.environ.get("RELIC_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is missing (set RELIC_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def imagenet_files(shared_data: Path) -> list[Path]:
    """Return the 500 real ImageNet JPEGs, sorted."""
    return sorted((shared_data / "imagenet500").glob("*/*.JPEG"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("extra"):
        try:
            importlib.import_module(EXTRA_MODULES[marker.args[0]])
        except ImportError as error:
            required = os.environ.get("RELIC_REQUIRED_EXTRAS", "").split(",")
            outcome = pytest.fail if marker.args[0] in required else pytest.skip
            outcome(f"extra {marker.args[0]} does not import: {error}")


@pytest.fixture(scope="session")
def tiny_beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a beton of a dozen images of odd shapes in three classes."""
    from pipelines.prepare.convert import ConvertConfig, convert

    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    for name, (mode, height, width) in TINY_IMAGES.items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.convert(mode).save(path, quality=92)
    convert(folder / "images", folder / "tiny.beton", config=ConvertConfig())
    return folder / "tiny.beton"


@pytest.fixture(scope="session")
def tiny_masks(tiny_beton: Path) -> Path:
    """Return a mask store of `tiny_beton`: an ellipse per image, none for images 2 and 5."""
    from pipelines.beton import Beton
    from saliency.store import MaskStoreWriter

    path = tiny_beton.with_suffix(".masks")
    with Beton(tiny_beton) as beton, MaskStoreWriter(path, len(beton), beton.fingerprint()) as writer:
        y, x = (np.mgrid[0:128, 0:128] + 0.5) / 128
        for index in set(range(len(beton))) - {2, 5}:
            distance = ((y - 0.4 - 0.02 * index) / 0.3) ** 2 + ((x - 0.5) / 0.25) ** 2
            writer.write(index, distance < 1)
    return path


@pytest.fixture(scope="session")
def tiny_plates(tiny_beton: Path) -> Path:
    """Return three background plates, uint8 [3, 40, 50, 3]."""
    path = tiny_beton.with_suffix(".plates.npy")
    coarse = np.random.default_rng(1).integers(0, 256, (3, 5, 5, 3), np.uint8)
    np.save(path, coarse.repeat(8, axis=1).repeat(10, axis=2))
    return path
