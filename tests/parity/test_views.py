"""Whole views from one table: the fused backend against the reference, decoding included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from view_cases import PICTURES, by_engine, draw_picture, table_row

from pipelines import decode, views
from pipelines.backends import fused, reference
from pipelines.beton import Beton
from pipelines.build import open_source
from pipelines.config import BackgroundConfig, CropConfig, PhotometricConfig, ViewsConfig, evaluation_views
from pipelines.loader import Source
from pipelines.prepare.convert import ConvertConfig, convert
from relic import recipes

SWAPS = BackgroundConfig(chance=1.0, mode="swap")
RECIPES = {
    "ViewsConfig()": ViewsConfig(),
    "cifar10_r18": recipes.cifar10_r18().views,
    "demo": recipes.demo().views,
    "torchvision jitter": ViewsConfig(photometric=PhotometricConfig(jitter="torchvision")),
    "bilinear, removed": ViewsConfig(interpolation="bilinear", background=BackgroundConfig(chance=1.0)),
    "swapped": ViewsConfig(background=SWAPS),
    "evaluation": evaluation_views(224),
}


def draw(source: Source, recipe: ViewsConfig, indices: np.ndarray, epoch: int = 0) -> np.ndarray:
    rows = views.draw(
        recipe,
        seed=1,
        epoch=epoch,
        indices=indices,
        heights=source.beton.heights[indices],
        widths=source.beton.widths[indices],
    )
    if source.masks is not None:
        rows["background"][source.masks.absent[indices]] = views.KEEP
    return rows


def rendered(render, source: Source, index: int, rows: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    outputs = [np.zeros((2, size, size, 3), np.uint8) for size in sizes]
    render(source, index, rows, outputs, 1)
    assert not any(output[0].any() for output in outputs)  # the slot beside is another image's
    return [output[1] for output in outputs]


def assert_views(
    agreement, name: str, source: Source, recipe: ViewsConfig, index: int, rows: np.ndarray, sizes
) -> None:
    by_fused = rendered(fused.renderer(recipe), source, index, rows, sizes)
    by_reference = rendered(reference.renderer(recipe), source, index, rows, sizes)
    for row, ours, truth in zip(rows, by_fused, by_reference, strict=True):
        agreement.hold(name, ours, truth, (index, row))


def view_sizes(recipe: ViewsConfig) -> list[int]:
    return [recipe.large.size] * recipe.large.count + [recipe.small.size] * recipe.small.count


@pytest.mark.parametrize("name", RECIPES)
def test_views_of_odd_images(agreement, tiny_beton: Path, tiny_masks: Path, tiny_plates: Path, name: str):
    recipe = RECIPES[name]
    source = open_source(tiny_beton, recipe, masks=tiny_masks, plates=tiny_plates)
    indices = np.arange(source.beton.num_images)
    for index, rows in zip(indices, draw(source, recipe, indices), strict=True):
        assert_views(agreement, f"views, {name}", source, recipe, int(index), rows, view_sizes(recipe))
    agreement.hold_bias(f"views, {name}")


def test_background_of_whole_views_is_not_left_out(tiny_beton: Path, tiny_masks: Path, tiny_plates: Path):
    """Both backends forgetting the background would agree."""
    recipe = RECIPES["swapped"]
    with_masks = open_source(tiny_beton, recipe, masks=tiny_masks, plates=tiny_plates)
    rows = draw(with_masks, recipe, np.array([1]))[0][:1]
    without = Source(beton=with_masks.beton)
    for backend in (fused, reference):
        render = backend.renderer(recipe)
        swapped, kept = (rendered(render, source, 1, rows, [224])[0] for source in (with_masks, without))
        assert np.abs(swapped.astype(int) - kept).mean() > 5


@pytest.fixture(scope="session")
def photograph_beton(imagenet_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a beton of the 500 photographs, its JPEGs untouched."""
    out = tmp_path_factory.mktemp("photographs") / "photographs.beton"
    convert(imagenet_files[0].parent.parent, out, config=ConvertConfig(verify="header"))
    return out


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["ViewsConfig()", "cifar10_r18", "demo"])
def test_views_of_photographs(agreement, photograph_beton: Path, name: str):
    """200 images, one of their views each in turn, so that odd and even, large and small ones are all seen."""
    recipe = RECIPES[name]
    source = open_source(photograph_beton, recipe)
    sizes = view_sizes(recipe)
    indices = np.arange(200) * 2 + 1
    for number, (index, rows) in enumerate(zip(indices, draw(source, recipe, indices), strict=True)):
        seen = number % len(sizes)
        row = rows[seen : seen + 1]
        assert_views(agreement, f"views, {name}, photographs", source, recipe, int(index), row, [sizes[seen]])
    agreement.hold_bias(f"views, {name}, photographs")


@pytest.mark.realdata
def test_both_decoders_give_the_same_pixels(photograph_beton: Path):
    beton = Beton(photograph_beton)
    for index in range(0, 500, 5):
        np.testing.assert_array_equal(decode.fused(beton, index), decode.reference(beton, index))


def test_both_decoders_give_the_same_pixels_of_odd_images(tiny_beton: Path):
    beton = Beton(tiny_beton)
    for index in range(len(beton)):
        pixels = decode.reference(beton, index)
        assert pixels.shape == (beton.heights[index], beton.widths[index], 3)
        np.testing.assert_array_equal(decode.fused(beton, index), pixels)


rows_of_a_table = st.builds(
    dict,
    flip=st.booleans(),
    order=st.integers(0, 23),
    brightness=st.floats(-0.6, 0.6),
    contrast=st.floats(0.4, 1.6),
    saturation=st.floats(0, 2),
    hue=st.floats(-0.5, 0.5),
    gray=st.booleans(),
    blur_sigma=st.one_of(st.just(0), st.floats(0.1, 2)),
    solarize=st.booleans(),
    background=st.sampled_from([views.KEEP, views.REMOVE, views.SWAP]),
)


@given(data=st.data(), fields=rows_of_a_table, picture=st.sampled_from(sorted({*PICTURES} - {"saturated"})))
def test_any_row(agreement, data, fields, picture):
    height, width = data.draw(st.integers(1, 100)), data.draw(st.integers(1, 100))
    high, wide = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    top, left = data.draw(st.integers(0, height - high)), data.draw(st.integers(0, width - wide))
    jitter = data.draw(st.sampled_from(["relicv2", "torchvision"]))
    fields["brightness"] += jitter == "torchvision"
    row = table_row(top=top, left=left, height=high, width=wide, **fields)
    recipe = ViewsConfig(
        large=CropConfig(count=1, size=40),
        photometric=PhotometricConfig(jitter=jitter),
        interpolation=data.draw(st.sampled_from(["bicubic", "bilinear"])),
    )
    image = draw_picture(picture, height, width)
    masked = fields["background"] != views.KEEP
    mask = draw_picture("photograph", 128, 128)[..., 0] > 128 if masked else None
    plate = draw_picture("photograph", 60, 70) if fields["background"] == views.SWAP else None
    ours = by_engine(image, row, 40, interpolation=recipe.interpolation, jitter=jitter, mask=mask, plate=plate)
    truth = reference.render_view(torch.from_numpy(image), row, 40, recipe, mask, plate).numpy()
    agreement.hold("any row", ours, truth, (image.shape, row))
