"""kill -9 of a whole conversion, parent and workers at once, and the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.prepare.convert import ConvertConfig, convert

# Kills its own process group once two chunks are done: always the same moment, whatever the machine's speed.
KILLED = """
import os, signal, sys
from pipelines.prepare import convert as module

module.CHUNK_IMAGES, module.CHUNKS_WORTH_A_WORKER = 4, 1
done = 0

def count(n):
    global done
    done += n
    if done >= int(sys.argv[3]):
        os.killpg(0, signal.SIGKILL)

config = module.ConvertConfig(workers=2)
summary = module.convert(sys.argv[1], sys.argv[2], config=config, on_progress=count)
print(summary.resumed_files)
"""


def run(source: Path, out: Path, kill_after: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED, str(source), str(out), str(kill_after)]
    return subprocess.run(command, capture_output=True, text=True, start_new_session=True, timeout=120)


def test_a_killed_conversion_continues_to_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(30):
        path = tmp_path / "source" / f"class{index % 3}" / f"{index:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 10 + index, 3), np.uint8)).save(path)
    whole, out = tmp_path / "whole.beton", tmp_path / "x.beton"
    convert(tmp_path / "source", whole, config=ConvertConfig())

    assert run(tmp_path / "source", out, 8).returncode == -signal.SIGKILL
    assert not out.exists()
    assert out.with_name("x.beton.partial").exists()
    last = run(tmp_path / "source", out, 1000)
    assert last.returncode == 0, last.stderr
    assert int(last.stdout) >= 8
    assert out.read_bytes() == whole.read_bytes()
    made = [f"{name}.beton{end}" for name in ("whole", "x") for end in ("", ".classes.txt")]
    assert sorted(os.listdir(tmp_path)) == sorted(["source", *made])
