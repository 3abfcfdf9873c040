"""`relic masks score`: figures, pairs, agreement, gallery, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.beton import Beton
from pipelines.datasets.synthetic import write_dataset
from pipelines.prepare.writer import write_beton
from relic.cli import main
from saliency import structure
from saliency.comparison import Comparison
from saliency.quality import scores
from saliency.store import MaskStoreWriter

NAMES = ["bee/2", "cow/1", "cow/3"]


def blob(height: int, width: int, shift: float) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.round(255 * np.exp(-3 * (y**2 + (x - shift) ** 2))).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Make true masks and two priors' maps: `near` of the masks' size, `far` of another and in one folder."""
    for number, name in enumerate(NAMES):
        height, width = 40 + number, 60
        for folder, picture in (
            ("truth", (blob(height, width, 0.1 * number) > 127).astype(np.uint8) * 255),
            ("near", blob(height, width, 0.1 * number + 0.2)),
            ("far", blob(20, 30, -0.7)),
        ):
            path = tmp_path / folder / (Path(name).name if folder == "far" else name)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(f"{path}.png", picture)
        photo = tmp_path / "photos" / f"{Path(name).name}.jpg"
        photo.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(photo), np.full((height, width, 3), 90, np.uint8))
    return tmp_path


def run(*arguments) -> int:
    return main(["masks", "score", *map(str, arguments)])


def summary(capsys, *arguments) -> dict:
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_the_figures_are_means_over_the_images(folders, capsys):
    found = summary(capsys, folders / "near", folders / "truth")
    assert found["images"] == found["maps"]["near"]["images"] == 3
    assert found["maps"]["near"]["resized"] == 0
    expected = []
    for name in NAMES:
        gray, mask = (cv2.imread(f"{folders / each / name}.png", cv2.IMREAD_GRAYSCALE) for each in ("near", "truth"))
        expected.append(scores(gray / np.float32(255), mask > 127))
    assert found["maps"]["near"]["mae"] == pytest.approx(np.mean([each.mae for each in expected]))
    assert found["maps"]["near"]["iou"] == pytest.approx(np.mean([each.iou for each in expected]))
    assert found["maps"]["near"]["mean_of_max_f"] == pytest.approx(np.mean([each.max_f for each in expected]))
    assert sum(found["true_coverage"]["histogram"]) == sum(found["maps"]["near"]["coverage"]["histogram"]) == 3
    assert ("s_measure" in found["maps"]["near"]) == structure.is_installed()


def test_priors_stand_side_by_side_and_agree_with_themselves(folders, capsys):
    copy = folders / "copy"
    (folders / "near").rename(copy)
    (folders / "near").symlink_to(copy)
    found = summary(capsys, copy, folders / "truth", "--also", folders / "far", folders / "near")
    assert found["maps"]["copy"] == found["maps"]["near"]
    assert found["maps"]["copy"]["iou"] > found["maps"]["far"]["iou"]
    assert found["maps"]["far"]["resized"] == 3
    agreement = {tuple(pair["maps"]): pair for pair in found["agreement"]}
    assert list(agreement) == [("copy", "far"), ("copy", "near"), ("far", "near")]
    assert agreement["copy", "near"]["iou"] == 1
    assert agreement["copy", "near"]["correlation"] == pytest.approx(1)
    assert agreement["copy", "far"]["iou"] == agreement["far", "near"]["iou"] < 0.5


def test_without_truth_coverage_and_agreement_are_measured(folders, capsys):
    found = summary(capsys, folders / "near", "--also", folders / "far")
    assert found["truth"] is None
    assert found["true_coverage"] is None
    assert "mae" not in found["maps"]["near"]
    assert found["agreement"][0]["images"] == 3
    assert 0 < found["maps"]["near"]["coverage"]["median"] < 1


def test_the_report_is_for_people(folders, capsys):
    assert run(folders / "near", folders / "truth", "--also", folders / "far") == 0
    shown = capsys.readouterr().out
    for expected in ("3 images against", "far: 3 maps were resized", "max F", "near and far", "median share"):
        assert expected in shown


def test_without_pysodmetrics_its_measures_are_left_out_and_that_is_said(folders, capsys, monkeypatch):
    monkeypatch.setattr(structure, "is_installed", lambda: False)
    assert run(folders / "near", folders / "truth", "--json") == 0
    shown = capsys.readouterr()
    assert "s_measure" not in json.loads(shown.out)["maps"]["near"]
    assert "pip install pysodmetrics" in shown.err


# -- stores -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Make a beton of synthetic images, and a store of their true masks but for image 4, which has none."""
    write_dataset(tmp_path, split="train", num_images=12, seed=0)
    put_beton(tmp_path / "train")
    write_store(tmp_path / "train", tmp_path / "train.masks", absent=4)
    return tmp_path


def put_beton(images: Path) -> None:
    files = sorted(images.rglob("*.jpg"))
    write_beton(images.with_suffix(".beton"), [file.read_bytes() for file in files], [0] * len(files))


def write_store(images: Path, out: Path, *, absent: int) -> None:
    with Beton(images.with_suffix(".beton")) as beton:
        fingerprint = beton.fingerprint()
    files = sorted(images.with_name(f"{images.name}_masks").rglob("*.png"))
    with MaskStoreWriter(out, len(files), fingerprint) as writer:
        for index, file in enumerate(files):
            mask = cv2.resize(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), (128, 128)) > 127
            writer.write(index, None if index == absent else mask)


def test_a_store_is_measured_in_the_order_of_its_beton(stored, capsys):
    found = summary(capsys, stored / "train.masks", stored / "train_masks", "--beton", stored / "train.beton")
    column = found["maps"]["train"]
    assert (column["images"], column["absent"], column["resized"]) == (11, 1, 11)
    assert column["iou"] > 0.9  # they are the true masks, but for their size
    assert column["max_f"] > 0.95


def test_a_mask_of_another_image_is_noticed_by_its_shape(stored, capsys):
    files = sorted((stored / "train_masks").rglob("*.png"))
    masks = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
    position = int(np.argmax([mask.shape[0] / mask.shape[1] for mask in masks]))
    cv2.imwrite(str(files[position]), masks[position].T)
    assert run(stored / "train.masks", stored / "train_masks", "--beton", stored / "train.beton") == 1
    error = capsys.readouterr().err
    assert f"but image {position} of" in error


def test_the_gallery_takes_images_from_the_beton(stored, capsys):
    out = stored / "gallery.png"
    flags = ("--beton", stored / "train.beton", "--gallery", out, "--rows", 2)
    assert summary(capsys, stored / "train.masks", stored / "train_masks", *flags)["gallery"] == str(out)
    with_images = cv2.imread(str(out))
    assert run(stored / "train_masks", stored / "train_masks", "--gallery", out, "--rows", 2) == 0
    assert with_images.shape[1] == pytest.approx(1.5 * cv2.imread(str(out)).shape[1], abs=2)


def test_a_gallery_shows_no_map_twice(folders, capsys, monkeypatch):
    from saliency import gallery

    shown: dict = {}

    def drawing(best, worst, *, heading):
        shown.update(best=[each.title for each in best], worst=[each.title for each in worst], image=best[0].image)
        return b"drawn"

    monkeypatch.setattr(gallery, "gallery", drawing)
    out = folders / "gallery.png"
    flags = ("--gallery", out, "--rows", 5, "--images", folders / "photos")
    assert run(folders / "near", folders / "truth", *flags) == 0
    capsys.readouterr()
    assert out.read_bytes() == b"drawn"
    assert sorted(shown["best"] + shown["worst"]) == NAMES
    assert len(shown["best"]) == 2
    assert shown["image"].shape == (40 + NAMES.index(shown["best"][0]), 60, 3)


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{f}/none", "{f}/truth"], "none: no such mask store"),
        (["{f}/near", "{f}/none"], "none: no such folder"),
        (["{f}/near", "{f}/truth", "--rows", "0"], "--rows 0"),
        (["{f}/near", "--gallery", "{f}/x.png"], "give TRUTH"),
        (["{f}/near", "{f}/truth", "--gallery", "{f}/x.gif"], "no .png file"),
        (["{f}/near", "{f}/truth", "--gallery", "{f}/none/x.png"], "no such folder for --gallery"),
        (["{f}/near", "{f}/truth", "--images", "{f}/photos"], "--images are for the gallery"),
        (["{f}/near", "{f}/truth", "--also", "{f}/near"], "given 2 times"),
        (["{f}/near", "{f}/truth", "--beton", "{f}/x.beton"], "is for mask stores, and no PRED is one"),
        (["{f}/far", "{f}/truth", "--gallery", "{f}/x.png", "--images", "{f}/near/bee"], "lacks 2 of the 3"),
    ],
)
def test_wrong_use_is_one_line(folders, capsys, arguments, message):
    assert run(*[text.format(f=folders) for text in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_store_without_its_beton_or_with_another_is_refused(stored, capsys):
    assert run(stored / "train.masks", stored / "train_masks") == 1
    assert "--beton FILE.beton" in capsys.readouterr().err
    write_dataset(stored, split="test", num_images=12, seed=1)
    put_beton(stored / "test")
    assert run(stored / "train.masks", stored / "train_masks", "--beton", stored / "test.beton") == 1
    assert "was made for fingerprint" in capsys.readouterr().err


# -- the comparison ---------------------------------------------------------------------------------------------------


def test_absent_maps_are_left_out_of_figures_and_of_agreement():
    truth = np.zeros((4, 4), bool)
    truth[:2] = True
    good = truth.astype(np.uint8) * 255
    comparison = Comparison(["a", "b"], with_structure=False)
    assert comparison.add([good, None], truth) == [1.0, None]
    assert comparison.add([255 - good, 255 - good], truth) == [0.0, 0.0]
    assert comparison.add([None, None], None) == [None, None]
    found = comparison.summary()
    assert found["images"] == 3
    assert (found["maps"]["a"]["iou"], found["maps"]["b"]["iou"]) == (0.5, 0)
    assert (found["maps"]["a"]["absent"], found["maps"]["b"]["absent"]) == (1, 2)
    assert found["agreement"] == [{"maps": ["a", "b"], "images": 1, "iou": 1.0, "correlation": pytest.approx(1)}]


def test_flat_maps_have_no_correlation():
    comparison = Comparison(["a", "b"], with_structure=False)
    comparison.add([np.zeros((3, 3), np.uint8), np.full((3, 3), 255, np.uint8)], None)
    assert comparison.summary()["agreement"][0] == {"maps": ["a", "b"], "images": 1, "iou": 0.0, "correlation": None}
