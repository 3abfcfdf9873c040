"""The embedded data set: pure function of its arguments, true masks, backgrounds as promised, same files always."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.datasets import scene, synthetic
from pipelines.datasets.synthetic import CLASS_NAMES, FAMILIES, render, write_dataset

SHOWN = 120


@pytest.fixture(scope="module")
def rendered() -> list[tuple[np.ndarray, np.ndarray, int]]:
    return [render(index, split="train", seed=3) for index in range(SHOWN)]


def test_images_have_the_promised_form(rendered):
    for index, (image, mask, label) in enumerate(rendered):
        height, width = mask.shape
        assert image.dtype == np.uint8
        assert mask.dtype == np.bool_
        assert image.shape == (height, width, 3)
        assert 96 <= min(height, width) <= max(height, width) <= 160
        assert 0.74 <= width / height <= 1.35  # whole pixels
        assert 0.08 <= mask.mean() <= 0.45
        assert label == index % 10
    assert len({image.shape for image, _, _ in rendered}) > SHOWN // 2


def test_class_names_are_numbered_as_an_image_folder_does():
    assert list(CLASS_NAMES) == sorted(CLASS_NAMES)
    assert len(CLASS_NAMES) == 10


def test_an_image_is_a_pure_function_of_seed_split_and_index(rendered):
    image, mask, _ = render(17, split="train", seed=3)
    np.testing.assert_array_equal(image, rendered[17][0])
    np.testing.assert_array_equal(mask, rendered[17][1])
    others = [
        render(17, split="test", seed=3),
        render(17, split="train", seed=4),
        render(27, split="train", seed=3),
    ]
    for other, _, _ in others:
        assert other.shape != image.shape or (other != image).mean() > 0.5


def test_colours_do_not_tell_the_class(rendered):
    means = np.array([image[mask].mean(axis=0) for image, mask, _ in rendered])
    labels = np.array([label for _, _, label in rendered])
    between = np.array([means[labels == label].mean(axis=0) for label in range(10)]).std(axis=0)
    within = np.mean([means[labels == label].std(axis=0) for label in range(10)], axis=0)
    assert (between < 0.6 * within).all()


@pytest.mark.parametrize("label", range(10))
def test_the_mask_is_where_the_object_is(monkeypatch, label):
    # a white object on black, unlit: what is bright in the picture is the object
    black = tuple(lambda rng, height, width: np.zeros((height, width, 3), np.float32) for _ in FAMILIES)
    monkeypatch.setattr(synthetic, "FAMILIES", black)
    monkeypatch.setattr(scene, "clutter", lambda rng, picture, light: picture)
    monkeypatch.setattr(scene, "shaded", lambda rng, albedo, relief, light: np.ones_like(albedo))
    image, mask, _ = render(label, split="train", seed=0)
    bright = image.mean(axis=2) > 110
    assert np.count_nonzero(bright & mask) / np.count_nonzero(bright | mask) > 0.9


class _Chosen(Exception):
    pass


@pytest.mark.parametrize(
    ("split", "correlation", "low", "high"),
    [
        ("train", 0.9, 0.87, 0.93),
        ("test", 0.9, 0.87, 0.93),
        ("test", 0.5, 0.45, 0.55),
        ("test_shifted", 0.9, 0.07, 0.13),
    ],
)
def test_backgrounds_go_with_the_class_as_often_as_promised(monkeypatch, split, correlation, low, high):
    def family(number):
        def choose(rng, height, width):
            raise _Chosen(number)

        return choose

    monkeypatch.setattr(synthetic, "FAMILIES", tuple(map(family, range(10))))
    chosen = []
    for index in range(2000):
        with pytest.raises(_Chosen) as stop:
            render(index, split=split, seed=1, correlation=correlation)
        chosen.append((stop.value.args[0] - index) % 10)
    share = Counter(chosen)
    assert low < share[0] / 2000 < high
    # the rest is spread evenly over the nine others
    assert all(0.5 < share[other] * 9 / (2000 - share[0]) < 1.6 for other in range(1, 10))


def test_files_are_the_same_for_any_number_of_workers(tmp_path):
    seen = []
    for workers in (1, 2):
        write_dataset(
            tmp_path / str(workers), split="test", num_images=70, seed=5, workers=workers, on_progress=seen.append
        )
    assert sum(seen) == 140
    one, two = (_contents(tmp_path / str(workers)) for workers in (1, 2))
    assert one == two
    assert len(one) == 140
    assert Path("test/cross/000060.jpg") in one
    assert Path("test_masks/tree/000069.png") in one


def test_files_hold_the_rendered_images(tmp_path):
    folder = write_dataset(tmp_path, split="train", num_images=10, seed=6)
    assert folder == tmp_path / "train"
    for index in range(10):
        image, mask, label = render(index, split="train", seed=6)
        name = CLASS_NAMES[label]
        stored = cv2.imread(str(folder / name / f"{index:06d}.jpg"))[..., ::-1]
        assert np.abs(stored.astype(int) - image).mean() < 6
        drawn = cv2.imread(str(tmp_path / "train_masks" / name / f"{index:06d}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(drawn, np.where(mask, 255, 0))


def test_gray_images_are_stored_with_one_channel(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "GRAY_SHARE", 1.0)
    folder = write_dataset(tmp_path, split="train", num_images=1, seed=0)
    assert cv2.imread(str(folder / "cross" / "000000.jpg"), cv2.IMREAD_UNCHANGED).ndim == 2


def test_an_existing_split_is_not_mixed_with_a_new_one(tmp_path):
    (tmp_path / "test").mkdir()
    with pytest.raises(FileExistsError, match="test exists: remove it"):
        write_dataset(tmp_path, split="test", num_images=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["test"]


def test_half_a_data_set_never_looks_whole(tmp_path, monkeypatch):
    real = synthetic.render

    def failing(index, **arguments):
        if index == 2:
            raise OSError("disk full")
        return real(index, **arguments)

    monkeypatch.setattr(synthetic, "render", failing)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(tmp_path, split="train", num_images=4, seed=0)
    assert not (tmp_path / "train").exists()
    assert not (tmp_path / "train_masks").exists()
    monkeypatch.undo()
    write_dataset(tmp_path, split="train", num_images=2, seed=0)
    assert len(_contents(tmp_path)) == 4  # nothing of the first attempt is left


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "tset"}, "unknown split 'tset': did you mean 'test'"),
        ({"seed": -1}, "seed is -1"),
        ({"correlation": 1.5}, "correlation is 1.5"),
        ({"num_images": 0}, "num_images is 0"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path, **{"split": "test", "num_images": 1, "seed": 0, **wrong})


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
