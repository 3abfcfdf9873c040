"""Folders of PNGs and mask stores: what is listed, and which map belongs to which mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from saliency.maps import match, of_store, open_folder, resized, true_mask
from saliency.store import MaskStore, MaskStoreWriter


def put(folder: Path, *names: str, shape: tuple[int, ...] = (4, 6)) -> Path:
    """Write PNGs, whose grey level is their number."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full(shape, number, np.uint8))
    return folder


def store_of(path: Path, number: int, absent: int) -> MaskStore:
    with MaskStoreWriter(path, number, "f" * 64) as writer:
        for index in set(range(number)) - {absent}:
            mask = np.zeros((128, 128), bool)
            mask[: index + 1] = True
            writer.write(index, mask)
    return MaskStore(path)


def test_files_are_listed_in_the_order_of_conversion(tmp_path):
    # Classes first: as strings, "ant-bear/" would come before "ant/".
    maps = open_folder(put(tmp_path, "ant-bear/0.png", "ant/1.png", "ant/0.png", "bee.PNG"))
    (tmp_path / "ant" / "note.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert maps.names == ["ant/0", "ant/1", "ant-bear/0", "bee"]
    assert maps.count == 4
    np.testing.assert_array_equal(maps.read(1), np.ones((4, 6), np.uint8))


def test_pictures_are_read_as_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((8, 8, 3), (0, 0, 255), np.uint8))
    red = open_folder(tmp_path, color=True).read(0)
    assert red is not None
    assert red[..., 0].min() > 240
    assert red[..., 1:].max() < 15
    with pytest.raises(FileNotFoundError, match=r"no \.png files"):
        open_folder(tmp_path)


def test_pairs_are_found_by_path_and_else_by_name(tmp_path):
    maps = open_folder(put(tmp_path / "maps", "ant/0.png", "ant/1.png", "bee/0.png", "more.png"))
    same = open_folder(put(tmp_path / "same", "bee/0.png", "ant/0.png"))
    assert match(maps, same) == [0, 2]
    flat = open_folder(put(tmp_path / "flat", "more.png", "1.png"))
    assert match(maps, flat) == [1, 3]
    twice = open_folder(put(tmp_path / "twice", "0.png"))
    with pytest.raises(ValueError, match="may be ant/0 and bee/0"):
        match(maps, twice)
    other = open_folder(put(tmp_path / "other", "more.png", *(f"x{number}.png" for number in range(5))))
    with pytest.raises(ValueError, match=r"lacks 5 of the 6 in .*other: x0, x1, x2, \.\.\.$"):
        match(maps, other)


def test_a_store_pairs_by_order_and_lacks_what_is_absent(tmp_path):
    store = store_of(tmp_path / "x.masks", 3, absent=1)
    maps = of_store(store)
    assert match(maps, open_folder(put(tmp_path / "three", "c.png", "a.png", "b.png"))) == [0, 1, 2]
    assert maps.read(1) is None
    mask = maps.read(2)
    assert mask is not None
    assert mask.dtype == np.uint8
    assert (mask[:3] == 255).all()
    assert not mask[3:].any()
    with pytest.raises(ValueError, match=r"holds 3 and .*two 2: a mask store pairs with files by their order"):
        match(maps, open_folder(put(tmp_path / "two", "a.png", "b.png")))


def test_what_is_no_folder_and_no_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        open_folder(tmp_path / "none")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.png").write_bytes(b"")
    for position in range(2):
        with pytest.raises(ValueError, match=r"(cut|empty)\.png: does not decode"):
            open_folder(tmp_path).read(position)


def test_masks_are_cut_in_the_middle_and_ones_are_no_white():
    np.testing.assert_array_equal(true_mask(np.array([[0, 127, 128, 255]], np.uint8), "m"), [[0, 0, 1, 1]])
    assert not true_mask(np.zeros((2, 2), np.uint8), "m").any()
    with pytest.raises(ValueError, match=r"mask m: its brightest pixel is 1 of 255"):
        true_mask(np.array([[0, 1]], np.uint8), "m")


def test_maps_are_resized_bilinearly():
    ramp = np.array([[0, 200]], np.uint8)
    assert resized(ramp, (1, 2)) is ramp
    np.testing.assert_array_equal(resized(ramp, (2, 4)), [[0, 50, 150, 200]] * 2)
