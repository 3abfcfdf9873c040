"""Background plates: nothing of a donor's object survives, the filling is smooth, the choice is even and repeatable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.beton import Beton
from pipelines.build import build_loader
from pipelines.config import BackgroundConfig, CropConfig, ViewsConfig
from pipelines.prepare.writer import write_beton
from relic.cli import main
from saliency.backgrounds import PlatesConfig, dilated, make_plates, plate
from saliency.store import MaskStore, MaskStoreWriter

SIZES = [(300, 200), (200, 333), (128, 128), (97, 161), (60, 500), (40, 41)]
ABSENT, LARGE = 3, 4


def ellipse(height: int, width: int, index: int, radius: float = 0.2) -> np.ndarray:
    """Return the place of an object, bool [height, width]."""
    y, x = (np.mgrid[0:height, 0:width].T + 0.5).T
    return np.hypot(y / height - 0.5 - 0.02 * (index % 5), x / width - 0.4) < radius


def scene(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a photograph without any blue, in which an object is blue; image uint8 [H, W, 3], object bool [H, W]."""
    height, width = SIZES[index % len(SIZES)]
    rng = np.random.default_rng(index)
    image = rng.integers(40, 256, (height, width, 3), np.uint8)
    image[..., 2] = 0
    there = ellipse(height, width, index, 0.6 if index == LARGE else 0.2)
    image[there] = (0, 0, 255)
    return image, there


def write_scenes(folder: Path, number: int) -> Path:
    """Write a beton of exact pixels and its masks: the most of a cell decides, as of an inferred mask."""
    path = folder / "scenes.beton"
    made = [scene(index) for index in range(number)]
    write_beton(path, [image for image, _ in made], [0] * number)
    with Beton(path) as beton, MaskStoreWriter(path.with_suffix(".masks"), number, beton.fingerprint()) as writer:
        for index, (_, there) in enumerate(made):
            small = cv2.resize(there.astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA)
            writer.write(index, None if index == ABSENT else small > 0.5)
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 24)


def run(*arguments) -> int:
    return main(["masks", "backgrounds", *map(str, arguments)])


@pytest.mark.parametrize("side", [8, 64, 160, 300])
def test_no_pixel_of_an_object_survives_in_a_plate(scenes, tmp_path, side, capsys):
    out = tmp_path / "plates.npy"
    assert run(scenes, "--out", out, "--side", side, "--json") == 0
    plates = np.load(out)
    assert plates.shape == (22, side, side, 3)
    assert plates.dtype == np.uint8
    assert not plates[..., 2].any()  # blue is the objects' alone
    assert plates[..., :2].min() >= 40  # and a hole would be dark
    summary = json.loads(capsys.readouterr().out)
    assert summary["plates"] == 22
    assert summary["without_mask"] == 1
    assert sorted(summary["donors"]) == [index for index in range(24) if index not in (ABSENT, LARGE)]


def test_the_margin_keeps_off_the_colour_that_jpeg_spreads():
    image = np.full((256, 256, 3), 128, np.uint8)
    there = ellipse(256, 256, 0)
    image[there] = (0, 0, 255)
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
    image = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]
    small = cv2.resize(there.astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA) > 0.5
    left = [
        np.abs(plate(image, dilated(small, margin), 128).astype(int) - 128).max()
        for margin in (PlatesConfig().margin, 0)
    ]
    assert left[0] < 16 < left[1]  # of 128 grey levels


def test_filling_continues_what_lies_around():
    ramp = np.linspace(0, 255, 128).round().astype(np.uint8)
    image = np.repeat(np.tile(ramp, (128, 1))[..., None], 3, axis=2)
    covered = np.zeros((128, 128), bool)
    covered[40:80, 40:80] = True
    filled = plate(image, covered, 128).astype(int)
    np.testing.assert_array_equal(filled[~covered], image[~covered])
    assert np.abs(filled[covered] - image[covered]).mean() < 12
    rows = filled[45:75, 40:80, 0].mean(axis=0)
    assert (np.diff(rows) > 0).all()  # still dark on the left, bright on the right


def test_one_seen_pixel_fills_everything():
    image = np.full((50, 70, 3), 9, np.uint8)
    image[0, 0] = (200, 100, 50)
    covered = np.ones((50, 70), bool)
    covered[0, 0] = False
    assert (plate(image, covered, 16) == (200, 100, 50)).all()


def test_a_mask_grows_by_its_margin_and_by_one_cell_at_least():
    mask = np.zeros((128, 128), bool)
    mask[64, 64] = True
    assert dilated(mask, 0).sum() == 5
    grown = dilated(mask, 0.04)
    assert np.flatnonzero(grown[64]).tolist() == list(range(59, 70))
    assert grown.sum() < 11 * 11


# -- the choice -------------------------------------------------------------------------------------------------------


class Masks:
    """Masks in memory, of which each covers a share of its image."""

    path = Path("some.masks")

    def __init__(self, shares: list[float | None]):
        self.num_images = len(shares)
        self.absent = np.array([share is None for share in shares])
        self._shares = shares

    def mask(self, index: int) -> np.ndarray:
        mask = np.zeros((128, 128), bool)
        mask[: round(128 * (self._shares[index] or 0))] = True
        return mask


def chosen(shares: list[float | None], read: Callable[[int], np.ndarray] | None = None, **config) -> list[int]:
    pale = np.full((20, 20, 3), 200, np.uint8)
    masks: MaskStore = Masks(shares)  # type: ignore[assignment]
    plates, donors = make_plates(masks, read or (lambda index: pale), PlatesConfig(side=8, **config))
    assert (plates == 200).all()
    return donors.tolist()


def test_donors_lie_evenly_over_the_images():
    donors = chosen([0.1] * 1000, count=50)
    assert [donor // 20 for donor in donors] == list(range(50))
    assert np.std([donor % 20 for donor in donors]) > 2  # at a place of its own in each stretch
    assert chosen([0.1] * 1000, count=50) == donors
    assert chosen([0.1] * 1000, count=50, seed=1) != donors
    assert chosen([0.1] * 5, count=50) == list(range(5))


def test_only_small_objects_that_are_known_are_donors():
    shares = [None, 0.5, 0.1, 0.27, None, 0.9, 0.2, 0.29, 0.02, 0.6]
    assert chosen(shares, count=10) == [2, 6, 8]  # .27 and .29 grow past .3
    assert chosen(shares, count=10, largest_share=0.35) == [2, 3, 6, 7, 8]
    assert chosen(shares, count=2) == [2, 6]
    with pytest.raises(ValueError, match=r"none of its 3 images gives a plate .* at most 30%"):
        chosen([None, 0.5, 0.9])


def test_a_damaged_image_gives_way_to_its_neighbour():
    def read(index: int) -> np.ndarray:
        if index % 10 != 7:
            raise ValueError("damaged")
        return np.full((20, 20, 3), 200, np.uint8)

    assert chosen([0.1] * 30, read, count=3) == [7, 17, 27]


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_same_bytes_come_out_and_nothing_is_overwritten(scenes, capsys):
    out = scenes.with_suffix(".plates.npy")
    assert run(scenes, "--side", 32, "--count", 5) == 0
    assert "5 plates of 32×32" in capsys.readouterr().out
    first = out.read_bytes()
    assert run(scenes, "--side", 32, "--count", 5) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert run(scenes, "--side", 32, "--count", 5, "--overwrite") == 0
    assert out.read_bytes() == first
    assert run(scenes, "--side", 32, "--count", 5, "--overwrite", "--seed", 1) == 0
    assert out.read_bytes() != first
    assert run(scenes, "--side", 32, "--overwrite") == 0
    assert "fewer than the 1,024 asked for" in capsys.readouterr().out
    assert [path.name for path in scenes.parent.iterdir() if "partial" in path.name] == []


def test_a_loader_swaps_with_them(scenes, tmp_path):
    out = tmp_path / "plates.npy"
    assert run(scenes, "--out", out, "--side", 32) == 0
    recipe = ViewsConfig(
        large=CropConfig(count=1, size=32, area=(0.9, 1.0)),
        small=CropConfig(count=0, size=8),
        background=BackgroundConfig(chance=1.0, mode="swap"),
    )
    loader = build_loader(scenes, recipe, batch_size=4, masks=scenes.with_suffix(".masks"), plates=out, num_threads=1)
    assert next(iter(loader)).large[0].shape == (4, 32, 32, 3)
    loader.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{f}/x.png"], "no .npy file"),
        (["--out", "{f}/none/x.npy"], "there is no folder"),
        (["--masks", "{f}/none.masks"], "none.masks: no such mask store"),
        (["--count", "0"], "at least 1 plate"),
        (["--margin", "0.5"], "a margin in [0, 0.5)"),
        (["--largest-share", "0.001"], "allow a larger share"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(scenes, tmp_path, capsys, arguments, message):
    default = [] if "--out" in arguments else ["--out", str(tmp_path / "plates.npy")]
    assert run(scenes, *default, *[text.format(f=tmp_path) for text in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_masks_of_another_beton_are_refused(scenes, tmp_path, capsys):
    other = write_scenes(tmp_path, 6)
    assert run(other, "--masks", scenes.with_suffix(".masks")) == 1
    assert "holds 24 masks" in capsys.readouterr().err
