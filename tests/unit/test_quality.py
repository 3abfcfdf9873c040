"""The measures of saliency maps against values worked out by hand, and against PySODMetrics."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from saliency.quality import Tally, correlation, f_measure, histogram, overlap, precision_recall, scores
from saliency.structure import StructureTally

TRUTH = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool)


def test_a_perfect_map():
    assert scores(TRUTH.astype(np.float32), TRUTH) == (0.0, 1.0, 1.0)


def test_values_by_hand():
    saliency = np.array([[0.9, 0.6, 0.7, 0.0], [0.2, 0.0, 0.0, 0.0]], np.float32)
    mae, max_f, iou = scores(saliency, TRUTH)
    assert mae == pytest.approx((0.1 + 0.4 + 0.7 + 0.2) / 8)
    # cut between .6 and .7: P 1/2, R 1/2; below .6: P 2/3, R 1; above .7: P 1, R 1/2, the best
    assert max_f == pytest.approx(1.3 * 1 * 0.5 / (0.3 * 1 + 0.5))
    assert iou == pytest.approx(2 / 3)


def test_all_ones_scores_the_share_of_the_object():
    mae, max_f, iou = scores(np.ones(TRUTH.shape, np.float32), TRUTH)
    assert (mae, iou) == (0.75, 0.25)
    assert max_f == pytest.approx(1.3 * 0.25 / (0.3 * 0.25 + 1))


def test_a_binary_mask_is_a_map_too():
    assert scores(~TRUTH, TRUTH) == (1.0, pytest.approx(1.3 * 0.25 / (0.3 * 0.25 + 1)), 0.0)


def test_empty_truth_and_empty_map():
    nothing = np.zeros((3, 3), bool)
    assert scores(np.zeros((3, 3), np.float32), nothing) == (0.0, 0.0, 1.0)
    assert scores(np.ones((3, 3), np.float32), nothing) == (1.0, 0.0, 0.0)


def test_precision_and_recall_agree_with_cutting_at_every_level():
    rng = np.random.default_rng(0)
    saliency, truth = rng.random((20, 30)), rng.random((20, 30)) < 0.3
    precision, recall = precision_recall(saliency, truth)
    for level in (0, 1, 100, 254, 255):
        chosen = np.round(saliency * 255) >= level
        assert recall[level] == pytest.approx((chosen & truth).sum() / truth.sum())
        assert precision[level] == pytest.approx((chosen & truth).sum() / max(chosen.sum(), 1))


def test_shapes_and_types_are_checked():
    with pytest.raises(ValueError, match="needs a bool mask of its shape"):
        scores(np.zeros((2, 2)), np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match="not uint8"):
        scores(np.zeros((2, 2)), np.zeros((2, 2), np.uint8))


# -- many maps --------------------------------------------------------------------------------------------------------


def test_the_three_meanings_of_max_f():
    # One map is best below .4, the other above .6; either alone is perfect there.
    low = np.array([[0.4, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    high = np.array([[0.9, 0.9, 0.6, 0.6], [0.6, 0.6, 0.6, 0.6]])
    tally = Tally()
    assert [tally.add(saliency, TRUTH).max_f for saliency in (low, high)] == [1, 1]
    quality = tally.quality()
    assert quality.images == 2
    assert quality.mean_of_max_f == 1
    of_everything = 1.3 * 0.25 / (0.3 * 0.25 + 1)  # P 1/4, R 1
    assert quality.max_f_of_mean_curve == pytest.approx((1 + of_everything) / 2)
    assert quality.max_f == pytest.approx(1.3 * 0.625 / (0.3 * 0.625 + 1))  # P (1 + 1/4) / 2, R 1
    assert quality.iou == pytest.approx((0 + 2 / 8) / 2)
    assert quality.mae == pytest.approx(np.mean([abs(low - TRUTH).mean(), abs(high - TRUTH).mean()]))


def test_measures_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no map was compared"):
        Tally().quality()
    with pytest.raises(ValueError, match="no map was compared"):
        StructureTally().structure()


def test_f_where_nothing_is_found():
    np.testing.assert_array_equal(f_measure(np.array([0.0, 1.0]), np.array([0.0, 1.0])), [0, 1])


def test_how_far_two_maps_agree():
    one, other = np.array([[1, 1, 0, 0]], bool), np.array([[0, 1, 1, 0]], bool)
    assert overlap(one, other) == pytest.approx(1 / 3)
    assert overlap(~one, one) == 0
    assert overlap(one & ~one, one & ~one) == 1
    assert correlation(np.array([[0, 100, 200]], np.uint8), np.array([[3, 4, 5]], np.uint8)) == pytest.approx(1)
    assert correlation(np.array([[0, 100, 200]], np.uint8), np.array([[9, 7, 5]], np.uint8)) == pytest.approx(-1)
    assert correlation(np.array([[0, 1, 0, 1]]), np.array([[0, 0, 1, 1]])) == pytest.approx(0)
    assert math.isnan(correlation(np.full((2, 2), 7), np.array([[0, 1], [2, 3]])))


def test_shares_are_counted_in_tenths():
    assert histogram(np.array([0.0, 0.05, 0.1, 0.55, 0.99, 1.0])) == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    assert sum(histogram(np.array([]))) == 0


def _noisy_maps(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Make (map uint8, mask bool) that are alike; the maps reach 0 and 255, as PySODMetrics' own stretching would."""
    rng = np.random.default_rng(5)
    made = []
    for _ in range(count):
        truth = cv2.GaussianBlur(rng.random((60, 80), np.float32), (0, 0), 8) > 0.5
        noise = cv2.GaussianBlur(rng.random((60, 80), np.float32), (0, 0), 3)
        saliency = cv2.normalize(truth + 8 * noise, None, 0, 255, cv2.NORM_MINMAX).round().astype(np.uint8)
        made.append((saliency, truth))
    return made


@pytest.mark.extra("pysodmetrics")
def test_our_measures_are_those_of_pysodmetrics():
    import py_sod_metrics as peer

    named = {"with_dynamic": True, "with_adaptive": False}
    handlers = {
        "f": peer.FmeasureHandler(**named, beta=0.3),
        "precision": peer.PrecisionHandler(**named),
        "recall": peer.RecallHandler(**named),
        "iou": peer.IOUHandler(with_dynamic=False, with_adaptive=False, with_binary=True),
    }
    curves, mae, tally = peer.FmeasureV2(metric_handlers=handlers), peer.MAE(), Tally()
    largest = []
    for gray, truth in _noisy_maps(6):
        tally.add(gray / np.float32(255), truth)
        for measure in (curves, mae):
            measure.step(gray, truth.astype(np.uint8) * 255)
        largest.append(handlers["f"].dynamic_results[-1].max())
    quality, found = tally.quality(), curves.get_results()
    assert quality.mae == pytest.approx(mae.get_results()["mae"])
    assert quality.iou == pytest.approx(found["iou"]["binary"])
    assert quality.max_f_of_mean_curve == pytest.approx(found["f"]["dynamic"].max())
    assert quality.mean_of_max_f == pytest.approx(np.mean(largest))
    precision, recall = found["precision"]["dynamic"], found["recall"]["dynamic"]
    assert quality.max_f == pytest.approx((1.3 * precision * recall / (0.3 * precision + recall)).max())
    assert quality.max_f_of_mean_curve < quality.max_f < quality.mean_of_max_f


@pytest.mark.extra("pysodmetrics")
def test_structure_is_averaged_as_pysodmetrics_does():
    import py_sod_metrics as peer

    s, e, tally = peer.Smeasure(), peer.Emeasure(), StructureTally()
    for gray, truth in _noisy_maps(4):
        tally.add(gray / np.float32(255), truth)
        for measure in (s, e):
            measure.step(gray, truth.astype(np.uint8) * 255)
    structure, curve = tally.structure(), e.get_results()["em"]["curve"]
    assert structure.s_measure == pytest.approx(s.get_results()["sm"], abs=1e-6)
    assert structure.mean_e == pytest.approx(curve.mean(), abs=1e-6)
    assert structure.max_e == pytest.approx(curve.max(), abs=1e-6)
    assert structure.mean_e < structure.max_e


@pytest.mark.extra("pysodmetrics")
def test_structure_is_that_of_the_map_as_it_is():
    truth = np.zeros((40, 40), bool)
    truth[10:30, 10:30] = True
    found = []
    for strength in (1.0, 0.3):  # PySODMetrics by itself would stretch the faint one to the bright one
        tally = StructureTally()
        tally.add(truth * np.float32(strength), truth)
        found.append(tally.structure().s_measure)
    assert found[0] == pytest.approx(1)
    assert found[1] < 0.8


@pytest.mark.realdata
def test_a_centred_blob_has_the_published_kind_of_max_f(shared_data):
    # .594 was measured with other code: it is the F of mean precision and recall, not the mean curve's, nor the mean.
    tally = Tally()
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    blob = np.exp(-(y**2 + x**2) * 2).astype(np.float32)
    for path in sorted((shared_data / "masks80").glob("*.png")):
        truth = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), blob.shape[::-1]) > 127
        tally.add(blob, truth)
    quality = tally.quality()
    assert quality.images == 80
    assert quality.max_f == pytest.approx(0.594, abs=0.015)
    assert quality.max_f_of_mean_curve < 0.56
    assert quality.mean_of_max_f > 0.63
