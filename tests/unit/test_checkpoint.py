"""Checkpoints are whole or absent, and are read without running code."""

from __future__ import annotations

import os
import resource
import signal
import zipfile

import pytest
import torch

from relic import checkpoint


def test_what_is_saved_is_read(tmp_path):
    path = checkpoint.save(tmp_path, 7, {"model": {"w": torch.arange(3.0)}, "meter": {"count": 2}})
    read = checkpoint.read(path)
    assert read["step"] == 7
    assert torch.equal(read["model"]["w"], torch.arange(3.0))
    assert path == checkpoint.newest(tmp_path)


def test_a_crash_while_writing_leaves_the_old_file_and_no_new_one(tmp_path, monkeypatch):
    old = checkpoint.save(tmp_path, 1, {"model": {}})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk gone")))
    with pytest.raises(OSError, match="disk gone"):
        checkpoint.save(tmp_path, 2, {"model": {}})
    assert checkpoint.newest(tmp_path) == old


class Evil:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"model": Evil(tmp_path / "owned")})
    with pytest.raises(ValueError, match=r"step-000001\.pt is not a checkpoint of this project"):
        checkpoint.read(path)
    assert not (tmp_path / "owned").exists()


def test_another_format_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"format": 99})
    with pytest.raises(ValueError, match=f"is not a checkpoint of format {checkpoint.FORMAT}"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "left"), [(1, None, [9]), (3, None, [7, 8, 9]), (1, 4, [4, 8, 9]), (0, None, [9])]
)
def test_pruning(tmp_path, keep_last, keep_every, left):
    for step in range(1, 10):
        checkpoint.save(tmp_path, step, {})
    checkpoint.prune(tmp_path, keep_last=keep_last, keep_every=keep_every)
    assert checkpoint.all_steps(tmp_path) == left


def test_a_flip_of_any_byte_is_seen(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"model": {"w": torch.arange(40.0)}})
    good = path.read_bytes()
    for place in range(len(good)):
        content = bytearray(good)
        content[place] ^= 1 << place % 8
        with pytest.raises(checkpoint.DamagedError):
            checkpoint.load(bytes(content), name="flipped")


def test_torch_and_unzip_read_the_file_as_it_is(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"model": {"w": torch.arange(40.0)}})
    assert torch.equal(torch.load(path, weights_only=True)["model"]["w"], torch.arange(40.0))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_damaged_newest_is_put_aside_for_the_one_before(tmp_path, share):
    checkpoint.save(tmp_path, 1, {"model": {"w": torch.ones(50)}})
    newest = checkpoint.save(tmp_path, 2, {"model": {}})
    newest.write_bytes(newest.read_bytes()[: int(share * newest.stat().st_size)])
    said = []
    content = checkpoint.newest_intact(tmp_path, on_damage=said.append)
    assert content is not None
    assert checkpoint.load(content, name="")["step"] == 1
    assert len(said) == 1
    assert "step-000002.pt is damaged" in said[0]
    assert checkpoint.all_steps(tmp_path) == [1]
    assert (tmp_path / "checkpoints" / "step-000002.pt.damaged").exists()


def test_no_whole_checkpoint_is_an_error_and_none_at_all_a_new_run(tmp_path):
    assert checkpoint.newest_intact(tmp_path, on_damage=print) is None
    checkpoint.save(tmp_path, 1, {"model": {}}).write_bytes(b"PK")
    with pytest.raises(checkpoint.DamagedError, match=r"no checkpoint in .* is whole"):
        checkpoint.newest_intact(tmp_path, on_damage=lambda text: None)


def test_a_full_disk_is_an_error_that_keeps_the_last_good_file(tmp_path):
    old = checkpoint.save(tmp_path, 1, {"model": {}})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # what a full disk does, to this process
    try:
        with pytest.raises(OSError, match=r"step-000002.pt was not written \(File too large\); step-000001.pt is kept"):
            checkpoint.save(tmp_path, 2, {"model": {"w": torch.zeros(1_000_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in old.parent.iterdir()] == [old.name]
    assert checkpoint.read(old)["step"] == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(OSError, match="was not written"):
        checkpoint.save(tmp_path, 1, {"model": {}})


def test_the_saver_writes_what_was_when_it_was_asked(tmp_path):
    weight = torch.zeros(1000)
    saver = checkpoint.Saver(tmp_path, keep_last=2, keep_every=None)
    for step in range(1, 5):
        saver.save(step, {"model": {"w": weight}})
        weight += 1  # training goes on at once
    saver.wait()
    saver.close()
    assert checkpoint.all_steps(tmp_path) == [3, 4]
    assert checkpoint.read(checkpoint.path_of(tmp_path, 3))["model"]["w"].unique().tolist() == [2.0]


def test_the_saver_raises_what_its_thread_met(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    saver = checkpoint.Saver(tmp_path, keep_last=2, keep_every=None)
    saver.save(1, {"model": {}})
    with pytest.raises(OSError, match="was not written"):
        saver.save(2, {"model": {}})
    saver.close()


def test_a_whole_checkpoint_without_a_checksum_is_of_another_format_and_stays(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    path = checkpoint.path_of(tmp_path, 3)
    torch.save({"format": 1, "step": 3}, path)
    with pytest.raises(ValueError, match="not a checkpoint of format 2"):
        checkpoint.newest_intact(tmp_path, on_damage=pytest.fail)
    assert path.exists()


def test_copies_of_the_users_are_no_checkpoints_of_the_run(tmp_path):
    path = checkpoint.save(tmp_path, 10, {})
    path.with_name("step-000010-best.pt").write_bytes(path.read_bytes())
    assert checkpoint.all_steps(tmp_path) == [10]


def test_what_killed_writes_left_goes_with_the_next_pruning(tmp_path):
    path = checkpoint.save(tmp_path, 10, {})
    left = path.with_name(".step-000009.pt.tmp")
    left.write_bytes(b"half")
    checkpoint.prune(tmp_path, keep_last=1, keep_every=None)
    assert not left.exists()
    assert path.exists()
