"""The contact sheet of the best and the worst maps."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from saliency.gallery import Exhibit, gallery

ORANGE = (0, 94, 213)  # BGR of the cut's outline


def exhibit(name: str, *, image: bool, salient: bool = True) -> Exhibit:
    truth = np.zeros((60, 80), bool)
    truth[20:40, 20:60] = True
    saliency = np.roll(truth, 10, axis=0).astype(np.uint8) * 255 if salient else np.zeros((60, 80), np.uint8)
    picture = np.full((30, 40, 3), (0, 200, 0), np.uint8) if image else None
    return Exhibit(title=name, iou=0.5, saliency=saliency, truth=truth, image=picture)


def drawn(*exhibits: Exhibit, worst: tuple[Exhibit, ...] = ()) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(gallery(exhibits, worst, heading="all"), np.uint8), cv2.IMREAD_COLOR)


def share_of(picture: np.ndarray, color: tuple[int, int, int]) -> float:
    return float((np.abs(picture.astype(int) - color).max(axis=2) < 30).mean())


def test_the_sheet_grows_with_the_rows_and_the_parts():
    one, two = exhibit("a", image=True), exhibit("b", image=True)
    single, double = drawn(one, worst=(two,)), drawn(one, two, worst=(two, one))
    assert double.shape[0] > 1.5 * single.shape[0]
    assert double.shape[1] == single.shape[1]
    without = drawn(exhibit("a", image=False))
    assert without.shape[1] == pytest.approx(single.shape[1] * 2 / 3, abs=1)


def test_image_and_outlines_are_drawn():
    with_image, without = (
        drawn(exhibit("a", image=image), worst=(exhibit("b", image=image),)) for image in (True, False)
    )
    green = (0, 200, 0)
    assert share_of(with_image, green) > 0.05 > 0.001 > share_of(without, green)
    assert share_of(without, ORANGE) > 0.0005


def test_empty_maps_and_a_missing_half_are_drawn_without_a_warning():
    assert share_of(drawn(exhibit("a" * 90, image=True, salient=False)), ORANGE) == 0
