"""kill -9 of a whole `relic masks infer`, parent and workers at once, and the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sharded import in_shards

from pipelines.prepare.writer import write_beton
from relic.cli import main

# Kills its own process group once so many images are done: always the same moment, whatever the machine's speed.
KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.prepare.engines import Engine
from relic.masks import stores
from saliency import store
from saliency.infer import Maker

stores.IMAGES_PER_TASK, store.COMMIT_SECONDS = 3, 0
done = 0

def count(n):
    global done
    done += n
    if done >= int(sys.argv[3]):
        os.killpg(0, signal.SIGKILL)

summary = stores.make_stores(
    Path(sys.argv[1]), Path(sys.argv[2]), Maker(priors=("mbd",)), engine=Engine(workers=2),
    on_start=lambda total: None, on_progress=count, on_note=lambda note: sys.exit(note),
)
print(summary.resumed)
"""


def run(source: Path, out: Path, kill_after: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED, str(source), str(out), str(kill_after)]
    return subprocess.run(command, capture_output=True, text=True, start_new_session=True, timeout=120)


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("sizes", [None, (10, 0, 4, 16)])
def test_killed_masks_continue_to_the_same_bytes(tmp_path: Path, sizes: tuple[int, ...] | None) -> None:
    rng = np.random.default_rng(0)
    source = tmp_path / "x.beton"
    write_beton(source, [rng.integers(0, 256, (20, 10 + index, 3), np.uint8) for index in range(30)], [0] * 30)
    if sizes is not None:
        source = in_shards(source, tmp_path / "shards", sizes)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    arguments = ["masks", "infer", str(source), "--out", str(whole / "x.masks"), "--priors", "mbd", "--workers", "1"]
    assert main(arguments) == 0

    out = killed / "x.masks"
    assert run(source, out, 13).returncode == -signal.SIGKILL
    assert not out.exists()
    last = run(source, out, 1000)
    assert last.returncode == 0, last.stderr
    assert 9 <= int(last.stdout) < 30
    assert made(killed) == made(whole)
    assert len(os.listdir(killed)) == (1 if sizes is None else 1 + len(sizes))
