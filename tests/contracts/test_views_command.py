"""`relic views`: a PNG from betons, folders and archives; mistakes name the flag."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config import BackgroundConfig, ViewsConfig
from relic import config, recipes
from relic.cli import main
from relic.config import RunConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder of two classes with three JPEGs each and a file that is none."""
    root = tmp_path_factory.mktemp("images")
    for number in range(6):
        path = root / ("ant" if number < 3 else "bee") / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 60, 3), 40 * number, np.uint8)).save(path)
    (root / "ant" / "00.jpg").write_bytes(b"no image")
    return root


def shown(path: Path) -> np.ndarray:
    image = Image.open(path)
    assert image.format == "PNG"
    return np.asarray(image)


def test_a_beton_with_masks(tiny_beton, tiny_masks, tmp_path, capsys):
    out = tmp_path / "grid.png"
    flags = ["--out", str(out), "--masks", str(tiny_masks), "--images", "2", "--backends", "fused"]
    assert main(["views", str(tiny_beton), *flags]) == 0
    assert str(out) in capsys.readouterr().out
    one = shown(out)
    assert one.ndim == 3
    assert main(["views", str(tiny_beton), *flags, "--seed", "1"]) == 0
    other = shown(out)
    assert one.shape != other.shape or (one != other).any()


def test_plates_swap_backgrounds(tiny_beton, tiny_masks, tiny_plates, tmp_path):
    """With views that remove backgrounds, giving plates changes the pixels."""
    run = tmp_path / "run"
    run.mkdir()
    config.save(
        RunConfig(recipe="test", views=ViewsConfig(background=BackgroundConfig(chance=1.0))), run / "config.yaml"
    )
    flags = ["--recipe", str(run), "--masks", str(tiny_masks), "--images", "2", "--backends", "fused"]
    assert main(["views", str(tiny_beton), "--out", str(tmp_path / "a.png"), *flags]) == 0
    assert main(["views", str(tiny_beton), "--out", str(tmp_path / "b.png"), *flags, "--plates", str(tiny_plates)]) == 0
    first, second = shown(tmp_path / "a.png"), shown(tmp_path / "b.png")
    assert (first != second).any(2).sum() > 200**2


def test_a_folder_and_a_tar_give_the_same_sheet(folder, tmp_path):
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, arcname=".")
    for source, name in ((folder, "a.png"), (archive, "b.png")):
        assert main(["views", str(source), "--out", str(tmp_path / name), "--images", "3", "--backends", "fused"]) == 0
    first, second = shown(tmp_path / "a.png"), shown(tmp_path / "b.png")
    np.testing.assert_array_equal(first[60:], second[60:])  # the heading names the source


@pytest.mark.parametrize(
    ("wanted", "classes"), [(6, {"ant": 3, "bee": 3}), (4, {"ant": 2, "bee": 2}), (2, {"ant": 1, "bee": 1})]
)
def test_a_folder_is_sampled_across_its_classes(wanted, classes, folder, monkeypatch, tmp_path):
    """Evenly, and a file that is no image (the middle of a quarter) gives way to its neighbour."""
    from relic import pictures

    shown_classes = []

    def note(examples, recipe, **settings):
        shown_classes.extend(example.title.split()[-1] for example in examples)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(pictures, "contact_sheet", note)
    flags = ["--out", str(tmp_path / "a.png"), "--images", str(wanted), "--backends", "fused"]
    assert main(["views", str(folder), *flags]) == 0
    assert Counter(shown_classes) == classes


def test_a_run_directory_is_a_recipe(tiny_beton, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    config.save(recipes.get("relic_r50"), run / "config.yaml")
    for recipe, name in (("relic_r50", "a.png"), (str(run), "b.png")):
        flags = ["--out", str(tmp_path / name), "--images", "1", "--backends", "fused", "--recipe", recipe]
        assert main(["views", str(tiny_beton), *flags]) == 0
    np.testing.assert_array_equal(shown(tmp_path / "a.png")[60:], shown(tmp_path / "b.png")[60:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("BETON --out x.jpg", "--out x.jpg is no .png file"),
        ("BETON --out no/such/x.png", "no/such: no such folder for --out"),
        ("BETON --recipe demmo", "no recipe 'demmo': did you mean 'demo'?"),
        ("BETON --backends refrence", "did you mean 'reference'?"),
        ("BETON --images 0", "num_images=0"),
        ("nowhere", "nowhere: no such folder"),
        ("FOLDER --masks x.masks", "--masks belong to a beton"),
        ("JUNK", "none of its 1 files is an image"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, tiny_beton, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "a.jpg").write_bytes(b"no image")
    named = {"BETON": str(tiny_beton), "FOLDER": str(folder), "JUNK": str(tmp_path / "junk")}
    assert main(["views", *(named.get(word, word) for word in arguments.split())]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.realdata
def test_backends_agree_on_photographs(imagenet_files, tmp_path, monkeypatch, capsys):
    """The difference that the sheet prints beside the fused row is below the stated grey level."""
    from relic import pictures

    differences = []
    measure = pictures._difference
    monkeypatch.setattr(pictures, "_difference", lambda *views: differences.append(measure(*views)) or differences[-1])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in imagenet_files[::250]:
            tar.add(path, arcname=f"{path.parent.name}/{path.name}")
    (tmp_path / "photographs.tar").write_bytes(buffer.getvalue())
    flags = ["--out", str(tmp_path / "a.png"), "--images", "2", "--recipe", "relicv2_r50_300ep"]
    assert main(["views", str(tmp_path / "photographs.tar"), *flags]) == 0
    assert len(differences) == 2
    assert 0 < max(differences) < 1


def test_named_images_show_the_views_that_training_saw(tiny_beton, tmp_path):
    from relic.pictures import render_examples

    views = ViewsConfig()
    first = render_examples(tiny_beton, views, num_images=5, seed=3, epoch=2)
    chosen = [first[3], first[1]]
    indices = [int(example.title.split()[1]) for example in chosen]
    named = render_examples(tiny_beton, views, indices=indices, seed=3, epoch=2)
    for example, expected in zip(named, chosen, strict=True):
        assert example.title == expected.title
        for left, right in zip(example.views["fused"], expected.views["fused"], strict=True):
            np.testing.assert_array_equal(left, right)


def test_an_image_that_is_not_there_is_named(tiny_beton, tmp_path, capsys):
    assert main(["views", str(tiny_beton), "--out", str(tmp_path / "a.png"), "--indices", "1", "99"]) == 1
    assert "has images 0 to 11, no image 99" in capsys.readouterr().err
