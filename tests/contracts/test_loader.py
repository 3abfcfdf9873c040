"""What every loader promises, held to each backend."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from loaders import (
    BATCH_SIZE,
    DECODING_BACKENDS,
    NUM_IMAGES,
    SEED,
    TABLE_BACKENDS,
    THREADED_BACKENDS,
    Make,
    views_by_image,
)

from pipelines import sampler
from pipelines.beton import Beton
from pipelines.build import build_loader
from pipelines.config import NO_PHOTOMETRIC, BackgroundConfig, CropConfig, ViewsConfig
from pipelines.contract import Batch, Loader

WHOLE = CropConfig(count=1, size=32, placement="center", center_share=1.0)
CENTERED = ViewsConfig(
    large=WHOLE,
    small=CropConfig(count=1, size=20, placement="center", center_share=1.0),
    photometric=NO_PHOTOMETRIC,
    background=BackgroundConfig(chance=0.0),
)
"""Nothing random: FFCV's views are its own, but those without chance can be compared."""
IN_SHARDS = " in shards"
BACKENDS = (
    *TABLE_BACKENDS,
    "fused" + IN_SHARDS,
    "synthetic" + IN_SHARDS,
    pytest.param("dali" + IN_SHARDS, marks=pytest.mark.extra("dali")),
    pytest.param("ffcv", marks=pytest.mark.extra("ffcv")),
)


@pytest.fixture(scope="module")
def ffcv_loader(tiny_beton: Path) -> Iterator[Loader]:
    """Return one loader for all tests: FFCV compiles each anew, for seconds."""
    loader = build_loader(tiny_beton, CENTERED, batch_size=BATCH_SIZE, seed=SEED, backend="ffcv")
    yield loader
    loader.close()


@pytest.fixture(params=BACKENDS)
def loader(request: pytest.FixtureRequest, make: Make) -> Loader:
    if request.param.endswith(IN_SHARDS):
        data, masks = (request.getfixturevalue(name) for name in ("tiny_shards", "tiny_mask_shards"))
        return make(request.param.removesuffix(IN_SHARDS), data=data, masks=masks)
    if request.param != "ffcv":
        return make(request.param)
    stock = request.getfixturevalue("ffcv_loader")
    stock.set_epoch(0)
    return stock


def contents(batch: Batch) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in (batch.index, batch.label, *batch.large, *batch.small)]


def all_contents(loader: Loader) -> list[list[bytes]]:
    return [contents(batch) for batch in loader]


# ---- batches ----------------------------------------------------------------------------------------------


def test_batches_have_the_shapes_and_types_of_the_contract(loader: Loader):
    assert isinstance(loader, Loader)
    assert loader.num_images == NUM_IMAGES
    recipe = loader.recipe  # type: ignore[attr-defined]
    batches = list(loader)
    assert len(batches) == len(loader) == NUM_IMAGES // BATCH_SIZE
    for batch in batches:
        assert batch.index.dtype == batch.label.dtype == torch.int64
        assert batch.index.shape == batch.label.shape == (BATCH_SIZE,)
        for views, crop in ((batch.large, recipe.large), (batch.small, recipe.small)):
            assert [view.dtype for view in views] == [torch.uint8] * crop.count
            assert [view.shape for view in views] == [(BATCH_SIZE, crop.size, crop.size, 3)] * crop.count
            assert all(view.is_contiguous() for view in views)


def test_index_and_label_are_those_of_the_order(loader: Loader, tiny_beton: Path):
    labels = Beton(tiny_beton).labels
    assert len(set(labels.tolist())) == 3
    for epoch in (0, 4):
        loader.set_epoch(epoch)
        batches = list(loader)
        indices = torch.cat([batch.index for batch in batches]).numpy()
        np.testing.assert_array_equal(indices, sampler.order(NUM_IMAGES, seed=SEED, epoch=epoch))
        np.testing.assert_array_equal(torch.cat([batch.label for batch in batches]).numpy(), labels[indices])


def test_a_held_batch_is_never_written_again(loader: Loader):
    held, copies = [], []
    for batch in loader:
        held.append(batch)
        copies.append(contents(batch))
    assert [contents(batch) for batch in held] == copies
    assert len({batch[2] for batch in copies}) == len(copies)


def test_epochs_differ_and_return(loader: Loader):
    first = all_contents(loader)
    loader.set_epoch(1)
    second = all_contents(loader)
    loader.set_epoch(0)
    assert all_contents(loader) == first
    assert second != first


@pytest.mark.parametrize("backend", DECODING_BACKENDS)
def test_views_of_an_image_differ_between_epochs_and_seeds(make: Make, backend: str):
    loader, other = make(backend), make(backend, seed=SEED + 1)
    first = views_by_image(loader)
    loader.set_epoch(1)
    second, third = views_by_image(loader), views_by_image(other)
    large = 0  # image 0 is large enough that two crops are never the same
    assert len({views[large][0] for views in (first, second, third)}) == 3


# ---- resume -----------------------------------------------------------------------------------------------


def test_resume_from_any_position_gives_the_same_bytes(loader: Loader):
    loader.set_epoch(2)
    whole = all_contents(loader)
    for taken in range(len(loader) + 1):
        loader.set_epoch(2)
        iterator = iter(loader)
        for _ in range(taken):
            next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))  # a state is plain values
        assert (state["epoch"], state["position"]) == (2, taken * BATCH_SIZE)
        del iterator
        loader.set_epoch(7)
        loader.load_state_dict(state)
        assert all_contents(loader) == whole[taken:]


@pytest.mark.parametrize("backend", TABLE_BACKENDS)
def test_another_process_resumes_with_other_threads_and_prefetch(make: Make, backend: str):
    first = make(backend)
    first.set_epoch(5)
    iterator = iter(first)
    next(iterator)
    state = first.state_dict()
    rest = [contents(batch) for batch in iterator]
    second = make(backend, num_threads=1, prefetch=5)
    second.load_state_dict(state)
    assert all_contents(second) == rest


@pytest.mark.parametrize("backend", TABLE_BACKENDS)
def test_another_batch_size_continues_with_the_images_not_yet_seen(make: Make, backend: str):
    first = make(backend)
    iterator = iter(first)
    seen = [next(iterator).index for _ in range(3)]
    second = make(backend, batch_size=4)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert [len(batch.index) for batch in rest] == [4]  # six images are left; the incomplete batch is dropped
    expected = sampler.order(NUM_IMAGES, seed=SEED, epoch=0)[:10]
    np.testing.assert_array_equal(torch.cat([*seen, rest[0].index]).numpy(), expected)


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 4), ("num_images", 13), ("fingerprint", "0" * 64), ("version", 0)]
)
def test_the_state_of_another_run_is_refused(loader: Loader, name: str, value: object):
    state = {**loader.state_dict(), name: value}
    with pytest.raises(ValueError, match=f"loader state has {name} {value}") as raised:
        loader.load_state_dict(state)
    assert "\n" not in str(raised.value)


def test_the_state_of_another_order_names_the_mend(loader: Loader):
    with pytest.raises(
        ValueError, match="version 1, this loader 2, which reads images in another order: finish the run"
    ):
        loader.load_state_dict({**loader.state_dict(), "version": 1})


# ---- threads, ranks, the end of an epoch ------------------------------------------------------------------


@pytest.mark.parametrize("backend", TABLE_BACKENDS)
def test_threads_and_prefetch_change_no_byte(make: Make, backend: str):
    expected = all_contents(make(backend, num_threads=1, prefetch=1))
    assert all_contents(make(backend, num_threads=5, prefetch=3)) == expected


@pytest.mark.parametrize("backend", TABLE_BACKENDS)
def test_world_sizes_give_the_same_views_of_every_image(make: Make, backend: str):
    alone = views_by_image(make(backend, batch_size=4))
    ranks = [views_by_image(make(backend, rank=rank, world_size=2)) for rank in range(2)]
    assert not ranks[0].keys() & ranks[1].keys()
    assert ranks[0] | ranks[1] == alone


@pytest.mark.parametrize("backend", TABLE_BACKENDS)
def test_two_ranks_train_on_the_images_of_one(make: Make, backend: str):
    alone = [set(batch.index.tolist()) for batch in make(backend, batch_size=4)]
    ranks = [list(make(backend, rank=rank, world_size=2)) for rank in range(2)]
    together = [set(a.index.tolist()) | set(b.index.tolist()) for a, b in zip(*ranks, strict=True)]
    assert together == alone


@pytest.mark.parametrize("backend", TABLE_BACKENDS)
def test_the_last_batch_may_be_short(make: Make, backend: str):
    loader = make(backend, batch_size=5, drop_last=False, shuffle=False)
    batches = list(loader)
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert len(loader) == 3
    assert batches[-1].large[0].shape == (2, 32, 32, 3)
    assert loader.state_dict()["position"] == NUM_IMAGES
    assert len(make(backend, batch_size=5)) == len(list(make(backend, batch_size=5))) == 2


@pytest.mark.parametrize("backend", TABLE_BACKENDS)
def test_every_rank_gets_as_many_batches_even_if_one_is_empty(make: Make, backend: str):
    sizes = [
        [len(batch.large[0]) for batch in make(backend, batch_size=1, rank=rank, world_size=8, drop_last=False)]
        for rank in (0, 7)
    ]
    assert sizes == [[1, 1], [1, 0]]


# ---- life and death ---------------------------------------------------------------------------------------


def test_the_rest_of_a_finished_epoch_is_nothing(loader: Loader):
    assert len(list(loader)) == len(loader)
    assert list(loader) == []
    loader.set_epoch(0)
    assert len(list(loader)) == len(loader)


@pytest.mark.parametrize("last", [2, NUM_IMAGES // BATCH_SIZE - 1])
def test_an_abandoned_iterator_leaves_its_place(loader: Loader, last: int):
    whole = all_contents(loader)
    loader.set_epoch(0)
    for taken, batch in enumerate(loader):
        assert contents(batch) == whole[taken]
        if taken == last:
            break
    assert all_contents(loader) == whole[last + 1 :]
    loader.set_epoch(0)
    assert all_contents(loader) == whole


class Counted:
    """A render that counts and dawdles."""

    def __init__(self, render):
        self.render, self.calls, self.lock = render, 0, threading.Lock()

    def __call__(self, *arguments):
        with self.lock:
            self.calls += 1
        time.sleep(0.01)
        return self.render(*arguments)


def settle(counted: Counted) -> int:
    """Return the number of calls once none was made for a while."""
    seen = -1
    while seen != counted.calls:
        seen = counted.calls
        time.sleep(0.15)
    return seen


@pytest.mark.parametrize("backend", THREADED_BACKENDS)
def test_at_most_prefetch_batches_are_in_flight(make: Make, backend: str):
    loader = make(backend, prefetch=2)
    loader.render = counted = Counted(loader.render)
    iterator = iter(loader)
    next(iterator)
    assert settle(counted) == 2 * BATCH_SIZE
    next(iterator)
    assert settle(counted) == 3 * BATCH_SIZE


@pytest.mark.parametrize("backend", THREADED_BACKENDS)
def test_an_abandoned_iterator_renders_no_more(make: Make, backend: str):
    loader = make(backend, batch_size=6, num_threads=1)
    loader.render = counted = Counted(loader.render)
    iterator = iter(loader)
    next(iterator)
    iterator.close()
    assert settle(counted) <= 6 + 2  # of twelve: the next ones may have begun


@pytest.mark.parametrize("backend", THREADED_BACKENDS)
def test_a_batch_that_fails_is_rendered_no_further(make: Make, backend: str):
    loader = make(backend, batch_size=12, num_threads=1, shuffle=False)

    def render(source, index, rows, outputs, slot):
        if index == 0:
            raise ValueError("the first one fails")
        return {}

    loader.render = counted = Counted(render)
    with pytest.raises(ValueError, match="the first one fails"):
        next(iter(loader))
    assert settle(counted) <= 3  # of twelve: one more may have begun


@pytest.mark.parametrize("backend", THREADED_BACKENDS)
def test_close_in_mid_epoch_ends_the_threads(make: Make, backend: str):
    before = set(threading.enumerate())
    loader = make(backend, num_threads=3)
    iterator = iter(loader)
    next(iterator)
    assert {thread.name.partition("_")[0] for thread in set(threading.enumerate()) - before} == {"views"}
    loader.close()
    assert set(threading.enumerate()) <= before
    loader.close()  # twice is no harm: a loader may be closed on the way out of an error


def test_stats_count_batches_and_stages(loader: Loader, request: pytest.FixtureRequest):
    before = loader.stats().get("batches", 0)
    taken = len(list(loader))
    stats = loader.stats()
    assert stats["batches"] == before + taken
    assert stats["wait"] > 0
    assert 0 <= stats["occupancy"] <= 1
    backend = request.node.callspec.params["loader"].removesuffix(IN_SHARDS)
    if backend == "dali":
        assert stats["table"] > 0
        assert stats["photometric"] > 0
    assert (backend in DECODING_BACKENDS) == (stats.get("decode", 0) > 0) == (stats.get("render", 0) > 0)


def test_ctrl_c_ends_a_process_in_the_middle_of_an_epoch(tiny_beton: Path):
    """The workers are joined and the interpreter ends: within seconds, by the signal, with one traceback."""
    program = f"""
import signal
from pipelines.build import build_loader
from pipelines.config import ViewsConfig
loader = build_loader({str(tiny_beton)!r}, ViewsConfig(), batch_size=4, num_threads=4, prefetch=3)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it from birth
epoch = 0
while True:
    loader.set_epoch(epoch)
    for batch in loader:
        print("batch", flush=True)
    epoch += 1
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "batch\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("backend", DECODING_BACKENDS)
def test_only_large_views_of_images_with_a_mask_lose_their_background(make: Make, backend: str):
    recipe = ViewsConfig(large=WHOLE, small=CropConfig(count=1, size=20), background=BackgroundConfig(chance=1.0))
    masked, plain = (views_by_image(make(backend, recipe=recipe, **masks)) for masks in ({}, {"masks": None}))
    changed = {index for index in plain if masked[index][0] != plain[index][0]}
    # 2 and 5 have no mask; 4 and 6 are so narrow that the centre, where the mask is, is all of the view.
    assert changed >= set(range(NUM_IMAGES)) - {2, 4, 5, 6}
    assert not changed & {2, 5}
    assert all(masked[index][1] == plain[index][1] for index in plain)
