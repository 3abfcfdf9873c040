"""Images to stored masks: thresholding and rejection, and `relic masks infer` on a beton."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from pipelines import decode
from pipelines.beton import Beton
from pipelines.datasets.synthetic import render
from pipelines.prepare.writer import write_beton
from relic.cli import main
from saliency import priors
from saliency.infer import binary_mask, infer
from saliency.priors.mbd import minimum_barrier
from saliency.store import MaskStore

NUM_IMAGES = 40  # more than a chunk, so that two workers share


@pytest.fixture(scope="module")
def beton(tmp_path_factory):
    """Return a beton of synthetic JPEGs; image 5 is cut short, image 7 one colour, image 9 stored raw."""
    images: list = []
    for index in range(NUM_IMAGES):
        image = render(index, split="train", seed=0)[0]
        images.append(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())
    images[5] = images[5][: len(images[5]) // 2]
    images[7] = np.full((50, 60, 3), 120, np.uint8)
    images[9] = render(9, split="train", seed=0)[0]
    path = tmp_path_factory.mktemp("beton") / "small.beton"
    write_beton(path, images, [index % 10 for index in range(NUM_IMAGES)])
    return path


def run(*arguments) -> int:
    return main(["masks", "infer", *map(str, arguments)])


def test_the_command_stores_the_mask_of_every_image(beton, tmp_path, capsys):
    out = tmp_path / "small.masks"
    assert run(beton, "--out", out, "--workers", 1, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["images"] == NUM_IMAGES
    assert summary["masks"] == NUM_IMAGES - 2
    assert summary["rejected"] == {"does not decode": 1, "empty": 1}
    assert summary["images_per_second"] > 0
    with Beton(beton) as images, MaskStore(out) as store:
        store.check(images.fingerprint(), NUM_IMAGES)
        assert np.flatnonzero(store.absent).tolist() == [5, 7]
        for index in (0, 9, NUM_IMAGES - 1):
            expected = binary_mask(minimum_barrier(np.array(decode.fused(images, index))))
            np.testing.assert_array_equal(store.mask(index), expected)
        kept = store.masks(np.flatnonzero(~store.absent)).mean(axis=(1, 2))
    assert summary["coverage_quantiles"]["0.5"] == pytest.approx(np.median(kept))


def test_bytes_are_the_same_for_any_number_of_workers(beton, tmp_path, capsys):
    for workers in (1, 2):
        assert run(beton, "--out", tmp_path / f"{workers}.masks", "--workers", workers) == 0
    assert (tmp_path / "1.masks").read_bytes() == (tmp_path / "2.masks").read_bytes()
    shown = capsys.readouterr().out
    assert "38 of 40 images, prior mbd" in shown
    assert "2 (1 does not decode, 1 empty)" in shown


def test_the_default_name_stands_beside_the_beton_and_is_not_overwritten(beton, capsys, monkeypatch):
    monkeypatch.setitem(priors.PRIORS, "mbd", lambda image: image[..., 0] / np.float32(255))
    out = beton.with_suffix(".masks")
    assert run(beton, "--workers", 1) == 0
    first = out.read_bytes()
    monkeypatch.setitem(priors.PRIORS, "mbd", lambda image: 1 - image[..., 0] / np.float32(255))
    assert run(beton, "--workers", 1) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == first
    assert run(beton, "--workers", 1, "--overwrite") == 0
    assert out.read_bytes() != first


def test_nothing_is_left_behind_when_it_fails(beton, tmp_path, monkeypatch, capsys):
    def failing(image):
        raise OSError("no memory")

    monkeypatch.setitem(priors.PRIORS, "mbd", failing)
    assert run(beton, "--out", tmp_path / "x.masks", "--workers", 1) == 1
    assert "no memory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prior", "mdb"], "did you mean 'mbd'"),
        (["--workers", "0"], "--workers is 0"),
        (["--out", "{folder}/none/x.masks"], "there is no folder"),
        (["--out", "{beton}", "--overwrite"], "is the beton itself"),
    ],
)
def test_wrong_use_is_one_line_and_harms_nothing(beton, tmp_path, capsys, arguments, message):
    before = beton.read_bytes()
    assert run(beton, *[text.format(folder=tmp_path, beton=beton) for text in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert beton.read_bytes() == before


def test_a_missing_beton_is_named(tmp_path, capsys):
    assert run(tmp_path / "none" / "x.beton") == 1
    assert "x.beton: no such file" in capsys.readouterr().err


def _square(share: float) -> np.ndarray:
    """Make a map [400, 200] whose left upper part of that share is salient."""
    saliency = np.zeros((400, 200), np.float32)
    saliency[: round(400 * share**0.5), : round(200 * share**0.5)] = 1
    return saliency


@pytest.mark.parametrize(
    ("share", "reason"), [(0.0, "empty"), (0.005, "under 1 %"), (0.02, None), (0.85, None), (0.95, "over 90 %")]
)
def test_masks_of_no_use_are_rejected_with_the_reason(share, reason):
    image = np.zeros((400, 200, 3), np.uint8)
    (result,) = infer([(12, image)], lambda _: _square(share))
    assert result.index == 12
    assert result.reason == reason
    assert (result.mask is None) == (reason is not None)
    assert result.coverage == pytest.approx(share, abs=0.02)


def test_a_mask_keeps_the_place_of_the_object_and_has_the_size_of_the_store():
    mask = binary_mask(_square(0.25))
    assert mask.shape == (128, 128)
    assert mask.dtype == np.bool_
    assert mask[:64, :64].all()
    assert not mask[65:].any()
    assert not mask[:, 65:].any()


@pytest.mark.parametrize(("high", "low"), [(0.4, 0.15), (0.9, 0.6), (0.05, 0.0)])
def test_the_threshold_lies_between_object_and_background(high, low):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, (high - low) / 12, (400, 200))
    saliency = np.clip(np.where(_square(0.6) > 0, high, low) + noise, 0, 1)
    assert binary_mask(saliency.astype(np.float32)).mean() == pytest.approx(0.6, abs=0.02)


def test_a_map_without_contrast_gives_an_empty_mask():
    assert not binary_mask(np.full((200, 200), 0.5, np.float32)).any()


def test_large_maps_are_averaged_not_picked_from():
    saliency = np.ones((256, 256), np.float32)
    saliency[:, 1:128:2] = 0  # fine stripes on the left are half as salient as the right
    mask = binary_mask(saliency)
    assert mask[:, 64:].all()
    assert not mask[:, :64].any()


def test_small_maps_are_enlarged():
    mask = binary_mask(np.array([[0, 1], [0, 1]], np.float32))
    assert mask[:, 70:].all()
    assert not mask[:, :58].any()


def test_images_come_out_in_the_order_they_went_in():
    images = [(index, np.full((10, 10, 3), index, np.uint8)) for index in (4, 2, 9)]
    seen = []

    def prior(image):
        seen.append(int(image[0, 0, 0]))
        return _square(0.25)

    assert [result.index for result in infer(images, prior)] == [4, 2, 9]
    assert seen == [4, 2, 9]
