"""A data set in shards serves the batches that the same images in one file would serve, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from loaders import BATCH_SIZE, DECODING_BACKENDS, NUM_IMAGES, SEED, Make, views_by_image
from sharded import in_shards

from pipelines import sampler
from pipelines.build import build_loader
from pipelines.config import BackgroundConfig, CropConfig, ViewsConfig
from pipelines.contract import Batch
from pipelines.loader import TableLoader
from pipelines.shards import open_beton
from saliency.store import MaskStoreWriter, open_masks

SWAPS = ViewsConfig(
    large=CropConfig(count=2, size=32),
    small=CropConfig(count=1, size=20),
    background=BackgroundConfig(mode="swap", chance=0.8),
)


@pytest.fixture
def both(make: Make, tiny_shards: Path, tiny_mask_shards: Path):
    """Return what makes two loaders with the same arguments: of one file, and of its shards."""

    def build(backend: str, **changes) -> tuple[TableLoader, TableLoader]:
        in_shards = {"data": tiny_shards, "masks": tiny_mask_shards}
        return make(backend, **changes), make(backend, **in_shards, **changes)

    return build


def contents(batch: Batch) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in (batch.index, batch.label, *batch.large, *batch.small)]


@pytest.mark.parametrize("backend", DECODING_BACKENDS)
@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_the_same_batches_on_every_rank(both, backend: str, world_size: int):
    for rank in range(world_size):
        place = {"batch_size": 8 // world_size, "rank": rank, "world_size": world_size, "drop_last": False}
        one, many = both(backend, **place)
        for epoch in (0, 3):
            one.set_epoch(epoch)
            many.set_epoch(epoch)
            assert [contents(batch) for batch in many] == [contents(batch) for batch in one]


def test_plates_stand_behind_the_same_masks(both, tiny_plates: Path):
    one, many = both("fused", recipe=SWAPS, plates=tiny_plates)
    assert views_by_image(many) == views_by_image(one)


def test_masks_take_backgrounds_away_and_absent_ones_do_not(make: Make, tiny_shards: Path, tiny_mask_shards: Path):
    recipe = ViewsConfig(
        large=CropConfig(count=1, size=32, placement="center", center_share=1.0),
        small=CropConfig(count=0, size=20),
        background=BackgroundConfig(chance=1.0),
    )
    masked, plain = (
        views_by_image(make("fused", data=tiny_shards, recipe=recipe, masks=masks))
        for masks in (tiny_mask_shards, None)
    )
    assert {2, 5} <= {index for index in plain if masked[index] == plain[index]} <= {2, 4, 5, 6}


def test_one_store_of_masks_serves_a_data_set_in_shards(
    make: Make, tiny_shards: Path, tiny_mask_shards: Path, tmp_path: Path
):
    whole = tmp_path / "whole.masks"
    with (
        open_beton(tiny_shards) as beton,
        open_masks(tiny_mask_shards) as store,
        MaskStoreWriter(whole, NUM_IMAGES, beton.fingerprint()) as writer,
    ):
        for index in range(NUM_IMAGES):
            writer.write(index, None if store.absent[index] else store.mask(index))
    loaders = [make("fused", data=tiny_shards, masks=masks) for masks in (tiny_mask_shards, whole)]
    assert views_by_image(loaders[0]) == views_by_image(loaders[1])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 4), (8, 1)])
def test_resume_in_the_middle_at_another_world_size(make: Make, tiny_shards: Path, before: int, after: int):
    def ranks(world_size: int, batch_size: int) -> list[TableLoader]:
        share = {"batch_size": batch_size // world_size, "world_size": world_size}
        return [make("synthetic", data=tiny_shards, masks=None, rank=rank, **share) for rank in range(world_size)]

    first, second = ranks(before, 8), ranks(after, 4)
    seen = torch.cat([next(iter(loader)).index for loader in first])
    state = json.loads(json.dumps(first[0].state_dict()))
    assert state["position"] == 8
    for loader in second:
        loader.load_state_dict(state)
    rest = torch.cat([batch.index for loader in second for batch in loader])
    order = sampler.order(NUM_IMAGES, seed=SEED, epoch=0)
    assert [set(seen.tolist()), set(rest.tolist())] == [set(order[:8].tolist()), set(order[8:].tolist())]


def test_few_open_shards_change_no_byte(both, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.shards.most_open", lambda: 1)
    monkeypatch.setattr("saliency.store.most_open", lambda: 1)
    one, many = both("fused", num_threads=4, prefetch=4)
    assert [contents(batch) for batch in many] == [contents(batch) for batch in one]


def test_the_state_of_the_one_file_is_that_of_other_data(both):
    one, many = both("synthetic")
    with pytest.raises(ValueError, match="loader state has fingerprint"):
        many.load_state_dict(one.state_dict())


def test_masks_of_the_one_file_are_refused(tiny_shards: Path, tiny_masks: Path):
    with pytest.raises(ValueError, match=r"tiny\.masks: was made for fingerprint"):
        build_loader(tiny_shards, SWAPS, batch_size=BATCH_SIZE, masks=tiny_masks)


def test_a_shard_that_is_lost_stops_the_loader_in_one_line(tiny_beton: Path, tmp_path: Path):
    data = in_shards(tiny_beton, tmp_path, (6, 6))
    loader = build_loader(data, ViewsConfig(), batch_size=BATCH_SIZE, backend="synthetic")
    (tmp_path / "tiny-00001.beton").unlink()
    with pytest.raises(FileNotFoundError, match=r"tiny-00001\.beton: no such file, a shard of .*copy it again"):
        list(loader)
    loader.close()


def test_stock_ffcv_reads_one_file(tiny_shards: Path):
    with pytest.raises(ValueError, match=r"tiny\.beton has 4 shards, and stock FFCV reads one file: take backend"):
        build_loader(tiny_shards, SWAPS, batch_size=BATCH_SIZE, backend="ffcv")


def test_order_is_that_of_the_sampler(make: Make, tiny_shards: Path):
    loader = make("synthetic", data=tiny_shards, masks=None)
    found = torch.cat([batch.index for batch in loader]).numpy()
    np.testing.assert_array_equal(found, sampler.order(NUM_IMAGES, seed=SEED, epoch=0))
