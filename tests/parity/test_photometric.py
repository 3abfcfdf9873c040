"""The device's half of the views: plain torch against the reference, and the operation of torch that wraps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from photometric_cases import FILL, Case, case

from pipelines.build import build_loader
from pipelines.config import BackgroundConfig, CropConfig, ViewsConfig
from pipelines.kernels.settings import BACKGROUND
from pipelines.ops import batched
from pipelines.ops.normalize import normalize
from pipelines.photometric import photometric
from pipelines.views import KEEP, REMOVE

MODES = ["relicv2", "torchvision"]


def by_operation(given: Case, dtype: torch.dtype) -> torch.Tensor:
    relicv2 = given.recipe.photometric.jitter == "relicv2"
    return photometric(*given.arguments(), relicv2, [level / 255 for level in FILL], dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [48, 31, 7])
def test_a_batch_is_the_reference_of_each_view(mode, size: int):
    """Same formulas in the same float32: only the blur's summation and the line's rounding differ."""
    given = case(size, mode, count=48)
    ours, truth = by_operation(given, torch.uint8).numpy(), given.truth()
    assert (given.rows["background"] == 2).sum() > 5
    assert (given.rows["background"] == 1).sum() > 5
    assert np.abs(ours.astype(int) - truth).max() <= 1
    assert (ours != truth).mean() < 0.001


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_normalised_views_are_the_grey_levels_normalised(dtype: torch.dtype):
    given = case(20, "relicv2")
    levels, ours = by_operation(given, torch.uint8), by_operation(given, dtype)
    assert ours.dtype == dtype
    assert ours.is_contiguous()
    assert torch.equal(ours, normalize(levels, dtype).permute(0, 2, 3, 1))


@pytest.mark.parametrize("mode", MODES)
def test_a_row_with_everything_off_changes_nothing(mode):
    given = case(31, mode, neutral=True)
    assert torch.equal(by_operation(given, torch.uint8), given.views)


def test_without_masks_or_plates():
    given = case(20, "relicv2")
    kept = batched.finish(given.views, given.lines, None, None, **given.options(), dtype=torch.uint8)
    still = given.lines.clone()
    still[:, BACKGROUND] = KEEP
    assert torch.equal(kept, by_operation(_with(given, lines=still), torch.uint8))
    filled = batched.finish(given.views, given.lines, given.masks, None, **given.options(), dtype=torch.uint8)
    removed = given.lines.clone()
    removed[:, BACKGROUND] = removed[:, BACKGROUND].clamp(max=REMOVE)
    assert torch.equal(filled, by_operation(_with(given, lines=removed), torch.uint8))
    assert not torch.equal(filled, by_operation(given, torch.uint8))


def _with(given: Case, **changes) -> Case:
    return Case(**{**given.__dict__, **changes})


def test_torch_knows_the_operation():
    """Schema, shapes without data, and no gradient: what `torch.compile` relies on."""
    given = case(12, "relicv2", count=3)
    arguments = (*given.arguments(), True, [0.5, 0.5, 0.5], torch.bfloat16)
    torch.library.opcheck(photometric, arguments)


def test_the_operation_is_one_node_of_a_compiled_graph():
    given = case(12, "relicv2", count=3)

    def finish(views, lines):
        return photometric(views, lines, given.masks, given.plates, True, [0.5, 0.5, 0.5], torch.float32) * 2

    compiled = torch.compile(finish, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(given.views, given.lines), finish(given.views, given.lines))


RECIPE = ViewsConfig(
    large=CropConfig(count=2, size=32),
    small=CropConfig(count=1, size=20, area=(0.05, 0.25)),
    background=BackgroundConfig(chance=0.6, mode="swap"),
)


@pytest.mark.parametrize("backend", ["fused", pytest.param("dali", marks=pytest.mark.extra("dali"))])
def test_backends_draw_the_same_plates_and_masks(
    backend, agreement, tiny_beton: Path, tiny_masks: Path, tiny_plates: Path
):
    """Half the large views are swapped, and plates are flat blocks: another plate or a shifted mask is far off."""
    options = {"batch_size": 4, "masks": tiny_masks, "plates": tiny_plates, "photometric": "device"}
    truth = build_loader(tiny_beton, RECIPE, **{**options, "photometric": "host"}, backend="reference")
    ours = build_loader(tiny_beton, RECIPE, **options, backend=backend)
    for expected, batch in zip(truth, ours, strict=True):
        for one, other in zip((*batch.large, *batch.small), (*expected.large, *expected.small), strict=True):
            for slot in range(len(one)):
                agreement.hold(f"{backend}, rest on the device", one[slot].numpy(), other[slot].numpy(), psnr=38)
    truth.close()
    ours.close()


@pytest.mark.parametrize("output", ["bfloat16", "float32"])
def test_a_loader_normalises_on_the_device(tiny_beton: Path, tiny_masks: Path, tiny_plates: Path, output):
    options = {"batch_size": 4, "masks": tiny_masks, "plates": tiny_plates, "photometric": "device"}
    grey = build_loader(tiny_beton, RECIPE, **options)
    normal = build_loader(tiny_beton, RECIPE, **options, output=output)
    dtype = getattr(torch, output)
    for levels, ours in zip(grey, normal, strict=True):
        for view, same in zip((*levels.large, *levels.small), (*ours.large, *ours.small), strict=True):
            assert torch.equal(normalize(same, dtype), normalize(view, dtype))
