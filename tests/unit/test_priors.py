"""The saliency priors together, and minimum barrier distance: against plain transcriptions, edge cases, and quality on
known masks.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import pytest
from objects import contrast_of, disc, image_of
from PIL import Image

from pipelines.datasets.synthetic import render
from saliency import priors
from saliency.infer import binary_mask, by_priors
from saliency.priors import DEFAULT, PRIORS, find_priors, levelled, mbd, saliency
from saliency.priors.mbd import _barrier_distance, _grown_under
from saliency.priors.scene import of_image
from saliency.quality import BETA_SQUARED, precision_recall, scores


def test_barrier_of_a_plateau_and_of_the_hollow_in_it():
    values = np.zeros((12, 14), np.float32)
    values[3:9, 4:11] = 10
    values[5:7, 6:9] = 4  # every way out climbs to 10
    distance = _barrier_distance(values, 3)
    np.testing.assert_array_equal(distance, np.where(np.pad(np.ones((6, 7)), ((3, 3), (4, 3))) > 0, 10, 0))


def test_three_passes_follow_a_corridor_that_turns():
    values = np.full((9, 9), 10, np.float32)
    # in from the left edge, right, down, left and up again: every pass is wanted
    values[2, :7] = values[2:7, 6] = values[6, 2:7] = values[4:7, 2] = 0
    values[[0, -1]] = values[:, [0, -1]] = 0
    assert _barrier_distance(values, 1)[4, 2] == 10
    assert _barrier_distance(values, 3)[4, 2] == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 5), (3, 3), (17, 23)])
def test_barrier_distance_against_a_plain_transcription(shape):
    rng = np.random.default_rng(shape[1])
    values = rng.integers(0, 256, shape).astype(np.float32)
    np.testing.assert_array_equal(_barrier_distance(values, 3), _transcription(values, 3))


def _transcription(values: np.ndarray, passes: int) -> np.ndarray:
    """Algorithm 1 of the paper with paths kept as (high, low)."""
    height, width = values.shape
    inner = [(y, x) for y in range(1, height - 1) for x in range(1, width - 1)]
    path = {(y, x): (values[y, x], values[y, x]) for y in range(height) for x in range(width)}
    cost = {at: np.inf if at in set(inner) else 0 for at in path}
    for turn in range(passes):
        ahead = turn % 2 == 0
        for y, x in inner if ahead else inner[::-1]:
            for neighbour in [(y - 1, x), (y, x - 1)] if ahead else [(y + 1, x), (y, x + 1)]:
                high, low = max(path[neighbour][0], values[y, x]), min(path[neighbour][1], values[y, x])
                if high - low < cost[y, x]:
                    cost[y, x], path[y, x] = high - low, (high, low)
    return np.array([[cost[y, x] for x in range(width)] for y in range(height)], np.float32)


def test_reconstruction_is_repeated_dilation_under_the_ceiling():
    rng = np.random.default_rng(1)
    ceiling = cv2.GaussianBlur(rng.random((31, 40), dtype=np.float32), (0, 0), 1.2)
    seed = cv2.erode(ceiling, np.ones((5, 5), np.uint8))
    expected = seed
    for _ in range(sum(seed.shape) * 4):
        cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
        expected = np.minimum(cv2.dilate(expected, cross), ceiling)
    grown = _grown_under(seed, ceiling)
    np.testing.assert_array_equal(grown, expected)
    assert (grown > seed).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 3), (7, 5), (400, 20), (90, 130), (333, 500)])
def test_any_size_gives_a_map_of_that_size(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    given = image.copy()
    saliency = of_image(mbd.of_scene, image)
    assert saliency.shape == shape
    assert saliency.dtype == np.float32
    assert 0 <= saliency.min() <= saliency.max() <= 1
    np.testing.assert_array_equal(image, given)


def test_one_colour_has_no_salience():
    assert not of_image(mbd.of_scene, np.full((50, 60, 3), 90, np.uint8)).any()


@pytest.mark.parametrize("side", [120, 480])
@pytest.mark.parametrize("corner", [(30, 40), (66, 40)])  # amid the image; standing on its lower edge
def test_a_square_stands_out_even_where_it_touches_the_border(side, corner):
    scale = side // 120
    rng = np.random.default_rng(2)
    image = rng.normal((90, 120, 70), 8, (side, side, 3))
    inside = np.zeros((side, side), bool)
    inside[corner[0] * scale : (corner[0] + 54) * scale, corner[1] * scale : (corner[1] + 45) * scale] = True
    image[inside] += (90, -40, 60)
    saliency = of_image(mbd.of_scene, image.clip(0, 255).astype(np.uint8))
    assert saliency[inside].mean() > 0.5 > 0.2 > saliency[~inside].mean()


def test_an_object_in_a_colour_of_the_border_stands_out_by_its_barrier():
    image = np.zeros((150, 150, 3), np.uint8)
    image[:, :75], image[:, 75:] = (160, 60, 60), (60, 140, 60)
    image[55:95, 90:130] = (160, 60, 60)
    saliency = of_image(mbd.of_scene, image)
    assert saliency[60:90, 95:125].mean() > 3 * saliency[60:90, 20:50].mean()


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match=r"is uint8 \[H, W, 3\]"):
        of_image(mbd.of_scene, image)


# ---- several priors -----------------------------------------------------------------------------------------


def test_priors_by_their_names():
    assert set(DEFAULT) == set(PRIORS)
    assert find_priors("mc, mbd") == find_priors(["mc", "mbd"]) == {"mc": PRIORS["mc"], "mbd": PRIORS["mbd"]}
    assert list(find_priors("mc,mbd")) == ["mc", "mbd"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("mdb", "unknown saliency prior 'mdb': did you mean 'mbd'"),
        ("mbd,", "unknown saliency prior ''"),
        ("mbd,mc,mbd", "'mbd, mc, mbd': give each once"),
        ([], "give each once"),
    ],
)
def test_names_that_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        find_priors(names)


def test_the_map_of_several_is_their_mean(monkeypatch):
    """Whose threshold is half of the largest value here: it stays as it is."""
    left, top = np.zeros((40, 60), np.float32), np.zeros((40, 60), np.float32)
    left[:, :30], top[:20] = 1, 1
    monkeypatch.setattr(priors, "PRIORS", {"left": lambda scene: left, "top": lambda scene: top})
    found = saliency(np.zeros((40, 60, 3), np.uint8), ["left", "top"])
    assert found[0, 0] == 1
    assert found[-1, -1] == 0
    assert found[0, -1] == found[-1, 0]
    np.testing.assert_array_equal(saliency(np.zeros((40, 60, 3), np.uint8), "left"), left)


@pytest.mark.parametrize("shape", [(90, 130), (450, 600), (7, 5), (1, 1)])
def test_the_map_of_all_has_the_size_of_the_image(shape):
    image = image_of(disc(*shape, (0.5 * shape[0], 0.5 * shape[1]), 0.3 * min(shape)), noise=6)
    given = image.copy()
    found = saliency(image)
    assert found.shape == shape
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
    np.testing.assert_array_equal(image, given)


def test_a_disc_stands_out_for_all_together():
    inside = disc(160, 200, (70, 110), 38)
    salient, rest = contrast_of(saliency(image_of(inside, noise=6)), inside)
    assert salient > 0.8 > 0.1 > rest


def test_nothing_of_a_frame_is_salient():
    inside = disc(160, 200, (80, 100), 40)
    image = np.zeros((180, 220, 3), np.uint8)
    image[10:-10, 10:-10] = image_of(inside, noise=6)
    found = saliency(image)
    assert not np.r_[found[:9].ravel(), found[-9:].ravel(), found[:, :9].ravel(), found[:, -9:].ravel()].any()
    assert found[10:-10, 10:-10][inside].mean() > 0.8


def test_one_colour_has_no_salience_for_any():
    assert not saliency(np.full((50, 60, 3), 90, np.uint8)).any()


# ---- the threshold ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("high", "low"), [(0.4, 0.15), (0.9, 0.6), (0.05, 0.0)])
def test_the_threshold_between_object_and_background_becomes_one_half(high, low):
    rng = np.random.default_rng(0)
    inside = np.zeros((400, 200), bool)
    inside[:310, :155] = True
    noise = rng.normal(0, (high - low) / 12, inside.shape)
    found = levelled(np.clip(np.where(inside, high, low) + noise, 0, 1).astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found >= 0.5, inside)
    assert found.max() == 1


def test_levelling_keeps_the_order_of_the_values():
    values = np.random.default_rng(0).random((30, 40)).astype(np.float32) ** 2
    found = levelled(values)
    order = np.argsort(values.ravel(), kind="stable")
    assert (np.diff(found.ravel()[order]) >= 0).all()
    np.testing.assert_allclose(levelled(values * np.float32(0.5)), found, atol=0.03)  # 8-bit thresholds


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_map_without_contrast_is_nowhere_salient(value):
    assert not levelled(np.full((20, 20), value, np.float32)).any()
    nearly = np.full((20, 20), 0.5, np.float32)
    nearly[:10] += np.float32(0.005)  # one level of 255: rounding
    assert not levelled(nearly).any()


# ---- quality ------------------------------------------------------------------------------------------------


# Mean IoU with the true masks: .659 and .766, the best of these centred blobs .413, all ones .208.
@pytest.mark.parametrize(("names", "bar"), [(["mbd"], 0.58), (DEFAULT, 0.7)])
def test_masks_of_synthetic_images_beat_a_blob_and_all_ones(names, bar):
    ious, blobs, ones = [], [], []
    method = by_priors(names)
    for index in range(60):
        image, truth, _ = render(index, split="train", seed=11)
        truth = cv2.resize(truth.astype(np.uint8), (128, 128), interpolation=cv2.INTER_NEAREST) > 0
        ious.append(scores(binary_mask(method([image])[0]), truth).iou)
        blobs.append([scores(blob, truth).iou for blob in BLOBS])
        ones.append(truth.mean())
    assert np.mean(ious) > bar
    assert np.mean(blobs, axis=0).max() < bar - 0.1
    assert np.mean(ones) < bar - 0.1


_Y, _X = np.mgrid[-1:1:128j, -1:1:128j]
BLOBS = [np.hypot(_Y, _X) < radius for radius in (0.3, 0.4, 0.5, 0.6, 0.7)]


# The public Python MBD reaches a max F of .737 on these, a centred Gaussian .594; all together .782.
@pytest.mark.realdata
@pytest.mark.parametrize(("method", "bar"), [(partial(of_image, mbd.of_scene), 0.71), (saliency, 0.76)])
def test_maps_of_real_images_are_as_good_as_published_code(shared_data, method, bar):
    curves = []
    for path in sorted((shared_data / "masks80").glob("*.png")):
        photo = shared_data / "imagenet500" / path.stem.split("_")[0] / f"{path.stem}.JPEG"
        image = np.array(Image.open(photo).convert("RGB"))
        truth = np.array(Image.open(path).convert("L").resize(image.shape[1::-1], Image.Resampling.NEAREST)) > 127
        curves.append(precision_recall(method(image), truth))
    assert len(curves) == 80
    precision, recall = np.mean(curves, axis=0)
    f = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall + 1e-9)
    assert f.max() > bar
