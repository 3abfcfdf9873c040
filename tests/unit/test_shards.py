"""Many betons as one: what the whole gives is what its shards hold, and no shard is taken for another."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import encoded, pixels
from sharded import in_shards

from pipelines import shards
from pipelines.beton import Beton
from pipelines.prepare.writer import write_beton
from pipelines.shards import ShardedBeton, describe_shard, open_beton, write_manifest
from saliency.shards import Column, most_open

IMAGES = [pixels(21, 13, i) if i % 3 == 1 else encoded(20 + i, 30 + 2 * i, i) for i in range(9)]
LABELS = [4, -1, 0, 2, 2, 7, 1, 0, 3]
SIZES = (4, 0, 1, 4)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    write_beton(tmp_path / "x.beton", IMAGES, LABELS, class_names=list("abcdefgh"))
    return tmp_path / "x.beton"


@pytest.fixture
def manifest(single: Path, tmp_path: Path) -> Path:
    return in_shards(single, tmp_path / "cut", SIZES)


# ---- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [SIZES, (9,), (0, 9, 0), (1,) * 9, (2, 3, 4)])
def test_the_whole_is_what_one_file_would_be(single: Path, tmp_path: Path, sizes: tuple[int, ...]):
    with open_beton(single) as one, open_beton(in_shards(single, tmp_path / "cut", sizes)) as many:
        assert isinstance(one, Beton)
        assert isinstance(many, ShardedBeton)
        assert len(many) == many.num_images == 9
        assert many.class_names == one.class_names == list("abcdefgh")
        assert many.page_size == one.page_size
        assert [file.name for file in many.files] == [f"x-{number:05d}.beton" for number in range(len(sizes))]
        for name in ("labels", "heights", "widths", "payload_sizes"):
            assert getattr(many, name).tolist() == getattr(one, name).tolist()
        for index in range(9):
            assert many.is_jpeg(index) == one.is_jpeg(index)
            if one.is_jpeg(index):
                assert bytes(many.jpeg(index)) == bytes(one.jpeg(index)) == IMAGES[index]
            else:
                np.testing.assert_array_equal(many.pixels(index), one.pixels(index))


def test_the_kind_of_an_image_is_told_by_its_own_shard(manifest: Path):
    with open_beton(manifest) as beton:
        with pytest.raises(ValueError, match=r"x-00003\.beton: image 2 is stored as pixels"):
            beton.jpeg(7)
        with pytest.raises(IndexError, match="image 9 is not among 9"):
            beton.jpeg(9)


def test_pickles_by_path(manifest: Path):
    with pickle.loads(pickle.dumps(open_beton(manifest))) as beton:
        assert bytes(beton.jpeg(8)) == IMAGES[8]


def test_no_shards_are_no_images(tmp_path: Path):
    write_manifest(tmp_path / "x.beton", [])
    with open_beton(tmp_path / "x.beton") as beton:
        assert (beton.num_images, beton.labels.tolist(), beton.class_names) == (0, [], None)


# ---- columns ------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(-5, 60_000), max_size=5), min_size=1, max_size=6), st.data())
def test_a_column_indexes_as_the_array_it_stands_for(parts: list[list[int]], data: st.DataObject):
    arrays = [np.array(part, np.int32) for part in parts]
    whole = np.concatenate(arrays).astype(np.int64)
    column = Column([0, *np.cumsum([len(part) for part in parts]).tolist()], lambda number: arrays[number])
    assert len(column) == len(whole)
    assert column.tolist() == whole.tolist()
    assert np.asarray(column).dtype == column[:0].dtype == np.int64
    place = st.integers(-len(whole), len(whole) - 1) if len(whole) else st.nothing()
    indices = data.draw(st.lists(place, max_size=12) if len(whole) else st.just([]))
    np.testing.assert_array_equal(column[np.array(indices, np.int64)], whole[np.array(indices, np.int64)])
    assert [int(column[index]) for index in indices] == whole[np.array(indices, np.int64)].tolist()
    cut = slice(data.draw(st.none() | st.integers(-9, 9)), data.draw(st.none() | st.integers(-9, 9)), 2)
    np.testing.assert_array_equal(column[cut], whole[cut])
    np.testing.assert_array_equal(column[column >= 0], whole[whole >= 0])
    np.testing.assert_array_equal(column + 2 * column, 3 * whole)
    assert column.min(initial=-9) == whole.min(initial=-9)
    assert column.max(initial=10**6) == whole.max(initial=10**6)
    assert column.sum() == whole.sum()
    if len(whole):
        assert (column.min(), column.max(), column.mean()) == (whole.min(), whole.max(), whole.mean())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (np.array([True, False]), r"a mask of shape \(2,\) is not one of 5 images"),
        (np.ones((5, 1), bool), r"a mask of shape \(5, 1\) is not one of 5 images"),
        (np.array([0.9, 1.9]), "images are numbered by integers, not float64"),
        (np.array([]), "images are numbered by integers, not float64"),
    ],
)
def test_what_numbers_no_images(key: np.ndarray, message: str):
    with pytest.raises(IndexError):
        np.arange(5)[key]
    with pytest.raises(IndexError, match=message):
        Column.of(np.arange(5))[key]
    assert Column.of(np.arange(5))[[]].tolist() == np.arange(5)[[]].tolist()


@pytest.mark.parametrize("shape", [(2, 3), (0, 2), ()])
def test_indices_may_have_any_shape(shape: tuple[int, ...]):
    indices = np.zeros(shape, int) + 3
    np.testing.assert_array_equal(Column.of(np.arange(5))[indices], np.arange(5)[indices])


def test_a_column_goes_block_by_block(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("saliency.shards.BLOCK_IMAGES", 4)
    column = Column.of(np.arange(10, dtype=np.uint16))
    assert [block.tolist() for block in column.blocks()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert column.sum() == 45


@pytest.mark.parametrize("index", [9, -10, [0, 9], [-10]])
def test_an_image_that_is_not_there_is_no_other_one(manifest: Path, index: int | list[int]):
    with open_beton(manifest) as beton, pytest.raises(IndexError, match="among 9"):
        beton.labels[index]


# ---- what is held -------------------------------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def test_shards_are_opened_when_they_are_wanted_and_few_at_a_time(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shards, "most_open", lambda: 3)
    path = in_shards(single, tmp_path / "cut", (1,) * 9)
    before = open_files()
    with open_beton(path) as beton:
        assert (beton.num_images, len(beton.fingerprint())) == (9, 64)
        assert open_files() == before
        held = beton.jpeg(0)
        assert open_files() == before + 1
        for index in (1, 4, 7, 5, 8, 2, 1):
            assert beton.labels[index] == LABELS[index]
        assert bytes(held) == IMAGES[0]  # its shard was closed, its memory stays
        assert open_files() == before + 1 + 3
        del held
        assert open_files() == before + 3
    assert open_files() == before


def test_threads_may_want_more_shards_than_may_be_open(single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards, "most_open", lambda: 1)
    jpegs = [index for index in range(9) if isinstance(IMAGES[index], bytes)]
    with open_beton(in_shards(single, tmp_path / "cut", (1,) * 9)) as beton, ThreadPoolExecutor(4) as pool:
        for order in (jpegs * 20, jpegs[::-1] * 20):
            assert list(pool.map(lambda index: bytes(beton.jpeg(index)) == IMAGES[index], order)) == [True] * len(order)


def test_a_shard_is_gone_through_once(single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards, "most_open", lambda: 1)
    path = in_shards(single, tmp_path / "cut", (4, 5))
    hashed: list[str] = []
    fingerprint = Beton.fingerprint
    monkeypatch.setattr(Beton, "fingerprint", lambda self: hashed.append(self.path.name) or fingerprint(self))
    with open_beton(path) as beton:
        for index in (0, 5, 1, 6, 2, 7):
            assert beton.heights[index] == Beton(single).heights[index]
    assert hashed == ["x-00000.beton", "x-00001.beton"]


def test_half_of_the_open_files_is_left_to_others(monkeypatch: pytest.MonkeyPatch):
    for limit, most in ((1024, 256), (65536, 16384), (-1, 16384), (2, 1)):
        monkeypatch.setattr("resource.getrlimit", lambda _, limit=limit: (limit, limit))
        assert most_open() == most


# ---- what is refused ----------------------------------------------------------------------------------------


def read_all(path: Path) -> None:
    with open_beton(path) as beton:
        beton.labels.tolist()


def refused(
    path: Path, kind: type[Exception], message: str, shard: str = "x-00002.beton", read: Callable = open_beton
) -> None:
    with pytest.raises(kind, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path.with_name(shard)))


def test_a_missing_shard(manifest: Path):
    manifest.with_name("x-00002.beton").unlink()
    refused(manifest, FileNotFoundError, r"no such file, a shard of .*x\.beton; copy it again, or convert")


def test_a_truncated_shard(manifest: Path):
    shard = manifest.with_name("x-00002.beton")
    shard.write_bytes(shard.read_bytes()[:-1])
    refused(manifest, ValueError, r"a shard of .*x\.beton that has .* bytes, not .* \(truncated or changed\); copy it")


def test_a_shard_of_the_same_size_with_another_label(manifest: Path):
    write_beton(manifest.with_name("x-00002.beton"), [IMAGES[4]], [LABELS[4] + 1])
    refused(
        manifest,
        ValueError,
        r"other images than when .*x\.beton was made of it; copy it again, or convert",
        read=read_all,
    )


def test_shards_that_changed_places(single: Path, tmp_path: Path):
    path = in_shards(single, tmp_path / "cut", (1,) * 9)
    one, other = (path.with_name(f"x-0000{number}.beton") for number in (1, 4))  # pixels of one size, other labels
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    refused(path, ValueError, "other images than when", "x-00001.beton", read_all)


def test_a_shard_that_is_replaced_while_the_set_is_open(manifest: Path):
    with open_beton(manifest) as beton:
        write_beton(manifest.with_name("x-00002.beton"), IMAGES[:2], LABELS[:2])
        assert beton.labels[0] == LABELS[0]
        with pytest.raises(ValueError, match=r"x-00002\.beton: a shard of .* \(truncated or changed\)"):
            beton.labels[4]


def test_a_shard_that_is_truncated_after_it_was_gone_through(manifest: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards, "most_open", lambda: 1)
    with open_beton(manifest) as beton:
        assert [beton.labels[index] for index in (4, 0)] == [LABELS[4], LABELS[0]]
        write_beton(manifest.with_name("x-00002.beton"), IMAGES[:2], LABELS[:2])
        with pytest.raises(ValueError, match=r"x-00002\.beton: a shard of .* \(truncated or changed\)"):
            beton.labels[4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content | {"format": "relicv2 mask shards"}, "is of format 'relicv2 mask shards', where"),
        (lambda content: content | {"version": 2}, "relicv2 shards of version 2, where 1 is read"),
        (lambda content: {"shards": []}, "damaged"),
        (lambda content: content | {"shards": 3}, "damaged"),
        (lambda content: content | {"shards": [{"file": "a.beton", "images": 1, "bytes": 3}]}, "no 'fingerprint'"),
        (
            lambda content: content | {"shards": [content["shards"][0] | {"file": "../x-00000.beton"}]},
            "does not lie beside it",
        ),
    ],
)
def test_what_is_no_manifest(manifest: Path, change, message: str):
    manifest.write_text(json.dumps(change(json.loads(manifest.read_text()))))
    refused(manifest, ValueError, f"{message}.*; make it again by `relic data convert", "x.beton")


def test_half_a_manifest(manifest: Path):
    manifest.write_text(manifest.read_text()[:100])
    refused(manifest, ValueError, "damaged", "x.beton")


def test_no_data_set_at_all(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nope\.beton: no such file; make a beton by"):
        open_beton(tmp_path / "nope.beton")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        open_beton(tmp_path)


# ---- the manifest -------------------------------------------------------------------------------------------


def test_layout_on_disk(single: Path, tmp_path: Path):
    shard = describe_shard(single)
    write_manifest(tmp_path / "y.beton", [shard], images=9)
    assert json.loads((tmp_path / "y.beton").read_text()) == {
        "format": "relicv2 shards",
        "version": 1,
        "images": 9,
        "shards": [
            {
                "file": "x.beton",
                "images": 9,
                "bytes": single.stat().st_size,
                "fingerprint": Beton(single).fingerprint(),
            }
        ],
    }
    assert sorted(os.listdir(tmp_path)) == ["x.beton", "x.beton.classes.txt", "y.beton"]


def test_an_older_manifest_stays_where_the_new_one_cannot_be_written(manifest: Path):
    before = manifest.read_text()
    with pytest.raises(TypeError):
        write_manifest(manifest, [], images={1, 2})
    assert manifest.read_text() == before
    assert not [name for name in os.listdir(manifest.parent) if name.endswith(".partial")]


def test_fingerprint_tells_data_sets_and_their_cuts_apart_and_nothing_else(single: Path, tmp_path: Path):
    write_beton(tmp_path / "y.beton", IMAGES, [*LABELS[:-1], 9])
    paths = [
        in_shards(single, tmp_path / "a", (4, 5)),
        in_shards(single, tmp_path / "b", (5, 4)),
        in_shards(single, tmp_path / "c", (9,)),
        in_shards(tmp_path / "y.beton", tmp_path / "d", (4, 5)),
        single,
    ]
    assert len({open_beton(path).fingerprint() for path in paths}) == len(paths)
    before = open_beton(paths[0]).fingerprint()
    (tmp_path / "a").rename(tmp_path / "moved")
    assert open_beton(tmp_path / "moved" / "x.beton").fingerprint() == before
