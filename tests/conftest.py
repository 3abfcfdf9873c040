"""Fixtures shared by all tests, and the rules of skipping."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRA_MODULES = {"ffcv": "ffcv", "dali": "nvidia.dali"}


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
