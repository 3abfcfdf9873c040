"""Contact sheets show what training sees, and say what was drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines import views
from pipelines.build import build_loader
from pipelines.config import BackgroundConfig, CropConfig, PhotometricConfig, ViewsConfig
from relic.pictures import Example, contact_sheet, describe, render_examples, views_sheet

SMALL = ViewsConfig(
    large=CropConfig(count=2, size=40), small=CropConfig(count=1, size=24), background=BackgroundConfig(chance=0.9)
)
OFFICIAL, TORCHVISION = (ViewsConfig(photometric=PhotometricConfig(jitter=mode)) for mode in ("relicv2", "torchvision"))


def row(**fields: float) -> np.void:
    table = np.zeros(1, views.ROW)
    table["contrast"] = table["saturation"] = 1
    for name, value in fields.items():
        table[name] = value
    return table[0]


def places(sheet: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Find where a picture stands in a sheet, unchanged."""
    high, wide, _ = picture.shape
    corner = (sheet[: -high + 1, : -wide + 1] == picture[0, 0]).all(-1)
    return [
        (top, left)
        for top, left in np.argwhere(corner)
        if (sheet[top, left : left + wide] == picture[0]).all()
        and (sheet[top : top + high, left : left + wide] == picture).all()
    ]


def test_views_are_those_of_training(tiny_beton, tiny_masks):
    """The same batch as a training loader's first one of the epoch, pixel by pixel."""
    examples = render_examples(
        tiny_beton, SMALL, masks=tiny_masks, num_images=5, seed=3, epoch=2, backends=["fused", "reference"]
    )
    loader = build_loader(tiny_beton, SMALL, batch_size=5, seed=3, masks=tiny_masks, num_threads=1)
    loader.set_epoch(2)
    batch = next(iter(loader))
    loader.close()
    for slot, example in enumerate(examples):
        assert example.title.startswith(f"image {int(batch.index[slot])} ")
        for shown, view in zip(example.views["fused"], (*batch.large, *batch.small), strict=True):
            np.testing.assert_array_equal(shown, view[slot].numpy())


def test_rows_say_which_background_was_removed(tiny_beton, tiny_masks, tiny_plates):
    """Images without a mask keep their background, and the sheet says nothing else."""
    swap = replace(SMALL, background=BackgroundConfig(chance=1.0, mode="swap"))
    examples = render_examples(tiny_beton, swap, masks=tiny_masks, plates=tiny_plates, num_images=12)
    assert {example.title.split()[1] for example in examples if example.mask is None} == {"2", "5"}
    for example in examples:
        large = set(example.rows["background"][:2].tolist())
        assert large == ({views.KEEP} if example.mask is None else {views.SWAP})
        assert example.rows["background"][2] == views.KEEP
    unmasked = render_examples(tiny_beton, SMALL, num_images=12)
    assert all((example.rows["background"] == views.KEEP).all() for example in unmasked)


@pytest.mark.parametrize(
    ("fields", "recipe", "said"),
    [
        ({}, OFFICIAL, []),
        ({"brightness": 1}, TORCHVISION, []),
        (
            {"flip": True, "brightness": -0.21, "contrast": 1.3, "saturation": 0.9, "hue": 0.05, "order": 23},
            OFFICIAL,
            ["flipped", "hue +18°", "saturation ×0.90", "contrast ×1.30", "brightness −0.21"],
        ),
        ({"brightness": 0.7}, TORCHVISION, ["brightness ×0.70"]),
        (
            {"gray": True, "blur_sigma": 1.234, "solarize": True, "background": views.REMOVE},
            OFFICIAL,
            ["background removed", "gray", "blur σ 1.23", "solarized"],
        ),
        ({"background": views.SWAP, "plate": 7}, OFFICIAL, ["background swapped"]),
    ],
)
def test_a_row_in_words_in_the_order_of_its_operations(fields, recipe, said):
    assert describe(row(**fields), recipe) == said


def test_the_sheet_holds_every_view_as_it_is():
    """Views at whole magnifications, unchanged, and the crop box where the view comes from."""
    recipe = ViewsConfig(large=CropConfig(count=1, size=200), small=CropConfig(count=1, size=90))
    rng = np.random.default_rng(0)
    image = np.full((300, 380, 3), 200, np.uint8)
    rendered = [rng.integers(0, 256, (size, size, 3), np.uint8) for size in (200, 90)]
    rows = np.array([row(left=0, top=0, width=380, height=300), row(left=190, top=150, width=60, height=60)])
    mask = np.zeros((128, 128), bool)
    mask[:, :64] = True
    example = Example(title="image 0", image=image, mask=mask, rows=rows, views={"a": rendered, "b": rendered})
    sheet = contact_sheet([example], recipe, heading="a heading")
    assert sheet.dtype == np.uint8
    for view in rendered:
        assert len(places(sheet, view)) == 2  # once per backend
    vermilion = (sheet == (213, 94, 0)).all(-1)  # the second view's colour: its box's left side, 2 pixels wide
    assert vermilion.sum(0).max() > 40
    kept, dimmed = (sheet == 200).all(-1).sum(), (sheet == 233).all(-1).sum()
    assert kept > 300 * 150
    assert dimmed > 300 * 120


def test_small_views_are_magnified_by_a_whole_number(tiny_beton):
    sheet = views_sheet(tiny_beton, SMALL, num_images=2, backends=["fused"])
    view = render_examples(tiny_beton, SMALL, num_images=2, backends=["fused"])[0].views["fused"][0]
    assert len(places(sheet, view.repeat(5, axis=0).repeat(5, axis=1))) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_images": 0}, "num_images=0 shows nothing"),
        ({"backends": []}, "no backend was named"),
        ({"backends": ["fusde"]}, "did you mean 'fused'"),
        ({"backends": ["synthetic", "fused"]}, "does not render the views that boxes and captions show"),
    ],
)
def test_what_cannot_be_drawn_is_said(tiny_beton, settings, said):
    with pytest.raises(ValueError, match=said):
        render_examples(tiny_beton, SMALL, **settings)
