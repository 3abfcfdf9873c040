"""Maps to masks: where they are cut, and which are rejected."""

from __future__ import annotations

import numpy as np
import pytest

from saliency.infer import binary_mask, by_priors, packed_mask
from saliency.store import EMPTY, HAS_MASK, TOO_LARGE, TOO_SMALL


def _square(share: float) -> np.ndarray:
    """Make a map [400, 200] whose left upper part of that share is salient."""
    saliency = np.zeros((400, 200), np.float32)
    saliency[: round(400 * share**0.5), : round(200 * share**0.5)] = 1
    return saliency


@pytest.mark.parametrize(
    ("share", "flag"), [(0.0, EMPTY), (0.005, TOO_SMALL), (0.02, HAS_MASK), (0.85, HAS_MASK), (0.95, TOO_LARGE)]
)
def test_masks_of_no_use_are_rejected_with_the_reason(share, flag):
    mask = binary_mask(_square(share))
    packed, found = packed_mask(mask)
    assert found == flag
    expected = mask if flag == HAS_MASK else np.zeros_like(mask)
    np.testing.assert_array_equal(np.unpackbits(packed).reshape(128, 128), expected)


def test_a_mask_keeps_the_place_of_the_object_and_has_the_size_of_the_store():
    mask = binary_mask(_square(0.25))
    assert mask.shape == (128, 128)
    assert mask.dtype == np.bool_
    assert mask[:64, :64].all()
    assert not mask[65:].any()
    assert not mask[:, 65:].any()


def test_the_threshold_is_one_half():
    saliency = np.full((128, 128), 0.49, np.float32)
    saliency[:, 64:] = 0.5
    np.testing.assert_array_equal(binary_mask(saliency).mean(axis=0), np.arange(128) >= 64)


def test_large_maps_are_averaged_not_picked_from():
    saliency = np.ones((256, 256), np.float32)
    saliency[:, 1:128:2] = 0.4  # fine stripes on the left
    assert binary_mask(saliency).all()
    saliency[:, 1:128:2] = 0
    saliency[:, 0:128:2] = 0.9
    mask = binary_mask(saliency)
    assert mask[:, 64:].all()
    assert not mask[:, :64].any()


def test_small_maps_are_enlarged():
    mask = binary_mask(np.array([[0, 1], [0, 1]], np.float32))
    assert mask[:, 70:].all()
    assert not mask[:, :58].any()


def test_maps_of_priors_are_at_their_working_size():
    image = np.random.default_rng(0).integers(0, 256, (400, 200, 3), dtype=np.uint8)
    maps = by_priors(["mbd", "mc"], side=100)([image, image[:50]])
    assert [saliency.shape for saliency in maps] == [(100, 50), (25, 100)]
