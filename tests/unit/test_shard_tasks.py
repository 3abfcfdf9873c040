"""What makes a shard: which images it holds, what it is told, and that nothing grows with their number."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from making import encoded, pixels
from shard_sets import BAD, GOOD, beside, made, run, stored
from test_sources import folder, tar_bytes

from pipelines.beton import Beton
from pipelines.prepare import engines, sharded, sources
from pipelines.prepare.convert import ConvertConfig, convert
from pipelines.prepare.images import Treatment
from pipelines.prepare.listing import Found
from pipelines.prepare.shard import ShardMade, ShardTask, Slice, Tars, convert_shard
from pipelines.shards import open_beton


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder(tmp_path / "source", GOOD | BAD)


def webdataset(root: Path) -> Path:
    root.mkdir()
    names = sorted(GOOD)
    for number in range(4):
        members = {}
        for place, name in enumerate(names[number::4]):
            key = f"{number:02d}{place:03d}"
            members |= {f"{key}.cls": str(len(name) + place).encode(), f"{key}.json": b"{}", f"{key}.jpg": GOOD[name]}
        (root / f"set-{number:04d}.tar").write_bytes(tar_bytes(members | {"bad.jpg": b""}))
    return root


@pytest.mark.parametrize("workers", [1, 2])
def test_webdatasets_are_not_listed_first(tmp_path: Path, workers: int, monkeypatch) -> None:
    source = webdataset(tmp_path / "set")
    one, many = beside(tmp_path, "one"), beside(tmp_path, "many")
    single = run(source, one, shard_size=None)
    monkeypatch.setattr(sharded, "plan", None)
    totals: list[tuple[int, str]] = []
    config = ConvertConfig(shard_size=1, workers=workers)
    summary = convert(source / "set-{0000..0003}.tar", many, config=config, on_start=lambda *t: totals.append(t))
    assert totals == [(4, "tars")]
    assert stored(many) == stored(one)
    assert (one.parent / "x.rejected.jsonl").read_text() == (many.parent / "x.rejected.jsonl").read_text()
    assert (summary.shards, summary.ignored, summary.images) == (4, 16, 16)
    assert (summary.classes, summary.rejected) == (single.classes, single.rejected)
    assert [shard.images for shard in open_beton(many).shards] == [4, 4, 4, 4]  # type: ignore[union-attr]


def test_subsets_of_webdatasets_are_listed(tmp_path: Path) -> None:
    source = webdataset(tmp_path / "set")
    one, many = beside(tmp_path, "one"), beside(tmp_path, "many")
    run(source, one, shard_size=None, per_class=1)
    assert run(source, many, shard_size=2000, per_class=1).shards > 1
    assert stored(many) == stored(one)


def test_a_tar_is_not_cut_and_few_make_a_shard(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sharded, "MOST_TARS", 3)
    run(webdataset(tmp_path / "set"), tmp_path / "x.beton", shard_size=1 << 30)
    assert [shard.images for shard in open_beton(tmp_path / "x.beton").shards] == [12, 4]  # type: ignore[union-attr]


def test_a_remote_source_is_read_by_workers(source: Path, tmp_path: Path) -> None:
    one, many = beside(tmp_path, "one"), beside(tmp_path, "many")
    run(source, one)
    run(f"file://{source}", many, workers=2)
    assert stored(many) == stored(one)


@pytest.mark.parametrize(
    ("sizes", "most", "count", "expected"),
    [
        ([], 10, 9, []),
        ([3, 3, 3, 3], 6, 9, [2, 2]),
        ([30, 1, 1], 10, 9, [1, 2]),
        ([1, 30, 1], 10, 9, [1, 1, 1]),
        ([0] * 7, 10, 3, [3, 3, 1]),
    ],
)
def test_cuts(sizes: list[int], most: int, count: int, expected: list[int]) -> None:
    cuts = sharded.cut(iter(sizes), most, count=count)
    assert [len(cut) for cut in cuts] == expected
    assert [place for cut in cuts for place in cut] == list(range(len(sizes)))


def test_a_machine_that_does_not_see_the_files_says_so(source: Path, tmp_path: Path, monkeypatch) -> None:
    """Rather than reject every image, and so thin out the data."""
    with sources.plan(source, path=tmp_path / "x.plan") as plan:
        whole = Slice(str(tmp_path / "x.plan"), 0, len(plan.sources))
    treatment = Treatment(page_size=1 << 21)

    def make(out: Path, part: Slice | Tars) -> None:
        convert_shard(ShardTask(out=out, key="0" * 64, number=0, part=part, treatment=treatment))

    mend = "not there on .*; with --engine ray all machines must see the same files"
    with pytest.raises(FileNotFoundError, match=rf"elsewhere: {mend}"):
        make(tmp_path / "elsewhere/x.beton", whole)
    with pytest.raises(FileNotFoundError, match=rf"y\.plan: {mend}"):
        make(tmp_path / "x.beton", whole._replace(plan=str(tmp_path / "y.plan")))
    with pytest.raises(FileNotFoundError, match=r"gone\.tar"):
        make(tmp_path / "x.beton", Tars((str(tmp_path / "gone.tar"),)))
    access = os.access
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: Path(path) != source and access(path, mode))
        with pytest.raises(PermissionError, match=r"source: not readable on .*; change its permissions"):
            make(tmp_path / "x.beton", whole)
    source.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=rf"source: {mend}"):
        make(tmp_path / "x.beton", whole)
    assert list(tmp_path.glob("*x-0*")) == []


def synthetic_files(count: int) -> Iterator[Found]:
    for number in range(count):
        yield Found("/nowhere", f"{number % 7}/{number:012d}.jpg", -1, 100, 0, -1, number, None)


def test_a_plan_takes_no_memory_per_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(count: int) -> int:
        monkeypatch.setattr(sources, "archives_of", lambda _: None)
        monkeypatch.setattr(sources, "class_folders", lambda _: [str(number) for number in range(7)])
        monkeypatch.setattr(sources, "folder_files", lambda _: synthetic_files(count))
        tracemalloc.start()
        with sources.plan("/nowhere", path=tmp_path / "x.plan") as plan:
            assert len(plan.sources) == count
            sharded.cut(plan.sources.sizes(), 100_000, count=1 << 20)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(500)
    few, many = peak(1000), peak(10_000)
    # A cut of 1,000 images is 64 bytes; a tuple for each image would be 4 MB.
    assert many - few < 200_000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shard_size": 0}, "shard-size 0: give at least 1 byte"),
        ({"engine": "ray"}, "engine ray spreads shards over machines: give --shard-size, for instance 4GiB"),
        ({"shard_size": 9, "address": "h:1"}, "give --engine ray"),
        ({"shard_size": 9, "workers": 0}, "workers 0"),
    ],
)
def test_options_that_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvertConfig(**wrong)


def test_the_function_is_the_same_for_every_engine(source: Path, tmp_path: Path, monkeypatch) -> None:
    functions = []
    monkeypatch.setattr(
        sharded, "run", lambda f, tasks, **options: functions.append(f) or engines.run(f, tasks, **options)
    )
    run(source, tmp_path / "x.beton")
    assert functions == [convert_shard]


def test_pages_grow_to_the_largest_image_of_their_shard(tmp_path: Path) -> None:
    large = GOOD["ant/1.jpg"] + bytes(3 << 20)
    source = folder(tmp_path / "source", {"a/1.jpg": GOOD["ant/0.jpg"], "a/2.jpg": large})
    assert run(source, tmp_path / "x.beton", page_size=1 << 21).page_size == 1 << 22
    sizes = [Beton(path).page_size for path in sorted(tmp_path.glob("x-*.beton"))]
    assert sizes == [1 << 21, 1 << 22]


def test_a_relative_source_is_found_from_another_folder(source: Path, tmp_path: Path, monkeypatch) -> None:
    """Where the machines of a cluster work."""
    run(source, beside(tmp_path, "one"))
    made_by = sharded.convert_shard

    def elsewhere(task: ShardTask) -> ShardMade:
        monkeypatch.chdir("/")
        return made_by(task)

    monkeypatch.setattr(sharded, "convert_shard", elsewhere)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two").mkdir()
    run("source", Path("two/x.beton").absolute())
    assert made(tmp_path / "two") == made(tmp_path / "one")


def test_pixels_alone(tmp_path: Path) -> None:
    data = encoded(900, 900, 1, file_format="PNG")
    folder(tmp_path / "source", {"a/1.png": data})
    run(tmp_path / "source", tmp_path / "x.beton")
    np.testing.assert_array_equal(open_beton(tmp_path / "x.beton").pixels(0), pixels(900, 900, 1))
