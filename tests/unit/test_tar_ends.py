"""A tar that is cut or damaged is refused, not read up to there; so are members whose bytes lie elsewhere."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path

import pytest
from making import encoded
from test_sources import tar_bytes

from pipelines.prepare import listing
from pipelines.prepare.convert import ConvertConfig, convert
from pipelines.prepare.reading import SourceReader
from pipelines.prepare.sources import plan

FILES = {
    f"{number}.{end}": data for number in range(4) for end, data in (("jpg", encoded(9, 9, number)), ("cls", b"1"))
}
WHOLE = tar_bytes(FILES)
with tarfile.open(fileobj=io.BytesIO(WHOLE)) as _tar:
    MIDDLE = _tar.getmembers()[4].offset
DAMAGED = {
    "a flipped bit in a header": WHOLE[:MIDDLE] + bytes([WHOLE[MIDDLE] ^ 1]) + WHOLE[MIDDLE + 1 :],
    "cut between members": WHOLE[:MIDDLE],
    "cut in a header": WHOLE[: MIDDLE + 200],
    "a hole with more behind it": WHOLE[:MIDDLE] + bytes(1024) + WHOLE[MIDDLE + 1024 :],
    "two tars in one file": WHOLE + WHOLE,
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("shard_size", [None, 1 << 20])
def test_a_tar_that_ends_in_the_middle_is_refused(tmp_path: Path, name: str, shard_size: int | None) -> None:
    (tmp_path / "x.tar").write_bytes(DAMAGED[name])
    with pytest.raises(ValueError, match=r"x\.tar: not a readable, uncompressed tar \(.* at byte [\d,]+"):
        convert(tmp_path / "x.tar", tmp_path / "x.beton", config=ConvertConfig(shard_size=shard_size))


@pytest.mark.parametrize("name", DAMAGED)
def test_so_is_one_within_another(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"a.tar": WHOLE, "b.tar": DAMAGED[name], "c.tar": WHOLE}))
    # Cut at the end of a member it looks like one without its closing zeros, as there are.
    if name != "cut between members":
        with pytest.raises(ValueError, match=r"x\.tar: not a readable, uncompressed tar"):
            plan(tmp_path / "x.tar")


@pytest.mark.parametrize("more", [0, 512, 10240, (1 << 20) - 10240])
def test_a_tar_may_end_in_zeros(tmp_path: Path, more: int) -> None:
    (tmp_path / "x.tar").write_bytes(WHOLE.rstrip(b"\0") + bytes(-len(WHOLE.rstrip(b"\0")) % 512 + 1024 + more))
    assert len(plan(tmp_path / "x.tar").sources) == 4


def test_but_not_in_a_download_that_did_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MOST_ZEROS", 1 << 12)
    (tmp_path / "x.tar").write_bytes(WHOLE[:MIDDLE] + bytes(len(WHOLE) - MIDDLE))
    with pytest.raises(ValueError, match=r"bytes lie behind the end at byte .*, as of an unfinished download"):
        plan(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo("a/0.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"jpg"))
        link = tarfile.TarInfo("b/0.jpg")
        link.type, link.linkname = kind, "a/0.jpg"
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"x\.tar: b/0\.jpg is a link, .*--dereference --hard-dereference"):
        plan(tmp_path / "x.tar")


def test_a_tar_that_may_not_be_read_is_no_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.tar").write_bytes(WHOLE)
    source = plan(tmp_path / "x.tar").sources[0]

    def forbidden(path: str, *_: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(OSError, match=r"^/.*x\.tar: Permission denied$") as error:
        SourceReader().read(source)
    assert type(error.value) is OSError


@pytest.mark.parametrize(("shard_size", "workers"), [(None, 1), (None, 2), (100, 1)])
def test_a_tar_that_goes_during_the_run_ends_it(
    tmp_path: Path, shard_size: int | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.prepare.convert.CHUNKS_WORTH_A_WORKER", 1)
    monkeypatch.setattr("pipelines.prepare.convert.CHUNK_IMAGES", 1)
    for name in "abc":
        (tmp_path / f"{name}.tar").write_bytes(tar_bytes({f"{name}/{n}.jpg": encoded(9, 9, n) for n in range(4)}))

    def remove(done: int) -> None:
        if done:
            (tmp_path / "c.tar").unlink(missing_ok=True)

    config = ConvertConfig(shard_size=shard_size, workers=workers)
    with pytest.raises(OSError, match=r"^/.*c\.tar: (No such file|not there)"):
        convert(tmp_path / "[abc].tar", tmp_path / "x.beton", config=config, on_progress=remove)
    assert not (tmp_path / "x.beton").exists()
    assert not (tmp_path / "x.rejected.jsonl").exists()
