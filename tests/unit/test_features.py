"""Frozen features: the right views, in order, and nothing changed by looking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.backends import reference
from pipelines.beton import Beton
from pipelines.config import evaluation_views
from pipelines.loader import Source
from pipelines.ops.normalize import normalize
from pipelines.prepare.writer import write_beton
from pipelines.views import draw
from relic.evaluate.features import center_share, evaluation_mode, extract


class Pixels(nn.Module):
    """Gives the view itself as features, so that they can be compared with it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.permute(0, 2, 3, 1).flatten(1)


def centre_crops(path, size: int, share: float) -> torch.Tensor:
    """Return float32 [N, size, size, 3], normalised, by the reference renderer."""
    recipe = evaluation_views(size, center_share=share)
    with Beton(path) as beton:
        views = np.empty((len(beton), size, size, 3), np.uint8)
        rows = draw(recipe, seed=0, epoch=0, indices=np.arange(len(beton)), heights=beton.heights, widths=beton.widths)
        for index in range(len(beton)):
            reference.renderer(recipe)(Source(beton=beton), index, rows[index], [views], index)
    return normalize(torch.from_numpy(views)).permute(0, 2, 3, 1)


def test_features_are_those_of_the_centre_crops_in_stored_order(tiny_beton):
    counted: list[int] = []
    found = extract(
        Pixels(),
        tiny_beton,
        view_size=8,
        share=0.6,
        flipped=True,
        batch_size=5,
        backend="reference",
        on_progress=counted.append,
    )
    expected = centre_crops(tiny_beton, 8, 0.6)
    with Beton(tiny_beton) as beton:
        assert torch.equal(found.labels, torch.from_numpy(np.asarray(beton.labels)))
        assert torch.equal(found.index, torch.arange(len(beton)))
        assert counted == [5, 5, len(beton) - 10]  # the short last batch counts too
    assert found.features.dtype == torch.float32
    assert torch.equal(found.features, expected.flatten(1))
    assert found.flipped is not None
    assert torch.equal(found.flipped, expected.flip(2).flatten(1))


def test_the_fused_backend_gives_nearly_the_same(tiny_beton):
    fused = extract(Pixels(), tiny_beton, view_size=24)
    truth = extract(Pixels(), tiny_beton, view_size=24, backend="reference")
    assert fused.flipped is None
    assert (fused.features - truth.features).abs().mean() < 1 / 255 / 0.22  # one grey level


def test_batch_norms_evaluate_and_learn_nothing(tiny_beton):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    one = extract(backbone, tiny_beton, view_size=16, batch_size=1)
    many = extract(backbone, tiny_beton, view_size=16, batch_size=12)
    torch.testing.assert_close(one.features, many.features)  # batch statistics would tell the batch sizes apart
    assert backbone.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_modes_come_back_even_after_an_error():
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout()))
    module[1].eval()
    during = []

    def look_and_fail() -> None:
        with evaluation_mode(module):
            during.extend(part.training for part in module.modules())
            raise KeyError

    with pytest.raises(KeyError):
        look_and_fail()
    assert during == [False] * 4
    assert [part.training for part in module.modules()] == [True, True, False, False]


@pytest.mark.parametrize(("sides", "share"), [([(32, 32)], 1.0), ([(64, 20)], 1.0), ([(32, 32), (40, 65)], 0.875)])
def test_tiny_images_are_shown_whole(tmp_path, sides, share):
    write_beton(tmp_path / "x.beton", [np.zeros((*side, 3), np.uint8) for side in sides], [0] * len(sides))
    with Beton(tmp_path / "x.beton") as beton:
        assert center_share(beton) == share
