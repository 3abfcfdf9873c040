"""What has the name of a shard and is another's stays; what nobody needs any more goes."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from shard_sets import BAD, GOOD, SHARD, Stop, beside, interrupted, made, run, stored
from test_sources import folder, tar_bytes

from pipelines.prepare import sharded, sources, writer
from pipelines.prepare.convert import ConvertConfig, convert
from pipelines.prepare.images import Treatment
from pipelines.prepare.shard import ShardTask, Tars, convert_shard


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder(tmp_path / "source", GOOD | BAD)


def stopped_while_placing(source: Path, out: Path, after: int, monkeypatch: pytest.MonkeyPatch, **options) -> None:
    put, calls = sharded.put_into_place, []

    def power_cut(temporary: Path, path: Path) -> None:
        calls.append(path)
        if len(calls) > after:
            raise Stop
        put(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr(sharded, "put_into_place", power_cut)
        with pytest.raises(Stop):
            run(source, out, **options)


def test_another_beton_with_the_name_of_a_shard_stays(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "x-00001.beton", shard_size=None)
    before = made(tmp_path)
    with pytest.raises(FileExistsError, match=r"x-00001\.beton: has the name of a shard of x\.beton and is none of it"):
        run(source, tmp_path / "x.beton")
    assert made(tmp_path) == before
    run(source, tmp_path / "y.beton")


def test_so_does_one_that_appears_during_the_run(source: Path, tmp_path: Path) -> None:
    run(source, beside(tmp_path, "one"))
    out = beside(tmp_path, "set")
    run(source, out)
    old = stored(out)
    theirs = out.with_name("x-00099.beton")

    def appear(done: int) -> None:
        if done:
            theirs.write_bytes(b"theirs")

    config = ConvertConfig(shard_size=3000, overwrite=True)
    with pytest.raises(FileExistsError, match=r"x-00099\.beton: has the name of a shard"):
        convert(source, out, config=config, on_progress=appear)
    assert theirs.read_bytes() == b"theirs"
    assert stored(out) == old
    theirs.unlink()
    assert convert(source, out, config=config).resumed_files == 19


def test_a_copied_manifest_does_not_own_the_shards(source: Path, tmp_path: Path) -> None:
    out = beside(tmp_path, "set")
    run(source, out)
    old = stored(out)
    for after in (3000, None):
        shutil.copy(out, out.with_name("copy.beton"))
        run(source, out.with_name("copy.beton"), shard_size=after, overwrite=True)
        assert stored(out) == old == stored(out.with_name("copy.beton"))
        for path in out.parent.glob("copy*"):
            path.unlink()


@pytest.mark.parametrize("change", [{"shard_size": 1 << 20}, {"shard_size": None}])
@pytest.mark.parametrize("is_replacing", [False, True])
def test_interrupted_while_placing_and_then_begun_otherwise(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, is_replacing: bool
) -> None:
    run(source, beside(tmp_path, "one"), **change)
    out = beside(tmp_path, "again")
    if is_replacing:
        run(source, out, shard_size=2000)  # more shards than come next
    stopped_while_placing(source, out, 3, monkeypatch, overwrite=True)
    assert not out.exists()
    run(source, out, **change)
    assert made(out.parent) == made(tmp_path / "one")


def test_interrupted_before_the_old_shards_are_gone(source: Path, tmp_path: Path, monkeypatch) -> None:
    run(source, beside(tmp_path, "one"))
    out = beside(tmp_path, "again")
    run(source, out, shard_size=2000)
    unlink = Path.unlink

    def power_cut(path: Path, **options) -> None:
        if path.suffix == ".beton" and path != out:
            raise Stop
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", power_cut)
        with pytest.raises(Stop):
            run(source, out, overwrite=True)
    assert not out.exists()
    assert run(source, out).resumed_files == 19
    assert made(out.parent) == made(tmp_path / "one")


@pytest.mark.parametrize("lost", ["x-00000.beton.*.partial", "x-*.rejected.jsonl.*.partial"])
def test_a_finished_shard_that_goes_before_the_end(source: Path, tmp_path: Path, lost: str) -> None:
    run(source, beside(tmp_path, "one"))
    out = beside(tmp_path, "again")
    run(source, out, shard_size=2000)
    old = stored(out)

    def lose(done: int) -> None:
        nonlocal files
        files += done
        if files == 19:
            next(out.parent.glob(lost)).unlink()

    files = 0
    with pytest.raises(FileNotFoundError, match="a finished shard is gone; run the same command again"):
        convert(source, out, config=ConvertConfig(shard_size=SHARD, overwrite=True), on_progress=lose)
    assert stored(out) == old
    assert 0 < run(source, out, overwrite=True).resumed_files < 19
    assert made(out.parent) == made(tmp_path / "one")


def test_attempts_of_a_killed_run_go_when_the_next_begins(source: Path, tmp_path: Path) -> None:
    out = beside(tmp_path, "set")
    interrupted(source, out, 5)
    left = [out.parent / f".x-0000{number}.beton.0123456789ab.attempt" for number in range(2)]
    left.append(out.parent / ".x-00001.rejected.jsonl.0123456789ab.attempt")
    theirs = out.parent / ".y-00001.beton.0123456789ab.attempt"
    for path in (*left, theirs):
        path.write_bytes(b"")
    interrupted(source, out, 9)
    assert not any(path.exists() for path in left)
    assert theirs.exists()


def test_two_attempts_at_a_shard_write_lists_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.tar").write_bytes(
        tar_bytes({"0.jpg": GOOD["ant/0.jpg"], "0.cls": b"1", "1.jpg": b"", "1.cls": b"1"})
    )
    part, treatment = Tars((str(tmp_path / "x.tar"),)), Treatment(page_size=1 << 21)
    task = ShardTask(out=tmp_path / "x.beton", key="0" * 64, number=0, part=part, treatment=treatment)
    both, put = threading.Barrier(2), writer.put_into_place
    errors: list[BaseException] = []

    def together(temporary: Path, path: Path) -> None:
        both.wait(10)
        put(temporary, path)

    def attempt() -> None:
        try:
            convert_shard(task)
        except BaseException as error:
            errors.append(error)

    monkeypatch.setattr(writer, "put_into_place", together)
    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    ready = "000000000000.partial"
    assert sorted(os.listdir(tmp_path)) == ["x-00000.beton." + ready, "x-00000.rejected.jsonl." + ready, "x.tar"]


@pytest.mark.parametrize("shard_size", [None, SHARD])
def test_a_refusal_keeps_the_list_of_the_old_data_set(source: Path, tmp_path: Path, shard_size: int | None) -> None:
    out = beside(tmp_path, "set")
    run(source, out, shard_size=shard_size)
    old = made(out.parent)
    (source / "cow/9.jpg").unlink()
    (source / "cow/8.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"3 of 19 files rejected .*; leave out --strict.*; all: .*x\.refused\.jsonl"
    ) as e:
        run(source, out, shard_size=shard_size, strict=True, overwrite=True)
    assert ("which goes on from here" in str(e.value)) == (shard_size is not None)
    assert {name: data for name, data in made(out.parent).items() if name in old} == old
    assert "cow/8.jpg" in (out.parent / "x.refused.jsonl").read_text()
    assert run(source, out, shard_size=shard_size, overwrite=True).resumed_files == (19 if shard_size else 0)
    assert sorted(made(out.parent)) == sorted(old)
    assert "cow/8.jpg" in (out.parent / "x.rejected.jsonl").read_text()


@pytest.mark.parametrize("shard_size", [None, SHARD])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_is_no_target(source: Path, tmp_path: Path, shard_size: int | None, overwrite: bool) -> None:
    (tmp_path / "x.beton").mkdir()
    with pytest.raises(IsADirectoryError, match=r"x\.beton: is a folder"):
        run(source, tmp_path / "x.beton", shard_size=shard_size, overwrite=overwrite)


@pytest.mark.parametrize("shard_size", [None, SHARD])
def test_a_full_disk_while_listing_is_named(source: Path, tmp_path: Path, shard_size: int | None, monkeypatch) -> None:
    monkeypatch.setattr(sources, "_TABLES", f"PRAGMA max_page_count = 5; {sources._TABLES}")
    for number in range(900):
        (source / "ant" / f"{'long' * 20}{number:04d}.jpg").write_bytes(b"")
    with pytest.raises(OSError, match=r"source: database or disk is full, while its files were listed.*SQLITE_TMPDIR"):
        run(source, tmp_path / "x.beton", shard_size=shard_size)
    assert sorted(os.listdir(tmp_path)) == ["source"]
