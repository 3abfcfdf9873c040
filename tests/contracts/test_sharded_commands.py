"""What opens data takes shards as it takes one file: pictures, evaluation, training, the doctor, the benchmark."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from loaders import RECIPE
from sharded import in_shards
from stored_runs import colour_beton
from torch import Tensor, nn

from benchmarks.loader import _described
from pipelines.prepare.writer import write_beton
from pipelines.shards import open_beton
from relic.checks import machine
from relic.config import LossConfig, RunConfig
from relic.evaluate.features import Features, center_share, extract
from relic.evaluate.protocols import open_data
from relic.pictures import render_examples
from relic.train import describe_data


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return 18 images of three classes in one file, and in shards."""
    folder = tmp_path_factory.mktemp("colours")
    one = colour_beton(folder / "colours.beton", per_class=6)
    return one, in_shards(one, folder / "shards", (7, 0, 10, 1))


class Means(nn.Module):
    """The channels' means."""

    feature_dim = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_pictures_of_named_images(tiny_beton, tiny_masks, tiny_shards, tiny_mask_shards):
    sheets = [
        render_examples(data, RECIPE, masks=masks, indices=[7, 0, 2, 11], seed=4, epoch=2)
        for data, masks in ((tiny_beton, tiny_masks), (tiny_shards, tiny_mask_shards))
    ]
    assert [example.title.split()[1] for example in sheets[1]] == ["7", "0", "2", "11"]
    for one, many in zip(*sheets, strict=True):
        assert many.title == one.title
        np.testing.assert_array_equal(many.image, one.image)
        np.testing.assert_array_equal(many.rows, one.rows)
        for a, b in zip(many.views["fused"], one.views["fused"], strict=True):
            np.testing.assert_array_equal(a, b)


def test_evaluation_sees_the_same_data_and_features(colours: tuple[Path, Path]):
    one, many = (open_data(path, {"same": path}, ["knn"]) for path in colours)
    assert one.num_classes == many.num_classes == 3
    assert one.class_names == many.class_names == ["red", "green", "blue"]
    assert one.center_share == many.center_share == 1.0
    for data in (one, many):
        assert data.train.labels.tolist() == data.tests["same"].labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
        assert data.tests["same"].is_training_set
    found = [extract(Means(), path, view_size=8, share=1.0, batch_size=5) for path in colours]
    assert all(isinstance(features, Features) for features in found)
    for name in ("features", "labels", "index"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


def test_classes_are_matched_by_name_between_one_file_and_shards(colours: tuple[Path, Path], tmp_path: Path):
    some = colour_beton(tmp_path / "some.beton", per_class=2, names=("blue", "green"))
    tests = {"some": in_shards(some, tmp_path / "shards", (3, 1))}
    assert open_data(colours[0], tests, ["knn"]).tests["some"].labels.tolist() == [2, 2, 1, 1]


def test_training_learns_how_many_images_and_classes(colours: tuple[Path, Path], tmp_path: Path):
    for data in colours:
        config = RunConfig(recipe="test", data=str(data), loss=LossConfig(kind="supervised"))
        assert describe_data(config) == {"num_images": 18, "num_classes": 3}
        assert describe_data(RunConfig(recipe="test", data=str(data)))["num_images"] == 18
    write_beton(tmp_path / "x.beton", [np.zeros((4, 4, 3), np.uint8)] * 3, [1, 0, -1])
    unlabeled = str(in_shards(tmp_path / "x.beton", tmp_path / "shards", (2, 1)))
    with pytest.raises(ValueError, match="images without labels"):
        describe_data(RunConfig(recipe="test", data=unlabeled, loss=LossConfig(kind="supervised")))


def test_the_doctor_reads_all_shards(tiny_shards: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[tuple[int, int]] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, place: read.append((file, place)) or pread(file, size, place))
    monkeypatch.setattr(machine, "READ_BYTES", 1 << 20)
    (check,) = machine.reading(tiny_shards)
    assert check.status == "ok"
    assert len({file for file, _ in read}) == 4
    assert len(set(read)) == len(read) > 10


def test_the_doctor_names_a_missing_shard(tiny_beton: Path, tmp_path: Path):
    path = in_shards(tiny_beton, tmp_path, (6, 6))
    (tmp_path / "tiny-00001.beton").unlink()
    (check,) = machine.reading(path)
    assert check.status == "broken"
    assert "tiny-00001.beton" in check.detail


def test_the_benchmark_describes_them(colours: tuple[Path, Path]):
    assert _described(colours[0]) == _described(colours[1])


def test_the_evaluation_crop_is_that_of_the_largest_image(tiny_beton: Path, tiny_shards: Path):
    with open_beton(tiny_beton) as one, open_beton(tiny_shards) as many:
        assert center_share(one) == center_share(many) == 0.875
