"""The mask store: what is written comes back, and nothing wrong, stale or half is accepted."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from saliency.store import (
    BLOCK,
    HAS_MASK,
    MASK_BYTES,
    NO_MASK,
    NOT_MADE,
    TOO_LARGE,
    MaskStore,
    MaskStoreWriter,
    ShardedMaskStore,
    open_masks,
    partial_path,
    write_manifest,
)

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


# ---- writing ------------------------------------------------------------------------------------------------


def test_nothing_appears_before_finish(tmp_path: Path) -> None:
    path = tmp_path / "x.masks"
    with pytest.raises(RuntimeError), MaskStoreWriter(path, 5, FINGERPRINT):  # noqa: PT012
        assert not path.exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_after_an_exception_the_next_writer_goes_on(tmp_path: Path) -> None:
    path, maker = tmp_path / "x.masks", "priors a,b at 300"
    with pytest.raises(RuntimeError), MaskStoreWriter(path, 5, FINGERPRINT, maker) as writer:  # noqa: PT012
        writer.write(3, MASKS[3])
        writer.write(1, None)
        raise RuntimeError
    assert os.listdir(tmp_path) == ["x.masks.partial"]
    with MaskStoreWriter(path, 5, FINGERPRINT, maker) as writer:
        assert writer.flags.tolist() == [NOT_MADE, NO_MASK, NOT_MADE, HAS_MASK, NOT_MADE]
        assert writer.other is None
        writer.write(0, MASKS[0])
    assert os.listdir(tmp_path) == ["x.masks"]
    with MaskStore(path) as store:
        assert store.maker == maker
        assert store.flags.tolist() == [HAS_MASK, NO_MASK, NO_MASK, HAS_MASK, NO_MASK]
        np.testing.assert_array_equal(store.masks([0, 3]), MASKS[[0, 3]])


@pytest.mark.parametrize(
    ("num_images", "fingerprint", "maker"), [(6, FINGERPRINT, "m"), (5, "cd" * 32, "m"), (5, FINGERPRINT, "other")]
)
def test_what_is_of_other_images_or_another_maker_is_not_continued(
    tmp_path: Path, num_images: int, fingerprint: str, maker: str
) -> None:
    writer = MaskStoreWriter(tmp_path / "x.masks", 5, FINGERPRINT, "m")
    writer.write(3, MASKS[3])
    writer.close()
    with MaskStoreWriter(tmp_path / "x.masks", num_images, fingerprint, maker) as writer:
        assert writer.other == "m"
        assert (writer.flags == NOT_MADE).all()
    with MaskStore(tmp_path / "x.masks") as store:
        assert store.absent.sum() == num_images
        assert not store.masks(range(num_images)).any()


def test_a_power_cut_keeps_no_flag_of_a_mask_that_is_not_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps = tmp_path / "x.masks", []
    with MaskStoreWriter(path, 5, FINGERPRINT) as writer:
        on_disk, flags = partial_path(path), slice(BLOCK, BLOCK + 5)
        write_at, fsync = os.pwrite, os.fsync
        monkeypatch.setattr(os, "pwrite", lambda *given: (steps.append(given[2]), write_at(*given))[1])
        monkeypatch.setattr(os, "fsync", lambda file: (steps.append("sync"), fsync(file))[1])
        writer.write(2, MASKS[2])
        assert on_disk.read_bytes()[flags] == bytes([NOT_MADE] * 5)
        monkeypatch.setattr("saliency.store.COMMIT_SECONDS", 0)
        writer.write(0, MASKS[0])
        made = [HAS_MASK, NOT_MADE, HAS_MASK, NOT_MADE, NOT_MADE]
        assert on_disk.read_bytes()[flags] == bytes(made)
        assert steps == [2 * BLOCK + 2 * MASK_BYTES, 2 * BLOCK, "sync", BLOCK + 2, BLOCK]
        monkeypatch.undo()


@pytest.mark.parametrize("size", [0, 100, 2 * BLOCK + 5 * MASK_BYTES])
def test_a_file_whose_beginning_was_interrupted_is_begun_again(tmp_path: Path, size: int) -> None:
    partial_path(tmp_path / "x.masks").write_bytes(bytes(size))
    with MaskStoreWriter(tmp_path / "x.masks", 5, FINGERPRINT) as writer:
        assert writer.other is None
        assert (writer.flags == NOT_MADE).all()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with MaskStoreWriter(tmp_path / "x.masks", 5, FINGERPRINT) as writer:
        writer.write(0, MASKS[0])
        with pytest.raises(OSError, match=r"x\.masks\.partial: another process is writing it"):
            MaskStoreWriter(tmp_path / "x.masks", 5, FINGERPRINT)
    with MaskStore(tmp_path / "x.masks") as store:
        np.testing.assert_array_equal(store.mask(0), MASKS[0])


def test_many_masks_at_once_each_with_its_flag(tmp_path: Path) -> None:
    packed = np.packbits(MASKS.reshape(5, -1), axis=1)
    packed[2] = 0
    with MaskStoreWriter(tmp_path / "x.masks", 7, FINGERPRINT) as writer:
        writer.write_packed(1, packed, np.array([0, 0, TOO_LARGE, 0, 0], np.uint8))
        with pytest.raises(IndexError, match="image 7 is not among 7"):
            writer.write_packed(3, packed, np.zeros(5, np.uint8))
    with MaskStore(tmp_path / "x.masks") as store:
        assert store.flags.tolist() == [NO_MASK, 0, 0, TOO_LARGE, 0, 0, NO_MASK]
        assert store.absent.tolist() == [True, False, False, True, False, False, True]
        assert store.absent.sum() == 3
        expected = MASKS.sum(axis=(1, 2))
        expected[2] = 0
        assert store.areas(1, 6).tolist() == expected.tolist()


def test_the_maker_must_fit(tmp_path: Path) -> None:
    for maker in ("m" * 257, "prior été"):
        with pytest.raises(ValueError, match=r"x\.masks: maker .* has not at most 256 ASCII characters"):
            MaskStoreWriter(tmp_path / "x.masks", 5, FINGERPRINT, maker)
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_before_there_were_makers(tmp_path: Path) -> None:
    path = write(tmp_path / "x.masks")
    assert path.read_bytes()[152:BLOCK] == bytes(BLOCK - 152)
    with MaskStore(path) as store:
        assert store.maker == ""


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


# ---- shards -------------------------------------------------------------------------------------------------


def in_shards(folder: Path, sizes: tuple[int, ...] = (2, 0, 3)) -> Path:
    """Write what `write` does, but image 4 of `MASKS` too, as shards of these sizes."""
    paths, index = [], 0
    for number, size in enumerate(sizes):
        paths.append(folder / f"x-{number:05d}.masks")
        with MaskStoreWriter(paths[-1], size, f"{number:02d}" * 32, "priors a at 300") as writer:
            for place in range(size):
                writer.write(place, None if index in (1, 2) else MASKS[index])
                index += 1
    write_manifest(folder / "x.masks", FINGERPRINT, paths)
    return folder / "x.masks"


@pytest.mark.parametrize("sizes", [(2, 0, 3), (5,), (1, 1, 1, 1, 1), (0, 5, 0)])
def test_shards_are_one_store(tmp_path: Path, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saliency.store.most_open", lambda: 1)
    with open_masks(in_shards(tmp_path, sizes)) as store, pickle.loads(pickle.dumps(store)) as again:
        assert isinstance(store, ShardedMaskStore)
        assert (len(store), store.num_images, store.fingerprint) == (5, 5, FINGERPRINT)
        assert store.maker == "priors a at 300"
        assert store.absent.tolist() == [False, True, True, False, False]
        assert store.absent.sum() == 2
        assert (~store.absent).tolist() == [True, False, False, True, True]
        assert store.absent[np.array([4, 1])].dtype == np.bool_
        assert not store.absent[4]
        for index in (0, 3, 4, 0):
            np.testing.assert_array_equal(store.mask(index), MASKS[index])
        np.testing.assert_array_equal(again.masks([4, 1, 0, 4]), [MASKS[4], MASKS[1] & False, MASKS[0], MASKS[4]])
        store.check(FINGERPRINT, 5)
        with pytest.raises(ValueError, match=r"x\.masks: was made for fingerprint abab.*; make it again"):
            store.check("cd" * 32, 5)
        with pytest.raises(IndexError):
            store.mask(5)


def test_one_store_is_opened_as_before(tmp_path: Path) -> None:
    with open_masks(write(tmp_path / "x.masks")) as store:
        assert isinstance(store, MaskStore)


def test_the_manifest_on_disk(tmp_path: Path) -> None:
    path = in_shards(tmp_path, (2, 3))
    assert json.loads(path.read_text()) == {
        "format": "relicv2 mask shards",
        "version": 1,
        "fingerprint": FINGERPRINT,
        "shards": [
            {"file": "x-00000.masks", "images": 2, "fingerprint": "00" * 32},
            {"file": "x-00001.masks", "images": 3, "fingerprint": "01" * 32},
        ],
    }
    assert sorted(os.listdir(tmp_path)) == ["x-00000.masks", "x-00001.masks", "x.masks"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = in_shards(tmp_path)
    (tmp_path / "x-00002.masks").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"x-00002\.masks: no such file, a shard of .*x\.masks .*make them again"
    ):
        open_masks(path)


@pytest.mark.parametrize(
    ("size", "fingerprint", "message"),
    [(3, "03" * 32, "was made for fingerprint 0303.* but its shard in .*x.masks has 0202"), (1, "02" * 32, "holds 1")],
)
def test_a_shard_of_other_images_is_refused(tmp_path: Path, size: int, fingerprint: str, message: str) -> None:
    path = in_shards(tmp_path)
    MaskStoreWriter(tmp_path / "x-00002.masks", size, fingerprint).finish()
    with open_masks(path) as store, pytest.raises(ValueError, match=rf"x-00002\.masks: {message}.*; make it again"):
        store.mask(2)


def test_a_damaged_manifest_names_the_mend(tmp_path: Path) -> None:
    path = in_shards(tmp_path)
    path.write_text(path.read_text().replace('"fingerprint": "ab', '"print": "ab'))
    with pytest.raises(
        ValueError, match=r"x\.masks: damaged \(no 'fingerprint'\); make it again by `relic masks infer"
    ):
        open_masks(path)


@pytest.mark.parametrize("mask", [np.zeros((64, 64), bool), np.zeros((128, 128), np.uint8)])
def test_wrong_masks_are_refused(tmp_path: Path, mask: np.ndarray) -> None:
    writer = MaskStoreWriter(tmp_path / "x.masks", 1, FINGERPRINT)
    with pytest.raises(ValueError, match=r"mask of image 0 is"):
        writer.write(0, mask)
    with pytest.raises(IndexError, match="image 1 is not among 1"):
        writer.write(1, None)
    writer.close()
    assert list(tmp_path.iterdir()) == []
