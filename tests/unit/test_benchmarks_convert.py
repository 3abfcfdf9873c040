"""`benchmarks convert` measures what it says: memory of all processes, the ratio within a round, growth."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from making import encoded
from test_sources import folder

from benchmarks import convert, soak, tree
from benchmarks.tree import Sample, watch
from pipelines.prepare.sources import plan


def test_memory_is_that_of_all_processes() -> None:
    child = "import time; x = bytearray(60 << 20); time.sleep(0.6)"
    parent = f"import subprocess, sys; x = bytearray(50 << 20); subprocess.run([sys.executable, '-c', {child!r}])"
    watched = watch([sys.executable, "-c", parent + "; print('done')"])
    assert watched.output == "done\n"
    assert 110 << 20 <= watched.peak < 200 << 20


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(OSError, match="ended with 3: the reason"):
        watch([sys.executable, "-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)"])


def test_the_ratio_is_that_of_rounds() -> None:
    speeds = {convert.COPY: [10.0, 1.0, 4.0], convert.COMMAND: [5.0, 3.0, 4.0]}
    assert convert.Rounds(peaks={}, speeds=speeds).ratio(convert.COMMAND) == (1.0, 0.5, 3.0)


def test_a_whole_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = folder(tmp_path / "images", {f"{c}/{i}.jpg": encoded(30, 40, i) for c in "ab" for i in range(3)})
    target = tmp_path / "convert.json"
    assert convert.convert(images=images, repeats=2, workers=1, times=2, json=str(target)) == 0
    copy, command, conversion = json.loads(target.read_text())
    assert copy["images"]["count"] == 12
    assert copy["ratio_to_copy"]["value"] == 1
    # The start of the command is in the one figure and not in the other.
    assert conversion["value"] > 2 * command["value"]
    assert command["peak_mib"] > 20
    assert "÷ cp" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["webdataset", "classes"])
def test_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: soak.Layout) -> None:
    monkeypatch.setattr(soak, "IMAGES_PER_TAR", 500)
    monkeypatch.setattr(soak, "SHARD_SIZE", "256KiB")
    monkeypatch.setattr(tree, "SAMPLE_SECONDS", 0.002)
    record = soak.soak(2000, 1, layout, {})
    assert record["shards"] >= 4
    assert record["images"]["count"] == 2000
    assert record["r2_of_time_over_images"] > 0
    assert "2,000 images of " in soak.lines(record)


def test_no_two_images_of_a_soak_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "IMAGES_PER_TAR", 60)
    soak.write_tars(tmp_path, 200, "webdataset")
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    files = plan(tmp_path).sources
    assert [source.label for source in files] == list(range(200))
    assert all(data.count(b"%012d" % number) == 1 for number in range(200))


def test_memory_early_and_late() -> None:
    samples = [Sample(moment, (100 if moment < 6 else 300) << 20) for moment in range(10)]
    assert soak.memory_early_and_late(samples, 2, 10) == (100, 300)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to convert: give --images DIR, or --soak"),
        ({"soak": 100}, "give at least 20,000 images"),
        ({"images": Path("nope")}, "nope: no such folder"),
        ({"images": Path(), "repeats": 0}, "repeats 0"),
    ],
)
def test_mistakes(options: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert.convert(**options)
