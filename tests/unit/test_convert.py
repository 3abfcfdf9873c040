"""Conversion as a whole: same bytes from any number of workers, nothing half done, everything rejected is listed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import decoded, encoded, with_orientation

from pipelines.beton import Beton
from pipelines.prepare import chunk, crew
from pipelines.prepare import convert as module
from pipelines.prepare.convert import ConvertConfig, Summary, convert

MIB = 1 << 20
GOOD = {
    "ant/0.jpg": encoded(30, 40, 0),
    "ant/1.jpg": encoded(33, 21, 1, mode="L"),
    "ant/2.png": encoded(12, 14, 2, file_format="PNG"),
    "bee/0.JPEG": encoded(50, 20, 3, file_format="PNG"),  # as one of ImageNet's
    "bee/1.jpg": encoded(20, 20, 4, mode="CMYK"),
    "bee/2.jpg": encoded(10, 30, 5, exif=with_orientation(6)),
    "cow/0.jpg": encoded(8, 9, 6),
}
BAD = {
    "ant/3.jpg": (GOOD["ant/0.jpg"][:-50], "truncated"),
    "bee/3.jpg": (b"", "empty file"),
    "bee/notes.txt": (b"not an image", "not a JPEG, PNG, BMP, WebP or GIF"),
    "cow/1.png": (encoded(6, 6, 7, mode="LA", file_format="PNG"), None),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, data in (GOOD | {name: data for name, (data, _) in BAD.items()}).items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(data)
    return tmp_path / "source"


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_IMAGES", 2)
    monkeypatch.setattr(module, "CHUNKS_WORTH_A_WORKER", 1)


def run(source: Path, out: Path, **options) -> Summary:
    return convert(source, out, config=ConvertConfig(**options))


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_file())


def test_images_labels_and_classes(source: Path, tmp_path: Path) -> None:
    summary = run(source, tmp_path / "x.beton")
    with Beton(tmp_path / "x.beton") as beton:
        assert beton.class_names == ["ant", "bee", "cow"]
        names = [*GOOD, "cow/1.png"]
        assert beton.labels.tolist() == [["ant", "bee", "cow"].index(name[:3]) for name in names]
        for index, name in enumerate(names):
            data = (source / name).read_bytes()
            if name in ("ant/0.jpg", "ant/1.jpg", "bee/2.jpg", "cow/0.jpg"):
                assert bytes(beton.jpeg(index)) == data
            else:
                np.testing.assert_array_equal(beton.pixels(index), decoded(data))
            stored = beton.pixels(index) if not beton.is_jpeg(index) else decoded(bytes(beton.jpeg(index)))
            assert stored.shape[:2] == (beton.heights[index], beton.widths[index])
    assert (summary.images, summary.jpegs, summary.classes, summary.ignored) == (8, 4, 3, 0)
    assert summary.bytes == (tmp_path / "x.beton").stat().st_size


def test_a_turned_photograph_is_stored_upright_when_asked(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "x.beton", exif="upright")
    with Beton(tmp_path / "x.beton") as beton:
        data = (source / "bee" / "2.jpg").read_bytes()
        np.testing.assert_array_equal(beton.pixels(5), np.rot90(decoded(data), -1))


def test_what_is_rejected_is_listed_with_its_reason(source: Path, tmp_path: Path) -> None:
    summary = run(source, tmp_path / "x.beton")
    lines = [json.loads(line) for line in (tmp_path / "x.rejected.jsonl").read_text().splitlines()]
    expected = {name: reason for name, (_, reason) in BAD.items() if reason}
    assert [line["source"] for line in lines] == [str(source / name) for name in sorted(expected)]
    for line in lines:
        assert line["reason"].startswith(expected[os.path.relpath(line["source"], source)])
    assert summary.rejected == dict.fromkeys(expected.values(), 1)
    assert summary.rejected_list == str(tmp_path / "x.rejected.jsonl")
    assert listing(tmp_path) == ["x.beton", "x.beton.classes.txt", "x.rejected.jsonl"]
    # A later conversion without rejects takes the list away.
    for name in expected:
        (source / name).unlink()
    assert run(source, tmp_path / "x.beton", overwrite=True).rejected_list is None
    assert listing(tmp_path) == ["x.beton", "x.beton.classes.txt"]


def test_files_that_cannot_be_read_are_rejected(source: Path, tmp_path: Path) -> None:
    (source / "ant/4.jpg").symlink_to(tmp_path / "gone")
    run(source, tmp_path / "x.beton")
    lines = (tmp_path / "x.rejected.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["reason"] == "unreadable: No such file or directory"


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "source" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(GOOD["ant/0.jpg"])
    (folder / os.fsdecode(b"\xfe.jpg")).write_bytes(b"x")
    run(tmp_path / "source", tmp_path / "x.beton")
    with Beton(tmp_path / "x.beton") as beton:
        assert beton.class_names == [folder.name]
    assert json.loads((tmp_path / "x.rejected.jsonl").read_text())["source"].endswith("\udcfe.jpg")


@pytest.mark.usefixtures("_small_chunks")
def test_same_bytes_from_any_number_of_workers_and_chunks(source: Path, tmp_path: Path, monkeypatch) -> None:
    started = []
    start = crew._Worker.__enter__
    monkeypatch.setattr(crew._Worker, "__enter__", lambda self: started.append(self) or start(self))
    for name, workers in (("one", 1), ("three", 3)):
        run(source, tmp_path / f"{name}.beton", workers=workers)
        assert len(started) == (3 if workers == 3 else 0)
    monkeypatch.setattr(module, "CHUNK_IMAGES", 100)
    run(source, tmp_path / "whole.beton")
    first = (tmp_path / "one.beton").read_bytes()
    assert (tmp_path / "three.beton").read_bytes() == first
    assert (tmp_path / "whole.beton").read_bytes() == first
    lists = [(tmp_path / f"{name}.rejected.jsonl").read_text() for name in ("one", "three", "whole")]
    assert len(set(lists)) == 1


def test_payload_that_outgrows_memory_waits_in_a_file(source: Path, tmp_path: Path, monkeypatch) -> None:
    run(source, tmp_path / "x.beton")
    spilled = []
    make = chunk.tempfile.TemporaryFile
    monkeypatch.setattr(chunk.tempfile, "TemporaryFile", lambda **k: spilled.append(k) or make(**k))
    monkeypatch.setattr(chunk, "MEMORY_PER_CHUNK", 2500)
    run(source, tmp_path / "y.beton")
    assert spilled == [{"dir": tmp_path}]
    assert (tmp_path / "y.beton").read_bytes() == (tmp_path / "x.beton").read_bytes()


def test_subsets_pages_and_side_lengths(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "x.beton", per_class=1, skip_per_class=1, page_size=2 * MIB)
    with Beton(tmp_path / "x.beton") as beton:
        assert beton.labels.tolist() == [0, 1, 2]
        assert beton.page_size == 2 * MIB
        assert bytes(beton.jpeg(0)) == GOOD["ant/1.jpg"]
    run(source, tmp_path / "y.beton", max_side=20)
    with Beton(tmp_path / "y.beton") as beton:
        assert max(beton.heights.max(), beton.widths.max()) == 20
    (source / "cow/2.jpg").write_bytes(GOOD["cow/0.jpg"] + bytes(3 * MIB))
    assert run(source, tmp_path / "z.beton", page_size=2 * MIB).page_size == 4 * MIB


def test_a_flat_folder(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/1.jpg").write_bytes(GOOD["ant/0.jpg"])
    (tmp_path / "x.beton.classes.txt").write_text("of an earlier beton\n")
    assert run(tmp_path / "source", tmp_path / "x.beton").classes == 0
    with Beton(tmp_path / "x.beton") as beton:
        assert beton.labels.tolist() == [-1]
        assert beton.class_names is None


def test_strict_makes_nothing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"x\.beton: not made, 3 of 11 files rejected \(first: .*ant/3\.jpg: trunc"
    ) as e:
        run(source, tmp_path / "x.beton", strict=True)
    assert "\n" not in str(e.value)
    assert listing(tmp_path) == ["x.rejected.jsonl"]
    for name, (_, reason) in BAD.items():
        if reason:
            (source / name).unlink()
    assert run(source, tmp_path / "x.beton", strict=True).images == 8


def test_no_image_left(tmp_path: Path) -> None:
    (tmp_path / "source/a").mkdir(parents=True)
    (tmp_path / "source/a/1.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 1 files rejected .*no image is left"):
        run(tmp_path / "source", tmp_path / "x.beton")
    assert listing(tmp_path) == ["x.rejected.jsonl"]
    with pytest.raises(ValueError, match="no class has more than 3 files; lower --skip-per-class"):
        run(tmp_path / "source", tmp_path / "x.beton", skip_per_class=3)


class Stop(Exception):
    """Ends a conversion from within, as a crash would."""


def interrupted(source: Path, out: Path, after: int, **options) -> None:
    """Convert until `after` files are done, then fall over."""
    done = 0

    def count(n: int) -> None:
        nonlocal done
        done += n
        if done >= after:
            raise Stop

    with pytest.raises(Stop):
        convert(source, out, config=ConvertConfig(**options), on_progress=count)


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_conversion_continues_to_the_same_bytes(source: Path, tmp_path: Path, workers: int) -> None:
    run(source, tmp_path / "whole.beton")
    interrupted(source, tmp_path / "x.beton", 6, workers=workers)
    assert listing(tmp_path)[-2:] == ["x.beton.partial", "x.beton.partial.journal"]
    with pytest.raises(ValueError, match="interrupted"):
        Beton(tmp_path / "x.beton.partial")
    summary = run(source, tmp_path / "x.beton")
    assert 6 <= summary.resumed_files < 11
    assert (tmp_path / "x.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()
    assert (tmp_path / "x.rejected.jsonl").read_text() == (tmp_path / "whole.rejected.jsonl").read_text()
    assert not [name for name in listing(tmp_path) if "partial" in name]


@pytest.mark.usefixtures("_small_chunks")
def test_data_that_the_journal_promises_but_the_disk_lost_is_made_again(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "whole.beton")
    interrupted(source, tmp_path / "x.beton", 6)
    partial, journal = tmp_path / "x.beton.partial", tmp_path / "x.beton.partial.journal"
    third = json.loads(journal.read_text().splitlines()[3])
    with open(partial, "r+b") as file:
        file.seek(third["position"] + 3)
        file.write(b"\0\0\0\0")
    with open(journal, "a") as file:
        file.write('{"number": 3, "posit')  # killed within a line
    interrupted(source, tmp_path / "x.beton", 8)
    assert json.loads(journal.read_text().splitlines()[3])["number"] == 2
    assert run(source, tmp_path / "x.beton").resumed_files == 8
    assert (tmp_path / "x.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("change", ["options", "sources"])
def test_other_options_or_sources_start_over_and_say_so(source: Path, tmp_path: Path, change: str) -> None:
    interrupted(source, tmp_path / "x.beton", 6)
    config = ConvertConfig(exif="upright" if change == "options" else "ignore")
    if change == "sources":
        (source / "ant/0.jpg").write_bytes(GOOD["cow/0.jpg"])
    notes: list[str] = []
    assert convert(source, tmp_path / "x.beton", config=config, on_note=notes.append).resumed_files == 0
    assert len(notes) == 1
    assert notes[0].endswith("was begun with other options or sources; starting over")
    convert(source, tmp_path / "fresh.beton", config=config, on_note=notes.append)
    assert len(notes) == 1
    assert (tmp_path / "x.beton").read_bytes() == (tmp_path / "fresh.beton").read_bytes()


@pytest.mark.usefixtures("_small_chunks")
def test_a_killed_worker_ends_the_conversion_and_the_next_run_continues(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "whole.beton")

    def kill_one(_: int) -> None:
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)

    config = ConvertConfig(workers=2)
    with pytest.raises(ChildProcessError, match=r"a worker was killed by signal 9 .*run the same command again"):
        convert(source, tmp_path / "x.beton", config=config, on_progress=kill_one)
    assert not multiprocessing.active_children()
    assert run(source, tmp_path / "x.beton").resumed_files >= 2
    assert (tmp_path / "x.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()


def test_a_second_conversion_to_the_same_place_is_refused(source: Path, tmp_path: Path) -> None:
    def second(_: int) -> None:
        run(source, tmp_path / "x.beton")

    with pytest.raises(OSError, match=r"x\.beton\.partial: another process is writing it"):
        convert(source, tmp_path / "x.beton", config=ConvertConfig(), on_progress=second)


def test_a_beton_is_replaced_only_when_told_and_only_when_complete(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.beton"
    run(source, out)
    before = out.read_bytes()
    with pytest.raises(FileExistsError, match=r"x\.beton: exists already; --overwrite replaces it"):
        run(source, out)
    (source / "ant/0.jpg").unlink()
    interrupted(source, out, 1, overwrite=True)
    assert out.read_bytes() == before
    run(source, out, overwrite=True)
    assert Beton(out).num_images == 7


def test_a_full_disk_is_named_and_nothing_is_lost(source: Path, tmp_path: Path, monkeypatch) -> None:
    run(source, tmp_path / "whole.beton")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match=r"No space left on device; what is finished is kept: make room"):
            run(source, tmp_path / "x.beton")
    run(source, tmp_path / "x.beton")
    assert (tmp_path / "x.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"the images take 0\.0 GB, only 0\.0 GB are free; make room"):
        run(source, tmp_path / "y.beton")


def test_a_failing_disk_stops_rather_than_thinning_out_the_data(source: Path, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "ant/0.jpg")

    monkeypatch.setattr(chunk.SourceReader, "read", broken)
    with pytest.raises(OSError, match=r"Input/output error: 'ant/0\.jpg'"):
        run(source, tmp_path / "x.beton")


def test_a_worker_reports_its_own_errors(source: Path, tmp_path: Path, monkeypatch) -> None:
    """The partial file vanishes before the workers open it."""
    monkeypatch.setattr(module, "CHUNKS_WORTH_A_WORKER", 0.5)
    start = crew._Worker.__init__

    def without_partial(self, partial: Path, *rest) -> None:
        start(self, partial.with_name("gone"), *rest)

    monkeypatch.setattr(crew._Worker, "__init__", without_partial)
    with pytest.raises(FileNotFoundError, match="gone"):
        run(source, tmp_path / "x.beton", workers=2)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ("x.ffcv", ValueError, r"x\.ffcv: the name of a beton ends in \.beton"),
        ("none/x.beton", FileNotFoundError, "none: no such folder; make it by mkdir -p"),
        ("source/x.beton", ValueError, "lies within the folder it is made of"),
    ],
)
def test_targets_that_are_refused(source: Path, tmp_path: Path, out: str, error, message: str) -> None:
    with pytest.raises(error, match=message):
        run(source, tmp_path / out)


def test_a_target_that_cannot_be_written(source: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match="not writable; choose another folder"):
        run(source, tmp_path / "x.beton")


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"max_side": 0}, {"quality": 0}, {"per_class": 0}, {"skip_per_class": -1}]
)
def test_options_that_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="give"):
        replace(ConvertConfig(), **wrong)
