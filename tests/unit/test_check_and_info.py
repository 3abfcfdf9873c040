"""`relic data check` finds what does not decode; `relic data info` says what is there; both as commands."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from making import encoded, pixels, with_orientation

from pipelines.beton import Beton
from pipelines.prepare import check as module
from pipelines.prepare.check import check
from pipelines.prepare.info import describe
from pipelines.prepare.writer import write_beton
from relic.cli import main
from saliency.store import MaskStoreWriter


def damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(300) + data[middle + 300 :]


IMAGES = [
    encoded(90, 120, 1, quality=95),
    encoded(20, 30, 2, mode="L"),
    damaged(encoded(90, 120, 1, quality=95)),
    pixels(10, 12),
    encoded(90, 120, 1)[:-300],
    encoded(9, 9, 4),
    encoded(9, 9, 5),
]
LABELS = [0, 0, 0, 0, 2, 2, -1]


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    write_beton(tmp_path / "x.beton", IMAGES, LABELS, class_names=["a", "b", "c"])
    # Image 5 is not of the size that the table says.
    with open(tmp_path / "x.beton", "r+b") as file:
        file.seek(24 + 2 * 1041 + 5 * 24 + 1)
        file.write(struct.pack("<H", 10))
    return tmp_path / "x.beton"


@pytest.mark.parametrize("workers", [1, 2])
def test_check_finds_all_that_fails(beton: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IMAGES_PER_TASK", 3)
    done: list[int] = []
    bad = check(beton, workers=workers, on_progress=done.append)
    assert [index for index, _ in bad] == [2, 4, 5]
    assert bad[0][1].startswith("Corrupt JPEG data")
    assert bad[1][1].startswith("truncated")
    assert bad[2][1] == "is 9 x 9 pixels, the table says 10 x 9"
    assert sorted(done) == [1, 3, 3]


def test_a_file_is_opened_once_for_all_tasks_on_it(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(module, "IMAGES_PER_TASK", 1)
    monkeypatch.setattr(module, "Beton", lambda path: opened.append(path) or Beton(path))
    assert len(check(beton)) == 3
    assert len(opened) == 2  # to count its images, and to decode them
    write_beton(beton, IMAGES[:1], [0])
    assert check(beton) == []  # nothing of the former file is kept


def kill_this_process(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_does_not_hang_the_check(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_images", kill_this_process)
    with pytest.raises(ChildProcessError, match=r"x\.beton: a worker was killed \(out of memory\?\)"):
        check(beton, workers=2)


def test_info_counts_images_that_exif_turns(tmp_path: Path) -> None:
    turned = encoded(20, 30, 0, exif=with_orientation(6))
    write_beton(tmp_path / "x.beton", [encoded(20, 30, 1), turned, turned], [0, 0, 0])
    facts = describe(tmp_path / "x.beton")
    assert (facts["turned"], facts["headers_sampled"]) == (2, 3)


def test_info(beton: Path) -> None:
    facts = describe(beton)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["images"], facts["classes"], facts["unlabeled"]) == (7, 3, 1)
    assert facts["class_sizes"] == [2, 3.0, 4]
    assert (facts["jpegs"], facts["raw"]) == (6, 1)
    assert facts["height"] == [9, 9, 20, 90, 90]
    assert facts["jpeg_bytes"][-1] == max(len(image) for image in IMAGES if isinstance(image, bytes))
    assert facts["gray_share"] == pytest.approx(1 / 6)
    assert facts["headers_sampled"] == 6
    assert facts["bytes"] == beton.stat().st_size
    assert facts["masks"] is None
    with Beton(beton) as opened:
        assert facts["fingerprint"] == opened.fingerprint()


def test_info_of_a_store_beside_the_beton(beton: Path) -> None:
    masks = beton.with_suffix(".masks")
    with Beton(beton) as opened, MaskStoreWriter(masks, 7, opened.fingerprint()) as writer:
        writer.write(1, np.ones((128, 128), bool))
    assert describe(beton)["masks"] == {"path": str(masks), "masks": 1, "absent": 6, "maker": ""}
    MaskStoreWriter(masks, 7, "00").finish()
    assert "was made for fingerprint 00" in describe(beton)["masks"]["problem"]


def test_info_samples_large_betons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.prepare.info.HEADER_SAMPLE", 4)
    write_beton(tmp_path / "x.beton", [encoded(4, 4, i, mode="L") for i in range(9)], [0] * 9)
    facts = describe(tmp_path / "x.beton")
    assert (facts["headers_sampled"], facts["gray_share"]) == (4, 1.0)


def test_info_without_jpegs_or_labels(tmp_path: Path) -> None:
    write_beton(tmp_path / "x.beton", [pixels(4, 4)], [-1])
    facts = describe(tmp_path / "x.beton")
    assert (facts["jpeg_bytes"], facts["gray_share"], facts["class_sizes"], facts["classes"]) == (None, None, None, 0)


def test_the_commands(beton: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(beton), "--workers", "1", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [failure["index"] for failure in report["bad"]] == [2, 4, 5]
    assert report["images"] == 7
    assert main(["data", "check", str(beton), "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("image 4: truncated")
    assert "4 of 7 images decode" in lines[3]
    assert main(["data", "info", str(beton), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == describe(beton)
    assert main(["data", "info", str(beton)]) == 0
    assert "3, of 2 to 4 images (median 3)" in capsys.readouterr().out
    assert main(["data", "info", str(tmp_path / "nope.beton")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_convert_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source/a").mkdir(parents=True)
    (tmp_path / "source/a/1.jpg").write_bytes(encoded(30, 40))
    arguments = ["data", "convert", str(tmp_path / "source"), str(tmp_path / "x.beton"), "--workers", "1"]
    assert main([*arguments, "--json", "--page-size", "2MiB"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["page_size"], summary["rejected"]) == (1, 2 << 20, {})
    assert main(["data", "check", summary["out"], "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(arguments) == 1
    assert "exists already; --overwrite replaces it" in capsys.readouterr().err
    (tmp_path / "source/a/2.jpg").write_bytes(b"")
    assert main([*arguments, "--overwrite"]) == 0
    out, err = capsys.readouterr()
    assert "rejected    1 empty file" in out
    assert f"warning: 1 files were rejected, see {tmp_path}/x.rejected.jsonl" in err
    assert main([*arguments, "--overwrite", "--strict"]) == 1
    assert "1 of 2 files rejected" in capsys.readouterr().err
    for wrong, message in (
        (["--page-size", "8MB"], "--page-size 8MB: give a number of bytes"),
        (["--quality", "80"], "--quality is for images that --max-side makes smaller"),
    ):
        assert main([*arguments, "--overwrite", *wrong]) == 1
        assert message in capsys.readouterr().err


def test_the_commands_import_nothing_heavy() -> None:
    script = (
        "import sys; from relic.cli import main; main(['data', 'convert', '--help']); "
        "print(sorted({'torch', 'numpy', 'cv2', 'PIL', 'pipelines'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
