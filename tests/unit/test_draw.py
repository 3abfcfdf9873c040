"""The table of views: boxes inside the image, torchvision's crop distribution, chances, and purity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from pipelines import views
from pipelines.config import (
    NO_PHOTOMETRIC,
    BackgroundConfig,
    CropConfig,
    ViewsConfig,
    evaluation_views,
    supervised_views,
)

SWAPS = ViewsConfig(background=BackgroundConfig(chance=0.3, mode="swap"))
BOX = ("top", "left", "height", "width")
JITTER = ("order", "brightness", "contrast", "saturation", "hue")


def draw(
    recipe: ViewsConfig,
    num_images: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    height: int = 375,
    width: int = 500,
):
    return views.draw(
        recipe,
        seed=seed,
        epoch=epoch,
        indices=np.arange(num_images),
        heights=np.full(num_images, height),
        widths=np.full(num_images, width),
    )


def with_photometric(**changes) -> ViewsConfig:
    return replace(SWAPS, photometric=replace(SWAPS.photometric, **changes))


# ---- boxes -------------------------------------------------------------------------------------------------

sides = st.one_of(st.integers(1, 8), st.integers(1, 700), st.integers(1, 65_535))
intervals = st.tuples(st.floats(1e-4, 1), st.floats(1e-4, 1)).map(lambda pair: (min(pair), max(pair)))
ratios = st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(lambda pair: (min(pair), max(pair)))


@given(
    shapes=st.lists(st.tuples(sides, sides), min_size=1, max_size=6),
    area=intervals,
    ratio=ratios,
    placement=st.sampled_from(["random", "center"]),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 2**64 - 1),
)
def test_every_box_lies_inside_its_image(shapes, area, ratio, placement, share, seed):
    crop = CropConfig(count=4, size=32, area=area, ratio=ratio, placement=placement, center_share=share)
    heights, widths = np.array(shapes).T
    table = views.draw(
        ViewsConfig(large=crop, small=replace(crop, count=2)),
        seed=seed,
        epoch=0,
        indices=np.arange(len(shapes)),
        heights=heights,
        widths=widths,
    )
    assert table.shape == (len(shapes), 6)
    assert (table["height"] >= 1).all()
    assert (table["width"] >= 1).all()
    assert (table["top"] >= 0).all()
    assert (table["left"] >= 0).all()
    assert (table["top"] + table["height"] <= heights[:, None]).all()
    assert (table["left"] + table["width"] <= widths[:, None]).all()


def torchvision_boxes(num: int, *, height: int, width: int, crop: CropConfig) -> np.ndarray:
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    boxes = [RandomResizedCrop.get_params(image, list(crop.area), list(crop.ratio)) for _ in range(num)]
    return np.array(boxes)


def largest_gap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples."""
    values = np.concatenate([ours, theirs])
    below_ours = np.searchsorted(np.sort(ours), values, side="right") / len(ours)
    below_theirs = np.searchsorted(np.sort(theirs), values, side="right") / len(theirs)
    return float(np.abs(below_ours - below_theirs).max())


@pytest.mark.parametrize(
    ("height", "width", "area"),
    [
        (375, 500, (0.08, 1.0)),
        (375, 500, (0.05, 0.25)),
        (500, 333, (0.2, 1.0)),  # many first attempts do not fit
        (40, 700, (0.3, 1.0)),  # nearly all fall back
        (5, 7, (0.08, 1.0)),  # rounding decides
    ],
)
def test_boxes_are_distributed_as_torchvision_draws_them(height: int, width: int, area: tuple[float, float]):
    crop = CropConfig(count=4, size=224, area=area)
    ours = draw(ViewsConfig(large=crop, small=replace(crop, count=0)), 1000, height=height, width=width).reshape(-1)
    theirs = torchvision_boxes(4000, height=height, width=width, crop=crop)
    top, left, high, wide = (ours[name].astype(float) for name in BOX)
    their_top, their_left, their_high, their_wide = theirs.T.astype(float)
    # 0.0436 is the distance that two samples of 4,000 from one distribution exceed once in a thousand times.
    assert largest_gap(high * wide, their_high * their_wide) < 0.0436
    assert largest_gap(wide / high, their_wide / their_high) < 0.0436
    assert largest_gap(top, their_top) < 0.0436
    assert largest_gap(left, their_left) < 0.0436


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((1, 1), (0, 0, 1, 1)),
        ((1, 900), (0, 449, 1, 1)),
        ((900, 1), (449, 0, 1, 1)),
        ((30, 900), (0, 430, 30, 40)),  # width = 4/3 height
        ((900, 30), (430, 0, 40, 30)),  # height = width / (3/4)
    ],
)
def test_where_no_box_fits_the_largest_central_one_of_an_allowed_ratio_is_taken(shape, box):
    height, width = shape
    crop = CropConfig(count=3, size=32, area=(0.9, 1.0))
    table = draw(ViewsConfig(large=crop, small=replace(crop, count=0)), 4, height=height, width=width)
    assert {tuple(row) for row in table[[*BOX]].reshape(-1).tolist()} == {box}


def test_a_central_box_is_the_share_of_the_shorter_side():
    table = draw(evaluation_views(224), 2, height=256, width=301)
    assert table[[*BOX]].tolist() == [[(16, 38, 224, 224)]] * 2
    assert draw(evaluation_views(32, center_share=1.0), 1, height=9, width=4)[[*BOX]].tolist() == [[(2, 0, 4, 4)]]
    assert draw(evaluation_views(32), 1, height=1, width=3)[[*BOX]].tolist() == [[(0, 1, 1, 1)]]


# ---- chances and strengths ---------------------------------------------------------------------------------

NUM = 3000


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return draw(SWAPS, NUM)


def assert_chance(happened: np.ndarray, chance: float):
    """Hold a share to four standard deviations of its binomial: exact where the chance is 0 or 1."""
    assert abs(happened.mean() - chance) <= 4 * np.sqrt(chance * (1 - chance) / happened.size)


ODD, EVEN = slice(0, None, 2), slice(1, None, 2)


@pytest.mark.parametrize(
    ("happened", "chance"),
    [
        (lambda table: table["flip"], 0.5),
        (lambda table: table["hue"] != 0, 0.8),
        (lambda table: table["gray"], 0.2),
        (lambda table: table["blur_sigma"][:, ODD] > 0, 1.0),
        (lambda table: table["blur_sigma"][:, EVEN] > 0, 0.1),
        (lambda table: table["solarize"][:, ODD], 0.0),
        (lambda table: table["solarize"][:, EVEN], 0.2),
        (lambda table: table["background"][:, :4] == views.SWAP, 0.3),
        (lambda table: table["background"][:, 4:] == views.KEEP, 1.0),
    ],
    ids=[
        "flip",
        "jitter",
        "gray",
        "blur odd",
        "blur even",
        "solarize odd",
        "solarize even",
        "swap",
        "small keep",
    ],
)
def test_chances(table: np.ndarray, happened: Callable[[np.ndarray], np.ndarray], chance: float):
    for column in happened(table).T:  # every view by itself: a chance shared over views would hide a slip
        assert_chance(column, chance)


def test_fields_of_a_view_are_independent(table: np.ndarray):
    happenings = np.stack(
        [
            table["flip"],
            table["hue"] != 0,
            table["gray"],
            table["blur_sigma"] > 1.0,
            table["solarize"],
            table["background"] > 0,
            table["left"] > np.median(table["left"]),
        ]
    )[:, :, 1]
    correlation = np.corrcoef(happenings)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 4 / np.sqrt(NUM)


def test_views_and_images_are_independent(table: np.ndarray):
    flips = table["flip"].astype(float)
    assert np.abs(np.corrcoef(flips, rowvar=False) - np.eye(6)).max() < 4 / np.sqrt(NUM)
    assert abs(np.corrcoef(flips[:-1, 0], flips[1:, 0])[0, 1]) < 4 / np.sqrt(NUM)


@pytest.mark.parametrize(
    ("name", "low", "high", "off"),
    [
        ("brightness", -0.4, 0.4, 0.0),
        ("contrast", 0.6, 1.4, 1.0),
        ("saturation", 0.8, 1.2, 1.0),
        ("hue", -0.1, 0.1, 0.0),
        ("blur_sigma", 0.1, 2.0, 0.0),
    ],
)
def test_strengths_are_uniform_between_their_limits(table: np.ndarray, name: str, low: float, high: float, off: float):
    drawn = table[name][table[name] != np.float32(off)].astype(float)
    assert low - 1e-6 <= drawn.min()
    assert drawn.max() <= high + 1e-6
    even = np.linspace(low, high, drawn.size)
    assert largest_gap(drawn, even) < 1.95 / np.sqrt(drawn.size)  # exceeded once in a thousand times


def test_orders_of_jitter_are_equally_likely(table: np.ndarray):
    orders = table["order"][table["hue"] != 0]
    counts = np.bincount(orders, minlength=24)
    assert len(counts) == 24
    expected = orders.size / 24
    np.testing.assert_allclose(counts, expected, atol=4 * np.sqrt(expected))
    assert {tuple(order) for order in views.JITTER_ORDERS.tolist()} == set(permutations(range(4)))


def test_plates_are_drawn_uniformly(table: np.ndarray):
    words = table["plate"][table["background"] == views.SWAP]
    assert (table["plate"][table["background"] == views.KEEP] == 0).all()
    for number in (2, 7):
        counts = np.bincount(words % number, minlength=number)
        np.testing.assert_allclose(counts, words.size / number, atol=4 * np.sqrt(words.size / number))


def test_torchvision_jitter_centres_brightness_on_one():
    official, factors = draw(SWAPS, 50), draw(with_photometric(jitter="torchvision"), 50)
    np.testing.assert_allclose(factors["brightness"], official["brightness"] + 1, atol=1e-6)


def test_what_is_off_is_neutral():
    table = draw(replace(SWAPS, photometric=NO_PHOTOMETRIC, background=BackgroundConfig(chance=0.0)), 20)
    neutral = np.zeros((), views.ROW)
    neutral["contrast"] = neutral["saturation"] = 1
    rest = [name for name in views.ROW.names or () if name not in BOX]
    assert (table[rest] == neutral[rest]).all()


def test_a_supervised_view_is_a_crop_and_a_flip():
    table = draw(supervised_views(224), 400)
    assert table.shape == (400, 1)
    assert_chance(table["flip"], 0.5)
    assert (table["hue"] == 0).all()
    assert len(np.unique(table["width"])) > 50


# ---- purity ------------------------------------------------------------------------------------------------


@given(
    chosen=st.lists(st.integers(0, 59), max_size=40),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
)
def test_any_subset_in_any_order_gives_the_same_rows(chosen: list[int], seed: int, epoch: int):
    heights, widths = np.arange(60) * 7 % 90 + 1, np.arange(60) * 11 % 70 + 1
    whole = views.draw(SWAPS, seed=seed, epoch=epoch, indices=np.arange(60), heights=heights, widths=widths)
    picked = np.array(chosen, np.int64)
    part = views.draw(SWAPS, seed=seed, epoch=epoch, indices=picked, heights=heights[picked], widths=widths[picked])
    assert part.shape == (len(chosen), 6)
    assert (part == whole[picked]).all()


def test_another_image_view_epoch_or_seed_gives_another_view():
    tables = [draw(SWAPS, 20, seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    rows = np.concatenate(tables).reshape(-1)
    assert len(np.unique(rows[[*BOX, "blur_sigma", *JITTER]])) == len(rows) == 9 * 20 * 6


large_area = replace(SWAPS, large=replace(SWAPS.large, area=(0.5, 0.6)))
small_area = replace(SWAPS, small=replace(SWAPS.small, area=(0.5, 0.6)))


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        (with_photometric(hue=0.5), {"hue"}),
        (with_photometric(brightness=0.1), {"brightness"}),
        (with_photometric(contrast=0.1), {"contrast"}),
        (with_photometric(saturation=0.9), {"saturation"}),
        (with_photometric(jitter_chance=0.3), {*JITTER}),
        (with_photometric(jitter="torchvision"), {"brightness"}),
        (with_photometric(flip=0.1), {"flip"}),
        (with_photometric(grayscale=0.9), {"gray"}),
        (with_photometric(blur=(0.5, 0.5)), {"blur_sigma"}),
        (with_photometric(blur_sigma=(3.0, 4.0)), {"blur_sigma"}),
        (with_photometric(solarize=(0.5, 0.5)), {"solarize"}),
        (replace(SWAPS, background=replace(SWAPS.background, chance=0.8)), {"background", "plate"}),
        (replace(SWAPS, background=replace(SWAPS.background, mode="remove")), {"background"}),
        (large_area, {*BOX}),
        (small_area, {*BOX}),
        (replace(SWAPS, interpolation="bilinear"), set()),
    ],
)
def test_changing_one_field_of_the_recipe_leaves_the_other_draws(changed: ViewsConfig, fields: set[str]):
    before, after = draw(SWAPS, 100), draw(changed, 100)
    differ = {name for name in views.ROW.names or () if (before[name] != after[name]).any()}
    assert differ == fields


def test_changing_one_crop_leaves_the_boxes_of_the_other():
    before = draw(SWAPS, 50)
    assert (before[:, 4:] == draw(large_area, 50)[:, 4:]).all()
    assert (before[:, :4] == draw(small_area, 50)[:, :4]).all()


def test_a_stronger_hue_stretches_the_same_draw():
    before, after = draw(with_photometric(hue=0.1), 100), draw(with_photometric(hue=0.5), 100)
    np.testing.assert_allclose(after["hue"], 5 * before["hue"], rtol=1e-5)


def test_more_small_views_leave_the_first_ones():
    more = replace(SWAPS, small=replace(SWAPS.small, count=5))
    assert (draw(more, 30)[:, :6] == draw(SWAPS, 30)).all()


def test_no_image_gives_no_rows():
    assert draw(SWAPS, 0).shape == (0, 6)


def test_a_recipe_without_views_of_one_size_draws_only_the_other():
    alone = draw(replace(SWAPS, small=replace(SWAPS.small, count=0)), 10)
    assert (alone == draw(SWAPS, 10)[:, :4]).all()
