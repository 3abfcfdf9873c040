"""Checkpoints are whole or absent, and are read without running code."""

from __future__ import annotations

import os

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


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "checkpoints" / "step-000001.pt"
    path.parent.mkdir()
    torch.save({"format": checkpoint.FORMAT, "step": 1, "model": Evil()}, path)
    with pytest.raises(ValueError, match=r"step-000001\.pt is damaged"):
        checkpoint.read(path)
    assert not (tmp_path / "owned").exists()


def test_another_format_is_refused(tmp_path):
    torch.save({"format": 99}, tmp_path / "step-000001.pt")
    with pytest.raises(ValueError, match="is not a checkpoint of format 1"):
        checkpoint.read(tmp_path / "step-000001.pt")


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "left"), [(1, None, [9]), (3, None, [7, 8, 9]), (1, 4, [4, 8, 9]), (0, None, [9])]
)
def test_pruning(tmp_path, keep_last, keep_every, left):
    for step in range(1, 10):
        checkpoint.save(tmp_path, step, {})
    checkpoint.prune(tmp_path, keep_last=keep_last, keep_every=keep_every)
    assert checkpoint.all_steps(tmp_path) == left
