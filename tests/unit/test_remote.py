"""Sources behind URLs give what their copies on the disk give; a network that stumbles is asked again."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from test_sources import TREE, assert_is_tree, folder, tar_bytes, zipped
from test_webdataset import archives as webdataset_archives

from pipelines.prepare import convert as convert_module
from pipelines.prepare import remote, sharded
from pipelines.prepare.convert import ConvertConfig, convert
from pipelines.prepare.reading import SourceReader, has_suffix
from pipelines.prepare.shard import ShardMade, ShardTask
from pipelines.prepare.sources import plan


@pytest.fixture
def upload(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Give what copies a folder or file to memory://, where nothing is in the way of nothing."""
    monkeypatch.setattr(remote, "RETRY_SECONDS", (0.0, 0.0))
    memory = MemoryFileSystem()

    def put(path: Path) -> None:
        files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        for file in files:
            memory.pipe_file(f"/{file.relative_to(path.parent)}", file.read_bytes())

    yield put
    memory.rm("/", recursive=True)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def test_a_folder(tmp_path: Path, upload: Callable[[Path], None]) -> None:
    upload(folder(tmp_path / "set", TREE | {"README": b"x", "a/.hidden.jpg": b""}))
    files = plan("memory://set")
    assert_is_tree(files)
    assert files.ignored == 1
    assert files.sources[0].describe() == "memory://set/a/z.jpg"
    upload(folder(tmp_path / "both", {f"{split}/a/1.jpg": b"" for split in ("train", "val")}))
    with pytest.raises(ValueError, match=r"holds splits \(train, val\).* give one: memory://both/train"):
        plan("memory://both")


@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
def test_an_archive(tmp_path: Path, upload: Callable[[Path], None], name: str) -> None:
    if name == "x.tar":
        (tmp_path / name).write_bytes(tar_bytes(TREE))
    else:
        zipped(tmp_path / name, TREE)
    upload(tmp_path / name)
    assert_is_tree(plan(f"memory://{name}"))


@pytest.mark.parametrize("url", ["memory://set", "memory://set/set-*.tar", "memory://set/set-{0..1}.tar"])
@pytest.mark.parametrize("shard_size", [None, 1])
def test_tars_give_the_bytes_that_copies_of_them_give(
    tmp_path: Path, upload: Callable[[Path], None], url: str, shard_size: int | None
) -> None:
    upload(webdataset_archives(tmp_path / "set"))
    config = ConvertConfig(shard_size=shard_size)
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    notes: list[str] = []
    convert(url, tmp_path / "there/x.beton", config=config, on_note=notes.append)
    convert(tmp_path / "set", tmp_path / "here/x.beton", config=config)
    names = sorted(os.listdir(tmp_path / "here"))
    assert sorted(os.listdir(tmp_path / "there")) == names
    for name in names:
        there, here = ((tmp_path / side / name).read_bytes() for side in ("there", "here"))
        # What a pattern finds fsspec writes with a third slash.
        there = there.replace(b"memory:///", b"memory://")
        assert there == here.replace(str(tmp_path / "set").encode(), b"memory://set")
    assert ["with --shard-size each tar is copied once" in note for note in notes] == ([] if shard_size else [True])


def test_a_tar_is_copied_once_for_all_its_members(
    tmp_path: Path, upload: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):  # more than are kept open where they are files
        folder(tmp_path, {f"set/set-{number:02d}.tar": tar_bytes({"1.jpg": TREE["a/z.jpg"], "1.cls": b"1"})})
    upload(tmp_path / "set")
    monkeypatch.setattr(remote, "FETCH_BYTES", 4096)
    asked: list[tuple[str, int | None]] = []
    cat_file = MemoryFileSystem.cat_file

    def watched(self: Any, path: str, start: int | None = None, end: int | None = None, **rest: Any) -> bytes:
        asked.append((path, start))
        return cat_file(self, path, start=start, end=end, **rest)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", watched)
    convert("memory://set", tmp_path / "x.beton", config=ConvertConfig(shard_size=1 << 30))
    pieces = {
        (f"/set/{path.name}", start)
        for path in (tmp_path / "set").iterdir()
        for start in range(0, path.stat().st_size, 4096)
    }
    assert set(asked) == pieces
    assert len(asked) == len(pieces) + 1  # the first piece also tells the layout


def test_what_breaks_is_tried_again_and_named_in_the_end(
    tmp_path: Path, upload: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(folder(tmp_path / "set"))
    files = plan("memory://set")
    attempts = 0

    def broken(self: Any, path: str, **rest: Any) -> bytes:
        nonlocal attempts
        attempts += 1
        if attempts % 3:
            raise ConnectionResetError("the line broke")
        return b"x" * files.sources[0].size

    monkeypatch.setattr(MemoryFileSystem, "cat_file", broken)
    assert SourceReader().read(files.sources[0]) == b"x" * files.sources[0].size
    assert attempts == 3
    monkeypatch.setattr(remote, "RETRY_SECONDS", (0.0,))
    attempts = 0
    # Not a rejected image: an unreachable server must not thin out the data.
    with pytest.raises(
        OSError, match=r"memory://set/a/z\.jpg: the line broke \(2 attempts\); what is finished is kept"
    ):
        convert("memory://set", tmp_path / "x.beton", config=ConvertConfig())


def test_a_server_that_does_not_answer_is_no_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def info(*_: Any, **__: Any) -> dict:
        raise FileNotFoundError("memory://x") from ConnectionRefusedError("nobody listens")

    monkeypatch.setattr(remote, "RETRY_SECONDS", (0.0,))
    monkeypatch.setattr(MemoryFileSystem, "info", info)
    with pytest.raises(OSError, match=r"memory://x: nobody listens \(2 attempts\)") as error:
        remote.describe(["memory://x"])
    assert not isinstance(error.value, FileNotFoundError)


def test_a_missing_or_shrunken_file(tmp_path: Path, upload: Callable[[Path], None]) -> None:
    upload(webdataset_archives(tmp_path / "set"))
    with pytest.raises(FileNotFoundError, match=r"set-2\.tar: no such file"):
        convert("memory://set/set-{0..2}.tar", tmp_path / "x.beton", config=ConvertConfig(shard_size=1))
    described = remote.describe(["memory://set/set-0.tar"])[0]
    with open(tmp_path / "copy", "wb") as file, pytest.raises(ValueError, match="became shorter while it was read"):
        remote.fetch(described._replace(size=described.size + 1), file)


def test_a_server_that_does_not_read_ranges(upload: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: bytes(100))
    # Of the whole source: a ValueError would be one image's, which is rejected.
    with pytest.raises(OSError, match="does not read ranges; copy it to a disk first"):
        remote.read_range("memory://x", 10, 20)


@pytest.mark.parametrize("shard_size", [None, 400])
def test_an_expired_token_thins_out_nothing(
    tmp_path: Path, upload: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, shard_size: int | None
) -> None:
    upload(folder(tmp_path / "set"))
    cat_file, asked = MemoryFileSystem.cat_file, []

    def expiring(self: Any, path: str, **rest: Any) -> bytes:
        asked.append(path)
        if len(asked) > 3:
            raise PermissionError("The provided token has expired.")
        return cat_file(self, path, **rest)

    config = ConvertConfig(shard_size=shard_size)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "cat_file", expiring)
        with pytest.raises(OSError, match=r"memory://set/.*token has expired\.; what is finished is kept") as error:
            convert("memory://set", tmp_path / "x.beton", config=config)
    assert type(error.value) is OSError
    assert len(asked) == 4  # it is an answer: nobody asks again
    assert convert("memory://set", tmp_path / "x.beton", config=config).images == len(TREE)


def test_a_node_without_the_package_ends_the_run(
    tmp_path: Path, upload: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(folder(tmp_path / "set"))
    made_by = sharded.convert_shard

    def missing(url: str) -> Any:
        raise ValueError(f"{url}: reading memory:// needs a package")

    def on_node(task: ShardTask) -> ShardMade:
        monkeypatch.setattr(remote, "_filesystem", missing)
        return made_by(task)

    monkeypatch.setattr(sharded, "convert_shard", on_node)
    with pytest.raises(ValueError, match="memory://set: reading memory:// needs a package"):
        convert("memory://set", tmp_path / "x.beton", config=ConvertConfig(shard_size=400))


@pytest.mark.parametrize("shard_size", [None, 400])
def test_a_tar_that_goes_during_the_run_ends_it(
    tmp_path: Path, upload: Callable[[Path], None], shard_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_module, "CHUNK_IMAGES", 1)
    upload(folder(tmp_path, {f"set/{name}.tar": tar_bytes(TREE) for name in "abc"}) / "set")

    def remove(done: int) -> None:
        if done and "/set/c.tar" in MemoryFileSystem.store:
            MemoryFileSystem().rm("/set/c.tar")

    config = ConvertConfig(shard_size=shard_size)
    with pytest.raises(OSError, match=r"^memory://set/c\.tar: ") as error:
        convert("memory://set", tmp_path / "x.beton", config=config, on_progress=remove)
    assert type(error.value) is OSError


def test_a_listing_outlives_a_broken_connection(
    tmp_path: Path, upload: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes(TREE))
    upload(tmp_path / "x.tar")
    monkeypatch.setattr(remote, "FETCH_BYTES", 4096)
    cat_file, asked = MemoryFileSystem.cat_file, []

    def stumbling(self: Any, path: str, **rest: Any) -> bytes:
        asked.append(path)
        if len(asked) % 2:
            raise ConnectionResetError("the line broke")
        return cat_file(self, path, **rest)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", stumbling)
    assert_is_tree(plan("memory://x.tar"))
    assert len(asked) > 2


class Answer(Exception):
    """What an HTTP library raises of an answer."""

    def __init__(self, status: int):
        super().__init__(f"HTTP {status}")
        self.status = status


@pytest.mark.parametrize(
    ("status", "error", "attempts"), [(404, FileNotFoundError, 1), (410, FileNotFoundError, 1), (503, OSError, 3)]
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_what_the_web_says_is_not_there_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch, status: int, error: type, attempts: int, is_wrapped: bool
) -> None:
    asked = 0

    def info(*_: Any, **__: Any) -> dict:
        nonlocal asked
        asked += 1
        if is_wrapped:  # as fsspec does
            raise FileNotFoundError("memory://x") from Answer(status)
        raise Answer(status)

    monkeypatch.setattr(remote, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(MemoryFileSystem, "info", info)
    with pytest.raises(error) as raised:
        remote.describe(["memory://x"])
    assert type(raised.value) is error
    assert asked == attempts


@pytest.mark.parametrize(
    ("name", "is_tar", "is_pattern"),
    [
        ("https://h/x.tar?sig=a.zip", True, False),
        ("HTTP://h/x.TAR?sig=a", True, False),
        ("https://h/x-*.tar", True, True),
        ("https://h/x?name=y.tar", False, False),
        ("s3://b/x-?.tar", True, True),
        ("/odd?name.tar", True, True),
    ],
)
def test_presigned_urls(name: str, is_tar: bool, is_pattern: bool) -> None:
    assert has_suffix(name, ".tar") == is_tar
    assert remote.is_pattern(name) == is_pattern


@pytest.mark.parametrize(
    ("url", "path", "name", "expected"),
    [
        ("ftp://host/dir/*.tar", "/dir/*.tar", "/dir/a.tar", "ftp://host/dir/a.tar"),
        ("sftp://me@host:22/dir/", "/dir", "/dir/a/1.jpg", "sftp://me@host:22/dir/a/1.jpg"),
        ("hdfs://host/dir", "/dir", "/dir/a", "hdfs://host/dir/a"),
        ("s3://bucket/x", "bucket/x", "bucket/x/y", "s3://bucket/x/y"),
        ("https://h/x/", "https://h/x/", "https://h/x/y", "https://h/x/y"),
        ("memory://", "", "/x", "memory:///x"),
    ],
)
def test_names_keep_the_host(url: str, path: str, name: str, expected: str) -> None:
    assert remote._beside(url, MemoryFileSystem(), path, name) == expected


def test_a_full_folder_for_copies_is_named(
    tmp_path: Path, upload: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(webdataset_archives(tmp_path / "set"))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote, "fetch", full)
    with pytest.raises(OSError, match=rf"^{tempfile.gettempdir()}: No space left .*set-0\.tar.* by TMPDIR"):
        convert("memory://set", tmp_path / "x.beton", config=ConvertConfig(shard_size=1))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/x.tar", r"s3://bucket/x\.tar: reading s3:// needs s3fs: pip install s3fs"),
        ("nope://x/y.tar", r"nope://x/y\.tar: Protocol not known: nope"),
        ("memory://gone", "memory://gone: no such file or folder"),
        ("memory://gone/*.tar", r"memory://gone/\*\.tar: no file fits"),
    ],
)
@pytest.mark.parametrize("shard_size", [None, 100])
def test_urls_that_are_refused(
    tmp_path: Path, upload, monkeypatch: pytest.MonkeyPatch, url: str, message: str, shard_size: int | None
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    remote._filesystem.cache_clear()
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        convert(url, tmp_path / "x.beton", config=ConvertConfig(shard_size=shard_size))
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_beton_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a beton is mapped into memory, so it must be a file"):
        convert(tmp_path, "s3://bucket/x.beton", config=ConvertConfig())
