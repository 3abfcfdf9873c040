"""The measures of saliency maps against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from saliency.quality import precision_recall, scores

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
