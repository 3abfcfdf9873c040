"""The mask store: what is written comes back, and nothing wrong, stale or half is accepted."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from saliency.store import BLOCK, MASK_BYTES, MaskStore, MaskStoreWriter

FINGERPRINT = "ab" * 32
MASKS = np.random.default_rng(0).random((5, 128, 128)) < 0.4


def write(path: Path, num_images: int = 5, fingerprint: str = FINGERPRINT) -> Path:
    with MaskStoreWriter(path, num_images, fingerprint) as writer:
        writer.write(3, MASKS[3])
        writer.write(0, MASKS[0])
        writer.write(1, None)
    return path


def test_masks_come_back_and_the_rest_is_absent(tmp_path: Path) -> None:
    with MaskStore(write(tmp_path / "x.masks")) as store:
        assert (store.num_images, store.fingerprint) == (5, FINGERPRINT)
        assert store.absent.tolist() == [False, True, True, False, True]
        assert store.mask(3).dtype == np.bool_
        np.testing.assert_array_equal(store.mask(3), MASKS[3])
        batch = store.masks([0, 1, 3])
        np.testing.assert_array_equal(batch, [MASKS[0], np.zeros((128, 128), bool), MASKS[3]])


def test_a_mask_written_again_or_withdrawn(tmp_path: Path) -> None:
    with MaskStoreWriter(tmp_path / "x.masks", 2, FINGERPRINT) as writer:
        writer.write(0, MASKS[0])
        writer.write(0, None)
        writer.write(1, MASKS[0])
        writer.write(1, MASKS[1])
    with MaskStore(tmp_path / "x.masks") as store:
        assert store.absent.tolist() == [True, False]
        assert not store.mask(0).any()
        np.testing.assert_array_equal(store.mask(1), MASKS[1])


def test_layout_on_disk(tmp_path: Path) -> None:
    data = write(tmp_path / "x.masks").read_bytes()
    assert len(data) == 2 * BLOCK + 5 * MASK_BYTES
    assert data[:8] == b"RELICMSK"
    row = data[2 * BLOCK + 3 * MASK_BYTES :][:16]
    assert [bool(row[x // 8] >> (7 - x % 8) & 1) for x in range(128)] == MASKS[3][0].tolist()


def test_many_images_push_the_masks_back_by_whole_blocks(tmp_path: Path) -> None:
    with MaskStoreWriter(tmp_path / "x.masks", BLOCK + 1, FINGERPRINT) as writer:
        writer.write(0, MASKS[1] | True)
        writer.write(BLOCK, MASKS[2])
    with MaskStore(tmp_path / "x.masks") as store:
        assert (~store.absent).nonzero()[0].tolist() == [0, BLOCK]
        assert store.mask(0).all()
        np.testing.assert_array_equal(store.mask(BLOCK), MASKS[2])


def test_pickles_by_path(tmp_path: Path) -> None:
    with MaskStore(write(tmp_path / "x.masks")) as store, pickle.loads(pickle.dumps(store)) as again:
        np.testing.assert_array_equal(again.mask(0), MASKS[0])


def test_check_names_the_store_and_what_is_wrong(tmp_path: Path) -> None:
    with MaskStore(write(tmp_path / "x.masks")) as store:
        store.check(FINGERPRINT, 5)
        with pytest.raises(ValueError, match=r"x\.masks: holds 5 masks, but y\.beton has 6 images; make it again"):
            store.check(FINGERPRINT, 6, "y.beton")
        with pytest.raises(ValueError, match=r"x\.masks: was made for fingerprint abab.*cdcd.*; make it again"):
            store.check("cd" * 32, 5)


def test_nothing_appears_before_finish_nor_after_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "x.masks"
    with pytest.raises(RuntimeError), MaskStoreWriter(path, 5, FINGERPRINT) as writer:  # noqa: PT012
        writer.write(0, MASKS[0])
        assert not path.exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_older_store_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = write(tmp_path / "x.masks")
    writer = MaskStoreWriter(path, 2, "cd" * 32)
    writer.write(0, MASKS[4])
    with MaskStore(path) as store:
        assert store.num_images == 5
    writer.finish()
    with MaskStore(path) as store:
        assert store.num_images == 2
    assert os.listdir(tmp_path) == ["x.masks"]


def test_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert write(tmp_path / "x.masks").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "not a mask store"),
        (lambda data: b"RELICMS!" + data[8:], "not a mask store"),
        (lambda data: data[:8] + b"\2" + data[9:], "version 2"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: data + b"\0", "truncated"),
    ],
)
def test_what_is_no_store_is_refused(tmp_path: Path, damage, message: str) -> None:
    path = write(tmp_path / "x.masks")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"x\.masks: .*{message}"):
        MaskStore(path)


def test_missing_store_names_the_mend(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.masks: no such mask store; make it by `relic masks infer"):
        MaskStore(tmp_path / "nope.masks")


@pytest.mark.parametrize("mask", [np.zeros((64, 64), bool), np.zeros((128, 128), np.uint8)])
def test_wrong_masks_are_refused(tmp_path: Path, mask: np.ndarray) -> None:
    writer = MaskStoreWriter(tmp_path / "x.masks", 1, FINGERPRINT)
    with pytest.raises(ValueError, match=r"mask of image 0 is"):
        writer.write(0, mask)
    with pytest.raises(IndexError, match="image 1 is not among 1"):
        writer.write(1, None)
    writer.discard()
    assert list(tmp_path.iterdir()) == []
