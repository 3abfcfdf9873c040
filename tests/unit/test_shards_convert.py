"""Conversion in shards: the images of one file, from anyone's hands, and nothing under its name before all is there."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
from shard_sets import BAD, GOOD, SHARD, Stop, beside, interrupted, made, run, stored
from test_sources import folder

from pipelines.beton import Beton
from pipelines.prepare import sharded, sources, target
from pipelines.prepare.convert import ConvertConfig, convert
from pipelines.prepare.partial import shard_path
from pipelines.prepare.shard import ShardTask, convert_shard
from pipelines.prepare.writer import write_beton
from pipelines.shards import open_beton
from relic.cli import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder(tmp_path / "source", GOOD | BAD)


def test_shards_hold_the_images_of_one_file_in_its_order(source: Path, tmp_path: Path) -> None:
    one, many = beside(tmp_path, "one"), beside(tmp_path, "many")
    single = run(source, one, shard_size=None)
    summary = run(source, many)
    assert stored(many) == stored(one)
    assert (one.parent / "x.rejected.jsonl").read_text() == (many.parent / "x.rejected.jsonl").read_text()
    assert (one.parent / "x.beton.classes.txt").read_text() == (many.parent / "x.beton.classes.txt").read_text()
    for name in ("images", "jpegs", "classes", "rejected", "ignored", "page_size"):
        assert getattr(summary, name) == getattr(single, name)
    names = [f"x-{number:05d}.beton" for number in range(summary.shards)]
    assert summary.shards > 3
    assert sorted(made(many.parent)) == sorted([*names, "x.beton", "x.beton.classes.txt", "x.rejected.jsonl"])
    assert summary.bytes == sum((many.parent / name).stat().st_size for name in names)


def test_a_shard_is_the_file_that_its_sources_make(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "x.beton")
    with Beton(tmp_path / "x-00001.beton") as shard, sources.plan(source) as plan:
        images = [bytes(shard.jpeg(index)) for index in range(shard.num_images)]
        labels = [source.label for source in plan.sources if (tmp_path / "source" / source.name).read_bytes() in images]
    write_beton(tmp_path / "y.beton", images, labels)
    assert (tmp_path / "y.beton").read_bytes() == (tmp_path / "x-00001.beton").read_bytes()


def test_same_bytes_from_any_number_of_workers_and_after_an_interruption(source: Path, tmp_path: Path) -> None:
    run(source, beside(tmp_path, "one"))
    run(source, beside(tmp_path, "three"), workers=3)
    assert made(tmp_path / "three") == made(tmp_path / "one")
    out = beside(tmp_path, "again")
    interrupted(source, out, 9)
    assert not out.exists()
    assert all("partial" in name for name in made(out.parent))
    kept = {path: path.stat().st_mtime_ns for path in out.parent.glob("x-*.beton.*.partial")}
    assert len(kept) >= 2
    steps: list[int] = []
    totals: list[tuple[int, str]] = []
    summary = convert(
        source,
        out,
        config=ConvertConfig(shard_size=SHARD, workers=2),
        on_start=lambda *total: totals.append(total),
        on_progress=steps.append,
    )
    assert summary.resumed_files == steps[0] >= 9
    assert totals == [(19, "files")]
    assert sum(steps) == 19
    assert made(out.parent) == made(tmp_path / "one")
    for path, time in kept.items():  # renamed, not made again
        assert path.with_suffix("").with_suffix("").stat().st_mtime_ns == time


def test_a_killed_worker_costs_its_shard(source: Path, tmp_path: Path) -> None:
    run(source, beside(tmp_path, "one"))
    out = beside(tmp_path, "killed")

    def kill_one(done: int) -> None:
        if done:
            for child in multiprocessing.active_children():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(ChildProcessError, match=r"a worker was killed by signal 9 .*run the same command again"):
        convert(source, out, config=ConvertConfig(shard_size=SHARD, workers=2), on_progress=kill_one)
    assert run(source, out).resumed_files >= 2
    assert made(out.parent) == made(tmp_path / "one")


def test_what_an_attempt_left_behind_goes(source: Path, tmp_path: Path) -> None:
    run(source, beside(tmp_path, "one"))
    out = beside(tmp_path, "again")
    (out.parent / ".x-00001.beton.0123456789ab.attempt").write_bytes(b"of a machine that was lost")
    (out.parent / "x-00001.beton.0123456789ab.partial").write_bytes(b"of a conversion without its journal")
    (out.parent / "x-00009.rejected.jsonl.0123456789ab.partial").write_bytes(b"")
    run(source, out)
    assert made(out.parent) == made(tmp_path / "one")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 100)])
def test_a_finished_shard_that_the_disk_lost_is_made_again(source: Path, tmp_path: Path, damage) -> None:
    run(source, beside(tmp_path, "one"))
    out = beside(tmp_path, "again")
    interrupted(source, out, 9)
    damage(next(out.parent.glob("x-00000.beton.*.partial")))
    assert run(source, out).resumed_files >= 1
    assert made(out.parent) == made(tmp_path / "one")


@pytest.mark.parametrize("change", [{"exif": "upright"}, {"shard_size": 3000}, {"shard_size": None}, {"per_class": 3}])
def test_other_options_start_over_and_say_so(source: Path, tmp_path: Path, change: dict) -> None:
    run(source, beside(tmp_path, "one"), **change)
    out = beside(tmp_path, "again")
    interrupted(source, out, 9)
    notes: list[str] = []
    config = ConvertConfig(**{"shard_size": SHARD, **change})
    assert convert(source, out, config=config, on_note=notes.append).resumed_files == 0
    assert len(notes) == 1
    assert notes[0].endswith("was begun with other options or sources; starting over")
    assert made(out.parent) == made(tmp_path / "one")


def test_a_second_conversion_to_the_same_place_is_refused(source: Path, tmp_path: Path) -> None:
    def second(_: int) -> None:
        run(source, tmp_path / "x.beton")

    with pytest.raises(OSError, match=r"x\.beton\.partial: another process is writing it"):
        convert(source, tmp_path / "x.beton", config=ConvertConfig(shard_size=SHARD), on_progress=second)
    run(source, tmp_path / "x.beton")


@pytest.mark.parametrize("before", [SHARD, None])
@pytest.mark.parametrize("after", [SHARD, None])
def test_a_data_set_is_replaced_only_when_all_of_the_new_one_is_there(
    source: Path, tmp_path: Path, before: int | None, after: int | None
) -> None:
    out = beside(tmp_path, "set")
    run(source, out, shard_size=before)
    old = stored(out)
    with pytest.raises(FileExistsError, match=r"x\.beton: exists already; --overwrite replaces it"):
        run(source, out, shard_size=after)
    shutil.rmtree(source / "cow")
    run(source, beside(tmp_path, "new"), shard_size=after)
    if after:
        interrupted(source, out, 5, overwrite=True)
        assert stored(out) == old
    run(source, out, shard_size=after, overwrite=True)
    assert made(out.parent) == made(tmp_path / "new")


def test_interrupted_while_shards_are_put_into_place(source: Path, tmp_path: Path, monkeypatch) -> None:
    out = beside(tmp_path, "set")
    run(source, out)
    (source / "ant/0.jpg").write_bytes(GOOD["cow/0.jpg"])
    run(source, beside(tmp_path, "new"))
    put, calls = sharded.put_into_place, []

    def power_cut(temporary: Path, path: Path) -> None:
        calls.append(path)
        if len(calls) == 4:
            raise Stop
        put(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr(sharded, "put_into_place", power_cut)
        with pytest.raises(Stop):
            run(source, out, overwrite=True)
    assert not out.exists()  # neither the old data set nor the new one
    summary = run(source, out)
    assert summary.resumed_files == 19
    assert made(out.parent) == made(tmp_path / "new")


def test_a_damaged_manifest_is_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "x.beton").write_text("{not json")
    run(source, tmp_path / "x.beton", overwrite=True)
    assert len(stored(tmp_path / "x.beton")) == len(GOOD)


def test_strict_makes_nothing_and_keeps_the_work(source: Path, tmp_path: Path) -> None:
    run(source, beside(tmp_path, "one"))
    out = beside(tmp_path, "strict")
    with pytest.raises(
        ValueError, match=r"x\.beton: not made, 3 of 19 files rejected \(first: .*ant/9\.jpg: empty"
    ) as e:
        run(source, out, strict=True)
    assert "\n" not in str(e.value)
    assert not out.exists()
    assert len((out.parent / "x.rejected.jsonl").read_text().splitlines()) == 3
    assert run(source, out).resumed_files == 19
    assert made(out.parent) == made(tmp_path / "one")


def test_a_shard_without_images_has_no_file(tmp_path: Path) -> None:
    files = {"a/0.jpg": GOOD["ant/0.jpg"], "b/0.jpg": b"y" * 5000, "c/0.jpg": GOOD["ant/1.jpg"]}
    source = folder(tmp_path / "source", files)
    with pytest.raises(ValueError, match="1 of 3 files rejected"):
        run(source, tmp_path / "x.beton", shard_size=2000, strict=True)
    assert sorted(path.name[:7] for path in tmp_path.glob("x-*.beton.*.partial")) == ["x-00000", "x-00002"]
    summary = run(source, tmp_path / "x.beton", shard_size=2000)
    assert (summary.images, summary.shards, summary.classes) == (2, 2, 3)
    assert not (tmp_path / "x-00001.beton").exists()
    assert [label for label, _ in stored(tmp_path / "x.beton")] == [0, 2]
    shutil.rmtree(source / "a")
    shutil.rmtree(source / "c")
    with pytest.raises(ValueError, match=r"1 of 1 files rejected .*no image is left"):
        run(source, tmp_path / "y.beton")
    assert not (tmp_path / "y.beton").exists()


def test_a_full_disk_is_named_and_nothing_is_lost(source: Path, tmp_path: Path, monkeypatch) -> None:
    run(source, beside(tmp_path, "one"))
    out = beside(tmp_path, "full")
    interrupted(source, out, 9)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(target.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(OSError, match=r"the images take .* make room"):
            run(source, out)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left on device; what is finished is kept: make room"):
            run(source, out)
    assert run(source, out).resumed_files >= 9
    assert made(out.parent) == made(tmp_path / "one")


def test_the_commands(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.beton")
    assert main(["data", "convert", str(source), out, "--shard-size", "4KiB", "--workers", "1", "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["images"], summary["rejected"]["empty file"]) == (16, 2)
    assert "convert: 19/19 files" in captured.err
    assert main(["data", "info", out, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["images"], facts["shards"], facts["raw"]) == (16, summary["shards"], 1)
    assert (facts["bytes"], facts["class_sizes"]) == (summary["bytes"], [5, 5.0, 6])
    assert facts["height"][0] == 9
    assert facts["height"][-1] == 32
    assert facts["headers_sampled"] == 15
    assert main(["data", "info", out]) == 0
    assert f"16 images in {summary['shards']} shards" in capsys.readouterr().out
    assert main(["data", "check", out, "--workers", "1"]) == 0
    # Damage one image in the second shard: the index is that in the whole data set.
    with open_beton(out) as beton:
        first = beton.shards[0].images  # type: ignore[union-attr]
        image = bytes(beton.jpeg(first))
    data = bytearray(shard_path(Path(out), 1).read_bytes())
    middle = data.index(image) + len(image) // 2
    data[middle : middle + 200] = bytes(200)
    shard_path(Path(out), 1).write_bytes(data)
    capsys.readouterr()
    assert main(["data", "check", out, "--workers", "2", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [failure["index"] for failure in report["bad"]] == [first]
    assert report["images"] == 16


def test_a_worker_that_outlived_another_conversion_does_no_harm(source: Path, tmp_path: Path, monkeypatch) -> None:
    """One whose parent was killed finishes its shard, with the old options, while the new conversion runs."""
    run(source, beside(tmp_path, "one"), exif="upright", page_size=1 << 22)
    out = beside(tmp_path, "again")
    late: list[ShardTask] = []
    monkeypatch.setattr(sharded, "convert_shard", late.append)
    with pytest.raises(AttributeError):  # the first task is kept for later
        run(source, out)
    monkeypatch.undo()

    def finish_late(done: int) -> None:
        if done:
            convert_shard(late[0])

    config = ConvertConfig(shard_size=SHARD, exif="upright", page_size=1 << 22)
    convert(source, out, config=config, on_progress=finish_late)
    assert made(out.parent) == made(tmp_path / "one")
