"""`relic masks infer` on a folder of images: a folder of PNGs with the same names."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.datasets.synthetic import render
from relic.cli import main
from relic.masks import pngs
from saliency.infer import binary_mask, by_priors

QUICK = ("--priors", "mbd")


def run(*arguments) -> int:
    return main(["masks", "infer", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder of four images, one of them cut short and one of one colour."""
    jpegs = []
    for index in range(3):
        file = io.BytesIO()
        Image.fromarray(render(index, split="train", seed=0)[0]).save(file, "JPEG")
        jpegs.append(file.getvalue())
    cut_short = jpegs[2][: len(jpegs[2]) // 2]
    for name, image in {"a/one.jpg": jpegs[0], "a/b/two.JPEG": jpegs[1], "three.jpg": cut_short}.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    Image.fromarray(np.full((50, 60, 3), 120, np.uint8)).save(tmp_path / "photos" / "four.png")
    return tmp_path / "photos"


def test_maps_of_a_folder_have_its_names(folder, tmp_path, capsys):
    out = tmp_path / "maps"
    assert run(folder, "--png", out, "--workers", 1, *QUICK, "--json") == 0
    captured = capsys.readouterr()
    assert "three.jpg does not decode" in captured.err
    summary = json.loads(captured.out)
    assert (summary["images"], summary["masks"]) == (4, 2)
    assert summary["rejected"] == {"empty": 1, "does not decode": 1}
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    assert made == ["a/b/two.png", "a/one.png", "four.png"]
    gray, image = (pngs.read(path) for path in (out / "a/one.png", folder / "a/one.jpg"))
    assert gray.shape == image.shape[:2]
    (saliency,) = by_priors(["mbd"])([image])
    assert (binary_mask(gray / np.float32(255)) != binary_mask(saliency)).mean() < 0.001  # rounding


def test_maps_that_are_there_are_kept_unless_another_made_them(folder, tmp_path, capsys):
    out = tmp_path / "maps"
    arguments = (folder, "--png", out, "--workers", 1, "--json")
    assert run(*arguments, *QUICK) == 0
    first = json.loads(capsys.readouterr().out)
    (out / "a/one.png").unlink()
    before = (out / "a/b/two.png").stat()
    assert run(*arguments, *QUICK) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["resumed"] == 2
    assert (out / "a/b/two.png").stat() == before
    for name in ("images", "masks", "rejected", "coverage_quantiles"):
        assert again[name] == first[name]
    assert run(*arguments, "--priors", "mc") == 1
    assert "a/b/two.png exists and was not made by priors mc at 300: give --overwrite" in capsys.readouterr().err
    assert (out / "a/b/two.png").stat() == before
    assert run(*arguments, "--priors", "mc", "--overwrite") == 0
    assert pngs.made_by(out / "a/b/two.png") == "priors mc at 300"
    capsys.readouterr()
    assert run(*arguments, "--priors", "mc", "--overwrite") == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == 0


def test_folders_that_are_refused(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    twice = tmp_path / "twice"
    twice.mkdir()
    for name in ("x.jpg", "x.png"):
        (twice / name).touch()
    for arguments, message in (
        ([folder], "is a folder: give --png DIR"),
        ([folder, "--png", folder / "maps"], "lies within the images' folder"),
        ([tmp_path / "empty", "--png", tmp_path / "maps"], "no pictures in it"),
        ([twice, "--png", tmp_path / "maps"], "x.jpg and x.png would both become x.png"),
    ):
        assert run(*arguments, "--workers", 1) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "maps").exists()
