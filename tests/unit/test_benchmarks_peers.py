"""Peers make the views that the rows ask for: their figures are for the same work."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import pytest
import torch
from making import encoded

from benchmarks import parity
from benchmarks.providers import PROVIDERS
from benchmarks.work import Provider, Work, benchmark_recipe, draw_rows

# torchvision 0.29 deprecates its own JPEG decoder, which v2 users still call.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")

SIZES = [(150, 211), (297, 241), (320, 480)]
ALL_OPERATIONS = {
    "torchvision": 2.0,  # 8 bits after each operation: up to a grey level each
    "torchvision-v2": 2.0,
    "albumentations": 2.5,  # area where it shrinks
    "kornia": 2.5,  # another antialiasing
}
"""Bound of the mean absolute error in grey levels; for the worst view twice that."""


@pytest.fixture(autouse=True)
def _threads_kept() -> Iterator[None]:
    """Give this process its thread pools back: providers have a process of their own, except here."""
    threads, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(of_opencv)


def prepared(name: str, **photometric: Any) -> tuple[Work, Provider]:
    """Return a provider and its work, with some of the recipe's chances and strengths changed."""
    recipe = benchmark_recipe("torchvision")
    recipe = replace(recipe, photometric=replace(recipe.photometric, **photometric))
    jpegs = [encoded(height, width, seed, quality=92) for seed, (height, width) in enumerate(SIZES)]
    rows = draw_rows(recipe, 0, SIZES)
    work = Work(jpegs=jpegs, recipe=recipe, rows=rows, seed=0, threads=1, output="float32", batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, when they are imported
        module = importlib.import_module(f"benchmarks.providers.{PROVIDERS[name].module}")
        return work, module.prepare(work)


def measured(name: str, **photometric: Any) -> dict[str, Any]:
    work, provider = prepared(name, **photometric)
    provider.run(range(len(SIZES)))  # batches first: what they leave behind must not show in the views
    found = parity.measure(work, provider, range(len(SIZES)))
    assert found is not None
    return found


OPTIONAL = ("albumentations", "kornia")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.extra(n)) if n in OPTIONAL else n for n in ALL_OPERATIONS]
)
def test_views_are_those_of_the_rows(name):
    found = measured(name)
    assert found["mean_abs_error"] < ALL_OPERATIONS[name]
    assert found["worst_mean_abs_error"] < 2 * ALL_OPERATIONS[name]


@pytest.mark.extra("dali")
def test_dali_makes_the_same_views_but_for_its_colour_matrix():
    found = measured("dali-cpu", jitter_chance=0.0, grayscale=0.5, blur=(0.5, 0.5), solarize=(0.3, 0.3))
    assert found["mean_abs_error"] < 0.5
    assert found["worst_mean_abs_error"] < 1.0


@pytest.mark.extra("dali")
def test_dali_jitters_brightness_and_saturation_as_the_rows_say():
    found = measured("dali-cpu", contrast=0.0, hue=0.0, brightness=0.2)
    assert found["mean_abs_error"] < 1.5


@pytest.mark.extra("lightly")
def test_lightly_draws_its_own_numbers():
    work, provider = prepared("lightly")
    assert provider.run(range(len(SIZES))).keys() == {"decode", "views"}
    assert parity.measure(work, provider, [0]) is None
    assert "its own numbers" in provider.note
