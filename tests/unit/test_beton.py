"""The beton's bytes, what the reader gives of them, and what it refuses."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import encoded, pixels

from pipelines.beton import RAW as RAW_MODE
from pipelines.beton import Beton, classes_path
from pipelines.prepare.writer import ROW, fitting_page_size, payload_start, place, write_beton, write_tables

MIB = 1 << 20
JPEGS = [encoded(40, 30, 1), encoded(17, 64, 2, mode="L")]
RAW = pixels(21, 13, 3)


def small(path: Path, **options) -> Path:
    write_beton(path, [JPEGS[0], RAW, JPEGS[1]], [4, -1, 0], **options)
    return path


def test_images_and_labels_come_back(tmp_path: Path) -> None:
    with Beton(small(tmp_path / "x.beton", class_names=["a", "b c"])) as beton:
        assert len(beton) == beton.num_images == 3
        assert beton.labels.tolist() == [4, -1, 0]
        assert beton.labels.dtype == beton.heights.dtype == beton.widths.dtype == np.int64
        assert beton.heights.tolist() == [40, 21, 17]
        assert beton.widths.tolist() == [30, 13, 64]
        assert [beton.is_jpeg(i) for i in range(3)] == [True, False, True]
        assert bytes(beton.jpeg(0)) == JPEGS[0]
        assert bytes(beton.jpeg(2)) == JPEGS[1]
        np.testing.assert_array_equal(beton.pixels(1), RAW)
        assert beton.class_names == ["a", "b c"]


def test_nothing_is_copied_and_nothing_can_be_changed(tmp_path: Path) -> None:
    with Beton(small(tmp_path / "x.beton")) as beton:
        view, array = beton.jpeg(0), beton.pixels(1)
        assert view.readonly
        assert not array.flags.writeable
        assert not array.flags.owndata
    # The beton is closed; what was handed out still stands.
    assert bytes(view) == JPEGS[0]
    np.testing.assert_array_equal(array, RAW)


def test_jpeg_and_pixels_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    with Beton(small(tmp_path / "x.beton")) as beton:
        with pytest.raises(ValueError, match="image 1 is stored as pixels"):
            beton.jpeg(1)
        with pytest.raises(ValueError, match="image 0 is stored as a JPEG"):
            beton.pixels(0)


def test_pickles_by_path_and_serves_threads(tmp_path: Path) -> None:
    beton = pickle.loads(pickle.dumps(Beton(small(tmp_path / "x.beton"))))
    with beton, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: bytes(beton.jpeg(2)) == JPEGS[1], range(100)))


def test_bytes_are_ffcvs_layout(tmp_path: Path) -> None:
    """Read the file as FFCV 1.0.2's types.py and reader.py describe it, by plain offsets."""
    data = small(tmp_path / "x.beton", page_size=2 * MIB).read_bytes()
    version, num_fields, page_size, num_samples, table = struct.unpack_from("<HHIQQ", data)
    assert (version, num_fields, page_size, num_samples) == (2, 2, 2 * MIB, 3)
    descriptors = [data[24 + 1041 * i : 24 + 1041 * (i + 1)] for i in range(2)]
    assert [d[0] for d in descriptors] == [2, 1]
    assert [d[1:17].rstrip(b"\0") for d in descriptors] == [b"image", b"label"]
    assert all(d[17:] == bytes(1024) for d in descriptors)
    rows = [struct.unpack_from("<BHHQ3xq", data, 24 + 2 * 1041 + 24 * i) for i in range(3)]
    assert [(row[:3], row[4]) for row in rows] == [((0, 30, 40), 4), ((1, 13, 21), -1), ((0, 64, 17), 0)]
    allocations = list(struct.iter_unpack("<QQQ", data[table:]))
    assert [a[0] for a in allocations] == [0, 1, 2]
    assert [a[1] for a in allocations] == [row[3] for row in rows]
    assert [data[p : p + n] for _, p, n in allocations] == [JPEGS[0], RAW.tobytes(), JPEGS[1]]
    assert rows[0][3] == 2 * MIB


@given(st.lists(st.integers(0, 3 * MIB), max_size=30), st.integers(0, 5 * MIB), st.sampled_from([2 * MIB, 4 * MIB]))
def test_no_payload_crosses_a_page_and_none_overlap(sizes: list[int], position: int, page_size: int) -> None:
    sizes = [min(size, page_size) for size in sizes]
    pointers, end = place(position, sizes, page_size)
    last = position
    for pointer, size in zip(pointers, sizes, strict=True):
        assert pointer >= last
        assert pointer - last < page_size
        assert size == 0 or pointer // page_size == (pointer + size - 1) // page_size
        last = pointer + size
    assert end == last
    # Where a chunk ends does not matter: the second half is placed as if it had been one run.
    half = len(sizes) // 2
    first, middle = place(position, sizes[:half], page_size)
    assert first + place(middle, sizes[half:], page_size)[0] == pointers


def test_the_page_grows_to_the_largest_payload() -> None:
    assert fitting_page_size(0) == fitting_page_size(8 * MIB) == 8 * MIB
    assert fitting_page_size(8 * MIB + 1) == 16 * MIB
    assert fitting_page_size(5, 2 * MIB) == 2 * MIB
    assert payload_start(0, 2 * MIB) == 2 * MIB
    assert payload_start((2 * MIB - 24 - 2 * 1041) // 24, 2 * MIB) == 2 * MIB
    assert payload_start((2 * MIB - 24 - 2 * 1041) // 24 + 1, 2 * MIB) == 4 * MIB


@pytest.mark.parametrize("page_size", [0, MIB, 3 * MIB, 4096 * MIB])
def test_other_pages_are_refused(page_size: int) -> None:
    with pytest.raises(ValueError, match="not a power of two from 2MiB to 2048MiB"):
        fitting_page_size(1, page_size)


def test_a_large_image_makes_a_large_page(tmp_path: Path) -> None:
    write_beton(tmp_path / "x.beton", [np.zeros((900, 800, 3), np.uint8)] * 2, [0, 1], page_size=2 * MIB)
    with Beton(tmp_path / "x.beton") as beton:
        assert beton.page_size == 4 * MIB
        assert beton.pixels(1).shape == (900, 800, 3)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_image_is_not_written(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"is not uint8 \[H, W, 3\]"):
        write_beton(tmp_path / "x.beton", [image], [0])
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_tells_data_sets_apart_and_nothing_else(tmp_path: Path) -> None:
    images, labels = [JPEGS[0], RAW, JPEGS[1]], [4, -1, 0]
    variants = {
        "same": (images, labels, 8 * MIB),
        "other pages": (images, labels, 2 * MIB),
        "other label": (images, [4, -1, 1], 8 * MIB),
        "other size": ([JPEGS[0] + b"\0", RAW, JPEGS[1]], labels, 8 * MIB),
        "other order": ([JPEGS[1], RAW, JPEGS[0]], labels, 8 * MIB),
        "other shape": ([JPEGS[0], RAW.reshape(13, 21, 3), JPEGS[1]], labels, 8 * MIB),
        "one less": (images[:2], labels[:2], 8 * MIB),
    }
    prints = {}
    for name, (some, their, page_size) in variants.items():
        path = tmp_path / f"{name}.beton"
        write_beton(path, some, their, page_size=page_size)
        with Beton(path) as beton:
            prints[name] = beton.fingerprint()
            assert int(prints[name], 16) >= 0
    assert prints.pop("other pages") == prints["same"]
    assert len(set(prints.values())) == len(prints)


def test_a_file_without_labels_is_unlabeled(tmp_path: Path) -> None:
    path = small(tmp_path / "x.beton")
    data = bytearray(path.read_bytes())
    data[24 + 1041] = 0  # a float field, as wide as an int
    path.write_bytes(data)
    with Beton(path) as beton:
        assert beton.labels.tolist() == [-1, -1, -1]


def test_allocations_in_any_order_are_found(tmp_path: Path) -> None:
    """FFCV's workers append them in the order in which they finish."""
    path = small(tmp_path / "x.beton")
    with Beton(path) as beton:
        assert beton.is_in_order
        sizes, fingerprint = beton.payload_sizes.tolist(), beton.fingerprint()
    data = path.read_bytes()
    path.write_bytes(data[:-72] + data[-24:] + data[-72:-24])
    with Beton(path) as beton:
        assert not beton.is_in_order
        assert beton.payload_sizes.tolist() == sizes
        assert bytes(beton.jpeg(2)) == JPEGS[1]
        assert beton.fingerprint() == fingerprint


def test_the_fingerprint_is_the_one_that_masks_were_made_with(tmp_path: Path) -> None:
    images = [np.zeros((4, 6, 3), np.uint8), np.zeros((300, 2, 3), np.uint8)]
    write_beton(tmp_path / "x.beton", images, [-1, 70_000])
    with Beton(tmp_path / "x.beton") as beton:
        assert beton.fingerprint() == "daa5f84b1f0847afc5f0882f2d74d4c07fc52ba1020c2948345d990adaeb37ef"


def test_a_closed_beton_has_no_fingerprint_of_nothing(tmp_path: Path) -> None:
    beton = Beton(small(tmp_path / "x.beton"))
    beton.close()
    with pytest.raises(ValueError, match="is closed"):
        beton.fingerprint()


def many(path: Path, num_images: int) -> Path:
    """Write a beton of so many images of one pixel."""
    rows = np.zeros(num_images, ROW)
    rows["mode"], rows["width"], rows["height"], rows["size"], rows["label"] = RAW_MODE, 1, 1, 3, np.arange(num_images)
    page_size = fitting_page_size(3)
    rows["pointer"], end = place(payload_start(num_images, page_size), rows["size"].tolist(), page_size)
    with open(path, "w+b") as file:
        os.ftruncate(file.fileno(), end)
        write_tables(file.fileno(), rows, page_size=page_size, end=end)
    return path


def test_tables_stay_in_the_file(tmp_path: Path) -> None:
    """All together were 41 bytes of each process per image."""
    path = many(tmp_path / "x.beton", 200_000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with Beton(path) as beton:
            assert len(beton.fingerprint()) == 64
            assert beton.labels[np.array([5, 199_999])].tolist() == [5, 199_999]
            assert beton.labels.max() == 199_999
            held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < 0.5 * 200_000


def test_what_was_checked_before_is_not_gone_through_again(tmp_path: Path) -> None:
    path = small(tmp_path / "x.beton", page_size=2 * MIB)
    data = path.read_bytes()
    path.write_bytes(data[:2106] + b"\1" + data[2107:])  # see below: a JPEG said to be pixels
    with Beton(path, checked=True) as beton:
        assert beton.num_images == 3
    path.write_bytes(data[:-24])
    with pytest.raises(ValueError, match="truncated"):
        Beton(path, checked=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: b"", "not a beton"),
        (lambda d: b"\x89PNG" + d[4:], "not a beton"),
        (lambda d: d[:16] + bytes(8) + d[24:], "interrupted"),
        (lambda d: d[:24] + b"\xff" + d[25:], "custom field"),
        (lambda d: d[:24] + b"\x01" + d[25:], "no image field"),
        (lambda d: d[:1000], "truncated"),
        (lambda d: d[: 2 * MIB + 10], "truncated"),
        (lambda d: d[:-24], "truncated"),
        (lambda d: d[:-8] + b"\xff" * 7 + b"\x00", "beyond the end"),
        (lambda d: d[:2106] + b"\1" + d[2107:], "height x width x 3"),
    ],
)
def test_what_is_no_whole_beton_is_refused_in_one_line(tmp_path: Path, damage, message: str) -> None:
    path = small(tmp_path / "x.beton", page_size=2 * MIB)
    data = path.read_bytes()
    changed = damage(data)
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=message) as error:
        Beton(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_missing_files_name_the_mend(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.beton: no such file; make a beton by `relic data convert"):
        Beton(tmp_path / "nope.beton")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        Beton(tmp_path)
    assert classes_path("d/x.beton") == Path("d/x.beton.classes.txt")
