"""The backend on stock FFCV: what is its own. What it shares with the others is in test_loader."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines import decode, sampler
from pipelines.beton import Beton
from pipelines.build import build_loader
from pipelines.config import CropConfig, PhotometricConfig, ViewsConfig, evaluation_views, supervised_views
from pipelines.contract import Batch, Loader

ffcv = pytest.mark.extra("ffcv")
NUM_IMAGES = 12


def alive() -> set[str]:
    """Return the kinds of threads that run."""
    return {type(thread).__name__ for thread in threading.enumerate()}


@pytest.fixture(scope="module")
def centered(tiny_beton: Path) -> Iterator[Loader]:
    """Return a loader of whole images resized to 32 pixels, the second of two ranks, with a short last batch."""
    loader = build_loader(
        tiny_beton,
        evaluation_views(32, center_share=1.0),
        batch_size=4,
        backend="ffcv",
        rank=1,
        world_size=2,
        drop_last=False,
        shuffle=False,
        num_threads=1,
    )
    yield loader
    loader.close()


@ffcv
def test_views_are_the_images_that_index_names(centered: Loader, tiny_beton: Path):
    """Against our own decoder and OpenCV's INTER_AREA; FFCV's fast DCT costs a level or two."""
    centered.set_epoch(0)
    batches = list(centered)
    assert [batch.index.tolist() for batch in batches] == [[1, 3, 5, 7], [9, 11]]
    beton = Beton(tiny_beton)
    for batch in batches:
        for index, view in zip(batch.index.tolist(), batch.large[0].numpy(), strict=True):
            pixels = decode.reference(beton, index)
            side = min(pixels.shape[:2])
            top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
            square = pixels[top : top + side, left : left + side]
            expected = cv2.resize(square, (32, 32), interpolation=cv2.INTER_AREA)
            assert np.abs(view.astype(int) - expected).mean() < 2
            assert batch.label[batch.index.tolist().index(index)] == beton.labels[index]


@ffcv
def test_a_rank_without_a_share_gets_an_empty_batch(centered: Loader):
    state = {**centered.state_dict(), "epoch": 0, "position": 11}
    centered.load_state_dict(state)
    batches = list(centered)
    assert [batch.large[0].shape for batch in batches] == [(0, 32, 32, 3)]
    assert centered.state_dict()["position"] == NUM_IMAGES


@ffcv
def test_an_abandoned_iterator_leaves_no_thread(centered: Loader):
    for taken in (0, 1, 2):  # two batches: FFCV's own thread would stay at the end of its queue
        centered.set_epoch(0)
        iterator = iter(centered)
        for _ in range(taken):
            next(iterator)
        iterator.close()
        assert "EpochIterator" not in alive()


@ffcv
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_an_error_and_no_hang(centered: Loader, monkeypatch: pytest.MonkeyPatch):
    def broken(**arguments):
        raise OSError("the disk is gone")

    monkeypatch.setattr(centered._stock, "code", ([(broken, [])], []))
    centered.set_epoch(0)
    with pytest.raises(RuntimeError, match="thread ended before its last batch"):
        next(iter(centered))


@ffcv
def test_torch_keeps_its_threads(centered: Loader):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)  # FFCV was given one
    try:
        centered.set_epoch(0)
        list(centered)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@ffcv
def test_buffers_that_do_not_fit_are_named(centered: Loader, monkeypatch: pytest.MonkeyPatch):
    def no_memory(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(centered._stock.graph, "allocate_memory", no_memory)
    centered.set_epoch(0)
    with pytest.raises(ValueError, match=r"tiny\.beton: ffcv cannot allocate 0\.0 GB .*lower batch_size") as raised:
        next(iter(centered))
    assert "\n" not in str(raised.value)


def view_of(batches: list[Batch], index: int) -> bytes:
    """Return the first large view of an image."""
    return next(b.large[0][b.index == index].numpy().tobytes() for b in batches if index in b.index)


@ffcv
def test_random_views_follow_the_order_but_not_the_seed(tiny_beton: Path):
    loader = build_loader(tiny_beton, supervised_views(24), batch_size=6, seed=2, backend="ffcv", num_threads=1)
    try:
        batches = list(loader)
        indices = torch.cat([batch.index for batch in batches]).numpy()
        np.testing.assert_array_equal(indices, sampler.order(NUM_IMAGES, seed=2, epoch=0))
        assert all(batch.large[0].shape == (6, 24, 24, 3) for batch in batches)
        loader.set_epoch(0)
        # FFCV's generators are not seeded: the same image of the same epoch, another view.
        assert view_of(list(loader), 0) != view_of(batches, 0)
    finally:
        loader.close()
    assert "EpochIterator" not in alive()


@ffcv
def test_each_view_has_a_pipeline_of_what_ffcv_can_do(tiny_beton: Path):
    """Not run here: numba compiles each operation of each view anew, for twenty seconds."""
    recipe = ViewsConfig(
        large=CropConfig(count=1, size=24, area=(0.2, 0.9)),
        small=CropConfig(count=1, size=8, placement="center", center_share=1.0),
        photometric=PhotometricConfig(flip=0.4, jitter_chance=0.7, brightness=0.1, contrast=0.2, saturation=0.3),
    )
    loader = build_loader(tiny_beton, recipe, batch_size=2, backend="ffcv")
    large, small = (loader._stock.pipeline_specs[name] for name in ("large 0", "small 0"))
    loader.close()
    assert (large.decoder.output_size, large.decoder.scale, large.decoder.ratio) == (
        (24, 24),
        (0.2, 0.9),
        (3 / 4, 4 / 3),
    )
    assert (small.decoder.output_size, small.decoder.ratio) == ((8, 8), 1.0)
    for spec in (large, small):
        flip, *jitter, to_tensor = spec.transforms
        assert flip.flip_prob == 0.4
        assert [(type(operation).__name__, operation.magnitude, operation.p) for operation in jitter] == [
            ("RandomBrightness", 0.1, 0.7),
            ("RandomContrast", 0.2, 0.7),
            ("RandomSaturation", 0.3, 0.7),
        ]
        assert type(to_tensor).__name__ == "ToTensor"


@ffcv
@pytest.mark.parametrize(
    ("recipe", "left_out"),
    [
        (ViewsConfig(), "hue, grayscale, blur, solarize, background"),
        (supervised_views(32), "nothing"),
        (ViewsConfig(photometric=PhotometricConfig(hue=0, blur=(0, 0), grayscale=0)), "solarize, background"),
    ],
)
def test_what_ffcv_leaves_out_is_said_once(tiny_beton: Path, tiny_masks: Path, capsys, recipe, left_out: str):
    loaders = [
        build_loader(tiny_beton, recipe, batch_size=2, backend="ffcv", masks=tiny_masks, rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    for loader in loaders:
        loader.close()
    assert capsys.readouterr().err == (
        f"warning: backend ffcv is a baseline with random views of its own; of this recipe it leaves out {left_out}\n"
    )


@ffcv
def test_a_centre_crop_of_nothing_is_refused(tiny_beton: Path):
    with pytest.raises(ValueError, match=r"tiny\.beton: ffcv rounds the centre crop of image 4 \(shorter side 1\)"):
        build_loader(tiny_beton, evaluation_views(32), batch_size=2, backend="ffcv")


def test_a_missing_ffcv_is_one_line(tiny_beton: Path):
    program = f"""
import sys
sys.modules["ffcv"] = None
from pipelines.build import build_loader
from pipelines.config import evaluation_views
try:
    build_loader({str(tiny_beton)!r}, evaluation_views(32), batch_size=2, backend="ffcv")
except ValueError as error:
    print(error)
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("backend 'ffcv' needs ffcv, which does not import")
    assert printed.count("\n") == 1
