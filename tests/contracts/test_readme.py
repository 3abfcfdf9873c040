"""README is true: every command in it runs, every error it shows is printed, every file it links exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines import beton as format_of
from pipelines.datasets.synthetic import write_dataset
from pipelines.prepare.convert import ConvertConfig, convert

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
IMAGENET_IMAGES = 1_281_167


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if not line.startswith(("make", "pip"))]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the files that README's reader has: photos, a held-out set, and a beton of ImageNet's size."""
    folder = tmp_path_factory.mktemp("readme")
    for split in ("train", "test"):
        write_dataset(folder / "made", split=split, num_images=80, seed=0)
    (folder / "made" / "train").rename(folder / "photos")
    convert(folder / "made" / "test", folder / "holdout.beton", config=ConvertConfig(workers=1))
    write_hollow_beton(folder / "imagenet.beton", IMAGENET_IMAGES)
    return folder


def write_hollow_beton(path: Path, num_images: int) -> None:
    """Write a beton whose tables list `num_images` images, all of them the same few bytes."""
    fields = np.zeros(2, format_of.FIELD)
    fields["type_id"], fields["name"] = [format_of.IMAGE_ID, format_of.INT_ID], [b"image", b"label"]
    rows = np.zeros(num_images, format_of.sample_dtype(list(fields["type_id"])))
    payload = format_of.HEADER.itemsize + fields.nbytes + rows.nbytes
    rows["f0"] = np.array((format_of.JPEG, 500, 375, payload), format_of.IMAGE)
    rows["f1"] = np.arange(num_images) % 1000
    header = np.array(
        [(format_of.FORMAT_VERSION, 2, format_of.MIN_PAGE_SIZE, num_images, payload + 8)], format_of.HEADER
    )
    allocations = np.zeros(num_images, format_of.ALLOCATION)
    allocations["sample"], allocations["pointer"], allocations["size"] = np.arange(num_images), payload, 8
    path.write_bytes(header.tobytes() + fields.tobytes() + rows.tobytes() + bytes(8) + allocations.tobytes())


def start(command: str, folder: Path) -> subprocess.Popen[str]:
    words = shlex.split(command)
    words = words[2:] if words[:2] == ["python", "-m"] else words
    if words[0] == "torchrun":  # the machine that is node0, and its eight GPUs
        words[0] = "torch.distributed.run"
        words = [{"node0": "127.0.0.1", "8": "1"}.get(word, word) for word in words]
    assert words[0] in ("relic", "benchmarks", "torch.distributed.run")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    with start(command, folder) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def test_every_command_runs_in_order(workplace):
    assert len(commands()) >= 9
    on_other_nodes = []
    for command in commands():
        if "--node-rank 0" in command:  # it waits for the other one
            on_other_nodes.append(start(command, workplace))
            continue
        done = run(command, workplace)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        for process in on_other_nodes:
            with process:
                stdout, stderr = process.communicate()
            assert process.returncode == 0, f"{command}\n{stdout}\n{stderr}"
        on_other_nodes = []
    assert (workplace / "runs" / "nodes" / "checkpoints" / "step-000004.pt").exists()
    assert (workplace / "runs" / "demo" / "report.html").stat().st_size > 10_000
    assert (workplace / "views.png").stat().st_size > 10_000
    assert (workplace / "speed.png").stat().st_size > 10_000


def test_every_error_it_shows_is_printed(workplace):
    shown = [block.splitlines() for block in blocks("console")]
    lines = [line for block in shown for line in block]
    assert lines
    for command, expected in zip(lines[::2], lines[1::2], strict=True):
        done = run(command.removeprefix("$ "), workplace)
        assert done.returncode != 0
        assert done.stderr.strip() == expected


def test_the_dry_run_it_shows_is_the_one_printed(workplace):
    command = next(command for command in commands() if "--dry-run" in command)
    assert run(command, workplace).stdout.strip() == blocks("text")[0].strip()


def test_python_runs(workplace):
    for code in blocks("python"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=workplace, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_it_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([\w-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_make_bench_gpu_writes_the_records_of_both_paths(workplace):
    """What it would run on a machine with a GPU, run on this one."""
    record = workplace / "gpu.json"
    variables = [f"IMAGES={workplace / 'photos'}", f"RECORD={record}", "THREADS=1"]
    planned = subprocess.run(
        ["make", "-n", "-s", "bench-gpu", *variables], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    command = next(line for line in planned.splitlines() if "benchmarks views" in line)
    words = [*shlex.split(command)[1:], "--limit", "3", "--repeats", "1"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"decode", "fused-device"} <= {entry["provider"] for entry in json.loads(record.read_text())}


def test_make_bench_gpu_wants_images():
    done = subprocess.run(["make", "-n", "bench-gpu"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "give IMAGES=FOLDER with JPEG files" in done.stderr
