"""WebDataset's layout: labels from .cls, the archive's order, what belongs to an image is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
from making import encoded
from test_sources import contents, tar_bytes

from pipelines.prepare.convert import ConvertConfig, convert
from pipelines.prepare.listing import archive_files
from pipelines.prepare.sources import plan
from pipelines.prepare.webdataset import is_laid_out, key
from pipelines.shards import open_beton

JPEG = encoded(9, 9, 7)
FIRST = {
    "b.cls": b"7\n",
    "b.jpg": encoded(9, 9, 1),
    "b.json": b"{}",
    "a.jpg": encoded(9, 9, 2),
    "a.cls": b"0",
    "c.png": encoded(9, 9, 3, file_format="PNG"),
    "c.txt": b"a picture",
}
SECOND = {
    "d.cls": b"3",
    "d.1.jpg": encoded(9, 9, 4),
    "d.2.JPG": encoded(9, 9, 5),
    "e.tif": b"II*",
    "e.cls": b" 5 ",
    "f.npy": b"x",
    "a.jpg": encoded(9, 9, 6),  # another sample than the first archive's
}


def archives(folder: Path) -> Path:
    folder.mkdir()
    (folder / "set-0.tar").write_bytes(tar_bytes(FIRST))
    (folder / "set-1.tar").write_bytes(tar_bytes(SECOND))
    return folder


def test_labels_order_and_what_is_passed_over(tmp_path: Path) -> None:
    files = plan(archives(tmp_path / "set"))
    named = [(Path(source.container).name, source.name, source.label) for source in files.sources]
    assert named == [
        ("set-0.tar", "b.jpg", 7),
        ("set-0.tar", "a.jpg", 0),
        ("set-0.tar", "c.png", -1),
        ("set-1.tar", "d.1.jpg", 3),
        ("set-1.tar", "d.2.JPG", 3),
        ("set-1.tar", "e.tif", 5),
        ("set-1.tar", "a.jpg", -1),
    ]
    assert contents(files)[0] == FIRST["b.jpg"]
    assert contents(files)[-1] == SECOND["a.jpg"]
    assert files.classes is None
    assert files.ignored == 3  # b.json, c.txt, f.npy


def test_subsets_are_of_classes(tmp_path: Path) -> None:
    files = plan(archives(tmp_path / "set"), per_class=1)
    assert [(source.name, source.label) for source in files.sources] == [
        ("b.jpg", 7), ("a.jpg", 0), ("c.png", -1), ("d.1.jpg", 3), ("e.tif", 5),
    ]  # fmt: skip


def test_labels_in_folders(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"one/v1.2/0.jpg": b"x", "one/v1.2/0.cls": b"4", "two/0.jpg": b"y"}))
    assert [(s.name, s.label) for s in plan(tmp_path / "x.tar").sources] == [("one/v1.2/0.jpg", 4), ("two/0.jpg", -1)]


def test_flat_tars_with_captions_have_no_labels(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"train/1.txt": b"", "train/1.jpg": b"x", "train/0.jpg": b"y"}))
    files = plan(tmp_path / "x.tar")
    assert [(s.name, s.label) for s in files.sources] == [("train/1.jpg", -1), ("train/0.jpg", -1)]
    assert files.ignored == 1


def test_class_folders_with_a_readme_are_class_folders(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"cat/1.jpg": b"", "dog/1.jpg": b"", "README.txt": b""}))
    files = plan(tmp_path / "x.tar")
    assert files.classes == ["cat", "dog"]
    assert (len(files.sources), files.ignored) == (2, 1)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"1.jpg": b"", "1.cls": b"0"}, True),
        ({"a/1.jpg": b"", "b/1.png": b"", "b/1.cls": b"0"}, True),
        ({"1.jpg": b"", "1.json": b"0"}, False),
        ({"x/val/1.jpg": b"", "x/val/1.txt": b"0"}, False),
        ({"1.jpg": b"", "2.jpg": b"0"}, False),
        ({"cat/1.jpg": b"", "cat/1.txt": b"0"}, False),
        ({"cat/1.jpg": b"", "dog/1.txt": b"0"}, False),
    ],
)
@pytest.mark.parametrize("names", [["x.tar"], ["set-1.tar", "set-2.tar"], ["cats.tar", "dogs.tar"]])
def test_a_label_tells_the_layout_and_a_plan_finds_the_same(
    tmp_path: Path, files: dict[str, bytes], names: list[str], expected: bool
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(tar_bytes(files))
    paths = [str(tmp_path / name) for name in names]
    assert is_laid_out(archive_files(paths)) == expected
    if expected:
        assert plan(tmp_path).classes is None
        assert all(source.name.endswith((".jpg", ".png")) for source in plan(tmp_path).sources)


def test_captions_first_and_class_folders_later_are_class_folders(tmp_path: Path) -> None:
    captions = {f"train/{n:04d}.{end}": JPEG if end == "jpg" else b"" for n in range(520) for end in ("jpg", "txt")}
    (tmp_path / "x.tar").write_bytes(tar_bytes(captions | {"val/1.jpg": JPEG}))
    for shard_size in (None, 1 << 30):
        out = tmp_path / f"{shard_size}.beton"
        convert(tmp_path / "x.tar", out, config=ConvertConfig(shard_size=shard_size))
        with open_beton(out) as beton:
            assert beton.class_names == ["train", "val"]


@pytest.mark.parametrize(
    "files",
    [
        {"0.jpg": JPEG, "1.jpg": JPEG, "0.cls": b"0", "1.cls": b"1"},
        {"0.cls": b"0", "1.cls": b"1", "0.jpg": JPEG, "1.jpg": JPEG},
        {"0.jpg": JPEG, "1.jpg": JPEG, "0.json": b"{}", "0.cls": b"0"},
    ],
)
@pytest.mark.parametrize("shard_size", [None, 1 << 30])
def test_labels_apart_from_their_images_are_refused(tmp_path: Path, files: dict, shard_size: int | None) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes(files))
    with pytest.raises(ValueError, match=r"x\.tar: no image lies beside 0\.(cls|json); .*--sort=name"):
        convert(tmp_path / "x.tar", tmp_path / "x.beton", config=ConvertConfig(shard_size=shard_size))


@pytest.mark.parametrize("label", [b"1_0", b"\xd9\xa1", b"", b"+1", b"-2", b"1.0", b"cat"])
def test_what_is_no_class_number(tmp_path: Path, label: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"0.jpg": b"", "0.cls": label}))
    with pytest.raises(ValueError, match=r"x\.tar:0\.cls: .* is no class number"):
        plan(tmp_path / "x.tar")


def test_no_class_is_minus_one(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"0.jpg": b"", "0.cls": b" -1\n"}))
    assert [source.label for source in plan(tmp_path / "x.tar").sources] == [-1]


@pytest.mark.parametrize(
    ("path", "expected"), [("a.jpg", "a"), ("x/a.seg.png", "x/a"), ("v1.2/a", "v1.2/a"), ("x/.b", "x/")]
)
def test_keys(path: str, expected: str) -> None:
    assert key(path) == expected
