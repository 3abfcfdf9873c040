"""Which files a source has, in which order, with which labels, and that they are read back whole."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from making import encoded

from pipelines.prepare.listing import archive_files, expand_braces
from pipelines.prepare.reading import SourceReader
from pipelines.prepare.sources import Plan, chunks, plan, read_part

# Class folders whose order by path differs from the order of the walk, and a nested folder.
TREE = {
    "b/2.JPEG": encoded(9, 9, 1),
    "b/10.JPEG": encoded(9, 9, 2),
    "a-c/x.png": encoded(9, 9, 3, file_format="PNG"),
    "a/z.jpg": encoded(9, 9, 4),
    "a/deep/y.jpg": encoded(9, 9, 5),
    "a/deep-er/w.jpg": encoded(9, 9, 6),
    "a/deep/er/v.jpg": encoded(9, 9, 7),
}
ORDER = ["a/z.jpg", "a/deep/y.jpg", "a/deep-er/w.jpg", "a/deep/er/v.jpg", "a-c/x.png", "b/10.JPEG", "b/2.JPEG"]
LABELS = [0, 0, 0, 0, 1, 2, 2]


def folder(root: Path, files: dict[str, bytes] = TREE) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def tar_bytes(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def zipped(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def contents(files: Plan) -> list[bytes]:
    reader = SourceReader()
    try:
        return [reader.read(source) for source in files.sources]
    finally:
        reader.close()


def assert_is_tree(files: Plan) -> None:
    assert files.classes == ["a", "a-c", "b"]
    assert [source.label for source in files.sources] == LABELS
    assert contents(files) == [TREE[name] for name in ORDER]


def test_a_folder_is_listed_as_torchvision_lists_it(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    folder(tmp_path)
    files = plan(tmp_path)
    reference = ImageFolder(str(tmp_path))
    assert files.classes == reference.classes
    assert [(s.describe(), s.label) for s in files.sources] == reference.samples
    assert_is_tree(files)


def test_a_class_folder_without_images_keeps_its_number(tmp_path: Path) -> None:
    folder(tmp_path, {"a/1.jpg": b"1", "c/1.jpg": b"2"})
    (tmp_path / "b").mkdir()
    files = plan(tmp_path)
    assert files.classes == ["a", "b", "c"]
    assert [source.label for source in files.sources] == [0, 2]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    files = plan(folder(tmp_path, {"2.jpg": b"2", "1.jpg": b"1"}))
    assert files.classes is None
    assert [(source.name, source.label) for source in files.sources] == [("1.jpg", -1), ("2.jpg", -1)]


def test_files_beside_the_class_folders_are_passed_over_and_counted(tmp_path: Path) -> None:
    folder(tmp_path, TREE | {"README.txt": b"", "stray.jpg": b"x"})
    files = plan(tmp_path)
    assert_is_tree(files)
    assert files.ignored == 2


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    hidden = {".DS_Store": b"", "a/.thumb.jpg": b"", ".git/x.jpg": b""}
    files = plan(folder(tmp_path, TREE | hidden))
    assert_is_tree(files)
    assert files.ignored == 0
    archive = zipped(tmp_path / "x.zip", TREE | hidden | {"__MACOSX/a/z.jpg": b"", "a/._z.jpg": b""})
    assert_is_tree(plan(archive))


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    folder(tmp_path / "real")
    (tmp_path / "set").mkdir()
    for name in ("a", "a-c", "b"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real/a/deep/loop").symlink_to(tmp_path / "real/a")
    assert_is_tree(plan(tmp_path / "set"))


def test_a_broken_link_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    folder(tmp_path, {"a/1.jpg": b"1"})
    (tmp_path / "a/2.jpg").symlink_to(tmp_path / "gone")
    files = plan(tmp_path)
    assert [source.name for source in files.sources] == ["a/1.jpg", "a/2.jpg"]
    with pytest.raises(FileNotFoundError):
        contents(files)


@pytest.mark.parametrize("prefix", ["", "./", "train/", "data/train/", "x/"])
@pytest.mark.parametrize("kind", ["tar", "stored", "deflated"])
def test_archives_give_the_same_as_folders(tmp_path: Path, prefix: str, kind: str) -> None:
    files = {prefix + name: TREE[name] for name in sorted(TREE, reverse=True)}
    if kind == "tar":
        path = tmp_path / "x.tar"
        path.write_bytes(tar_bytes(files))
    else:
        path = zipped(tmp_path / "x.zip", files, zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED)
    assert_is_tree(plan(path))


def test_a_readme_in_an_archive_is_no_class(tmp_path: Path) -> None:
    files = plan(
        zipped(tmp_path / "x.zip", {f"data/{name}": data for name, data in TREE.items()} | {"data/README": b""})
    )
    assert_is_tree(files)
    assert files.ignored == 1


def test_an_archive_with_one_class_keeps_it(tmp_path: Path) -> None:
    assert plan(zipped(tmp_path / "x.zip", {"cat/1.jpg": b"1", "cat/2.jpg": b"2"})).classes == ["cat"]
    assert plan(zipped(tmp_path / "y.zip", {"train/cat/1.jpg": b"1", "train/cat/2.jpg": b"2"})).classes == ["cat"]
    assert plan(zipped(tmp_path / "z.zip", {"train/1.jpg": b"1", "train/2.jpg": b"2"})).classes is None


@pytest.mark.parametrize("how", ["folder", "glob"])
def test_shards_of_one_data_set(tmp_path: Path, how: str) -> None:
    names = sorted(TREE)
    for shard in range(3):
        data = tar_bytes({f"train/{name}": TREE[name] for name in names[shard::3]})
        (tmp_path / f"set-{shard:05d}.tar").write_bytes(data)
    assert_is_tree(plan(tmp_path if how == "folder" else tmp_path / "set-*.tar"))


def test_shards_without_folders_have_no_labels(tmp_path: Path) -> None:
    for shard in range(2):
        (tmp_path / f"set-{shard:05d}.tar").write_bytes(tar_bytes({f"{shard}.jpg": b"x"}))
    assert plan(tmp_path).classes is None


def per_class() -> dict[str, bytes]:
    flat = {c: {n.replace("/", "_"): d for n, d in TREE.items() if n.split("/")[0] == c} for c in ("b", "a-c", "a")}
    return {f"{name}.tar": tar_bytes(files) for name, files in flat.items()}


def assert_is_per_class(files: Plan) -> None:
    assert files.classes == ["a", "a-c", "b"]
    assert [s.label for s in files.sources] == LABELS
    assert sorted(contents(files)) == sorted(TREE.values())
    for data, label in zip(contents(files), LABELS, strict=True):
        assert next(name for name in TREE if TREE[name] == data).split("/")[0] == ["a", "a-c", "b"][label]


def test_imagenets_tar_of_tars(tmp_path: Path) -> None:
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar_bytes(per_class()))
    assert_is_per_class(plan(path))


def test_an_inner_tar_without_its_end_does_not_run_into_the_next(tmp_path: Path) -> None:
    cut = {name: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512) for name, data in per_class().items()}
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar_bytes(cut))
    assert_is_per_class(plan(path))


def test_a_folder_of_one_tar_per_class(tmp_path: Path) -> None:
    for name, data in per_class().items():
        (tmp_path / name).write_bytes(data)
    assert_is_per_class(plan(tmp_path))


def test_subsets_are_disjoint_and_in_order(tmp_path: Path) -> None:
    folder(tmp_path, {f"{c}/{i}.jpg": b"" for c in "ab" for i in range(5)})
    first = plan(tmp_path, per_class=2)
    second = plan(tmp_path, skip_per_class=2, per_class=2)
    rest = plan(tmp_path, skip_per_class=4)
    assert [s.name for s in first.sources] == ["a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"]
    assert [s.name for s in second.sources] == ["a/2.jpg", "a/3.jpg", "b/2.jpg", "b/3.jpg"]
    assert [s.name for s in rest.sources] == ["a/4.jpg", "b/4.jpg"]
    with pytest.raises(ValueError, match="no class has more than 5 files; lower --skip-per-class"):
        plan(tmp_path, skip_per_class=5)


def test_the_key_notices_other_files(tmp_path: Path) -> None:
    folder(tmp_path)
    key = plan(tmp_path).key
    assert plan(tmp_path).key == key
    os.utime(tmp_path / "a/z.jpg", ns=(1, 1))
    touched = plan(tmp_path).key
    (tmp_path / "b/new.jpg").write_bytes(b"")
    assert len({key, touched, plan(tmp_path).key, plan(tmp_path, per_class=1).key}) == 4


def test_a_plan_in_a_file_is_read_from_elsewhere_part_by_part(tmp_path: Path) -> None:
    with plan(folder(tmp_path / "source"), path=tmp_path / "x.plan") as files:
        whole = list(files.sources)
        assert files.sources[3] == whole[3]
        assert list(files.sources.sizes()) == [source.size for source in whole]
        with pytest.raises(IndexError):
            files.sources[len(whole)]
    assert read_part(tmp_path / "x.plan", 0, 100) == whole
    assert read_part(tmp_path / "x.plan", 2, 5) == whole[2:5]
    assert files.bytes == sum(len(data) for data in TREE.values())
    assert files.largest == max(len(data) for data in TREE.values())
    with pytest.raises(ValueError, match="has no files"):
        plan(folder(tmp_path / "empty", {"a/.x": b""}), path=tmp_path / "y.plan")
    assert not (tmp_path / "y.plan").exists()


def test_names_sort_as_python_sorts_them(tmp_path: Path) -> None:
    """SQLite compares bytes; above U+FFFF and for names that are not UTF-8 that is not always Python's order."""
    names = ["z", "\uffee", "\U0001f600", os.fsdecode(b"\xff"), "e\u0301", "\xe9"]
    files = plan(folder(tmp_path, {f"{a}/{b}.jpg": b"" for a in names for b in names}))
    assert files.classes == sorted(names)
    order = [f"{a}/{b}" for a in sorted(names) for b in sorted(f"{name}.jpg" for name in names)]
    assert [source.name for source in files.sources] == order


def test_listing_a_tar_keeps_no_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    next_member = tarfile.TarFile.next

    def watched(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        held.append(len(tar.members))
        return next_member(tar)

    (tmp_path / "x.tar").write_bytes(tar_bytes({f"{i}.jpg": b"" for i in range(50)}))
    monkeypatch.setattr(tarfile.TarFile, "next", watched)
    assert len(list(archive_files([str(tmp_path / "x.tar")]))) == 50
    assert len(held) > 50
    assert max(held) <= 1


def test_braces_name_every_shard(tmp_path: Path) -> None:
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("a-{8..11}.tar") == ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{x,y}/{0..1}") == ["x/0", "x/1", "y/0", "y/1"]
    with pytest.raises(ValueError, match="counts down"):
        expand_braces("{3..1}")
    for shard in range(3):
        (tmp_path / f"set-{shard:02d}.tar").write_bytes(tar_bytes({f"a/{shard}.jpg": b"x"}))
    assert [s.name for s in plan(tmp_path / "set-{00..02}.tar").sources] == ["a/0.jpg", "a/1.jpg", "a/2.jpg"]
    with pytest.raises(FileNotFoundError, match=r"set-03\.tar"):
        plan(tmp_path / "set-{00..03}.tar")


def test_chunks_cover_all_and_stay_small(tmp_path: Path) -> None:
    files = plan(folder(tmp_path, {f"{i:03d}.{'png' if i % 2 else 'jpg'}": bytes(100 * i) for i in range(60)}))
    cuts = chunks(files.sources, max_bytes=20_000, max_images=7)
    assert [i for cut in cuts for i in cut] == list(range(60))
    assert max(map(len, cuts)) == 7
    weights = [s.size * (8 if s.name.endswith("png") else 1) for s in files.sources]
    assert all(sum(weights[i] for i in cut[:-1]) < 20_000 for cut in cuts)
    assert chunks([], max_bytes=1, max_images=1) == []


def test_a_file_that_changes_between_listing_and_reading_is_noticed(tmp_path: Path) -> None:
    files = plan(folder(tmp_path, {"1.jpg": b"1"}))
    (tmp_path / "1.jpg").write_bytes(b"12")
    with pytest.raises(ValueError, match="changed while it was being converted"):
        contents(files)


def test_cut_and_damaged_archives(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    path = zipped(tmp_path / "x.zip", {"1.jpg": data}, zipfile.ZIP_DEFLATED)
    files = plan(path)
    raw = bytearray(path.read_bytes())
    raw[40] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="the archive is damaged"):
        contents(files)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="the archive ends within it"):
        contents(files)
    with pytest.raises(ValueError, match=r"x\.zip: not a readable zip .*copy it again"):
        plan(path)
    tar = tmp_path / "x.tar"
    tar.write_bytes(tar_bytes({"1.jpg": data})[:3000])
    with pytest.raises(ValueError, match=r"x\.tar: not a readable, uncompressed tar .*"):
        plan(tar)


def test_an_archive_that_unfolds_beyond_any_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.prepare.reading.MAX_FILE_BYTES", 1000)
    files = plan(zipped(tmp_path / "x.zip", {"1.jpg": bytes(100_000)}, zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        contents(files)
    files = plan(zipped(tmp_path / "y.zip", {"1.jpg": bytes(1001)}))
    with pytest.raises(ValueError, match="has 1,001 bytes, more than any image"):
        contents(files)


def test_more_archives_than_are_kept_open(tmp_path: Path) -> None:
    for shard in range(12):
        (tmp_path / f"set-{shard:05d}.tar").write_bytes(tar_bytes({f"{shard:02d}.jpg": bytes([shard])}))
    files = plan(tmp_path)
    reader = SourceReader()
    before = len(os.listdir("/proc/self/fd"))
    assert [reader.read(s) for s in [*files.sources, *files.sources]] == [bytes([i % 12]) for i in range(24)]
    assert len(os.listdir("/proc/self/fd")) - before == 8
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def _encrypted(path: Path) -> Path:
    data = bytearray(zipped(path, {"1.jpg": b"x"}).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nope", "no such folder, .tar or .zip"),
        (lambda p: p, "has no files"),
        (lambda p: folder(p, {"x.tar.gz": b""}) / "x.tar.gz", "decompress a compressed tar first"),
        (lambda p: folder(p, {"train/a/1.jpg": b"", "val/a/1.jpg": b""}), r"holds splits \(train, val\).* give one: "),
        (lambda p: folder(p, {"x1": b"", "x2": b""}) / "x*", "narrow the pattern"),
        (lambda p: zipped(p / "x.zip", {"1.jpg": b"", "1.cls": b"cat"}), "1.cls: b'cat' is no class number"),
        (lambda p: zipped(p / "x.zip", {"1.jpg": b"", "1.cls": b"-2"}), "is no class number"),
        (lambda p: zipped(p / "x.zip", {"1.jpg": b"", "1.cls": b"1" * 40}), "more than 32 bytes"),
        (lambda p: zipped(p / "x.zip", {"1.jpg": b"x"}, zipfile.ZIP_LZMA), "neither stored nor deflated"),
        (lambda p: _encrypted(p / "x.zip"), "is encrypted"),
    ],
)
def test_what_is_no_source_is_refused_in_one_line(tmp_path: Path, make, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        plan(make(tmp_path))
    assert "\n" not in str(error.value)
