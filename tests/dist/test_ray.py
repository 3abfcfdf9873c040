"""Shards made on a Ray cluster of several nodes, one of which is lost on the way.

The nodes are those of `ray.cluster_utils.Cluster`: each a raylet with workers of its own on this machine. The head has
no CPU, so that all work is done by nodes that can be taken away.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.prepare import sharded
from pipelines.prepare.convert import ConvertConfig, Summary, convert
from pipelines.prepare.engines import RAY_TASKS_PER_CPU, Engine, run
from pipelines.prepare.shard import ShardMade, ShardTask, convert_shard

pytestmark = pytest.mark.extra("ray")
SHARD = 4000
STUCK = 3
"""Number of the shard whose first attempt does not end."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 << 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # nodes must find the functions of this file
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
        for _ in range(2):
            nodes.add_node(num_cpus=1, **memory)
        yield nodes
        nodes.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray") / "source"
    rng = np.random.default_rng(0)
    for index in range(30):
        path = folder / f"class{index % 3}" / f"{index:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 10 + index, 3), np.uint8)).save(path)
    (folder / "class1" / "bad.jpg").write_bytes(b"")
    return folder


def made(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.parent.iterdir()}


def beside(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name / "x.beton"


def convert_and_note(task: ShardTask) -> ShardMade:
    """Convert a shard; the first attempt at shard `STUCK` says on which node it is, and does not end."""
    import ray

    notes = task.out.parent.parent / "notes"
    with open(notes / f"{task.number}.runs", "a") as file:
        file.write("run\n")
    if task.number == STUCK and not (notes / "stuck").exists():
        (notes / "stuck.partial").write_text(ray.get_runtime_context().get_node_id())
        (notes / "stuck.partial").rename(notes / "stuck")
        time.sleep(600)
    return convert_shard(task)


def process_of(task: int) -> tuple[str, int]:
    import ray

    time.sleep(0.2)
    return ray.get_runtime_context().get_node_id(), os.getpid()


def fall_over_at_three(task: int) -> int:
    if task == 3:
        raise ValueError("task 3: is wrong")
    return task


class LockedError(Exception):
    """Does not pickle."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.lock = threading.Lock()


def fail_with_a_lock(task: int) -> None:
    raise LockedError("the real reason")


def on_ray(cluster: Any, **options: Any) -> Engine:
    return Engine(kind="ray", address=cluster.address, **options)


def test_both_nodes_work_and_tasks_wait_for_room(cluster: Any) -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for task in range(12):
            taken += 1
            yield task

    nodes = set()
    for done, (_, (node, pid)) in enumerate(run(process_of, tasks(), engine=on_ray(cluster)), 1):
        assert taken < done + RAY_TASKS_PER_CPU * 2
        assert pid != os.getpid()
        nodes.add(node)
    assert (taken, len(nodes)) == (12, 2)


def test_an_exception_ends_the_run_as_it_was_raised(cluster: Any) -> None:
    with pytest.raises(ValueError, match=r"^task 3: is wrong$") as error:
        list(run(fall_over_at_three, range(100), engine=on_ray(cluster, workers=2)))
    assert type(error.value) is ValueError
    assert "fall_over_at_three" in str(error.value.__cause__)


def test_an_exception_that_does_not_travel_says_its_reason(cluster: Any) -> None:
    with pytest.raises(OSError, match=r"^the real reason$"):
        list(run(fail_with_a_lock, [1], engine=on_ray(cluster)))


def test_a_node_without_the_code_says_so(cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("def double(task):\n    return 2 * task\n")
    monkeypatch.syspath_prepend(tmp_path)
    double = importlib.import_module("only_here").double
    with pytest.raises(OSError, match="No module named 'only_here'; install the same relicv2 there as here"):
        list(run(double, [1], engine=on_ray(cluster)))


def test_the_bytes_of_the_local_engine(cluster: Any, source: Path, tmp_path: Path) -> None:
    here, there = beside(tmp_path, "here"), beside(tmp_path, "there")
    convert(source, here, config=ConvertConfig(shard_size=SHARD))
    steps: list[int] = []
    config = ConvertConfig(shard_size=SHARD, engine="ray", address=cluster.address, workers=None)
    summary = convert(source, there, config=config, on_progress=steps.append)
    assert made(there) == made(here)
    assert (summary.images, sum(steps)) == (30, 31)


def test_a_node_that_is_lost_costs_the_shard_it_was_at(
    cluster: Any,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here, there = beside(tmp_path, "here"), beside(tmp_path, "there")
    convert(source, here, config=ConvertConfig(shard_size=SHARD))
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setattr(sharded, "convert_shard", convert_and_note)
    finished_before: list[int] = []

    def take_the_node_away(_: int) -> None:
        """Once all others are done, and the stuck one is at work."""
        if finished_before or len(list(notes.glob("*.runs"))) < shards or not (notes / "stuck").exists():
            return
        done = [number for number in range(shards) if list(there.parent.glob(f"x-{number:05d}.beton.*.partial"))]
        if len(done) < shards - 1:
            return
        finished_before.extend(done)
        (node,) = [n for n in cluster.worker_nodes if n.node_id == (notes / "stuck").read_text()]
        cluster.remove_node(node, allow_graceful=False)

    shards = len(list(here.parent.glob("x-*.beton")))
    config = ConvertConfig(shard_size=SHARD, engine="ray", address=cluster.address, workers=None)
    summary: Summary = convert(source, there, config=config, on_progress=take_the_node_away)
    assert len(finished_before) == shards - 1 >= 5
    assert made(there) == made(here)
    assert summary.images == 30
    runs = {int(path.stem): len(path.read_text().splitlines()) for path in notes.glob("*.runs")}
    assert runs == {number: 2 if number == STUCK else 1 for number in range(shards)}
    said = capsys.readouterr()
    assert said.out == ""  # it is for the answer of a command, such as JSON
    assert "will be retried" in said.err


def test_no_cluster_answers() -> None:
    with pytest.raises(ConnectionError, match=r"--address 127\.0\.0\.1:9: no Ray cluster answers .*ray start --head"):
        list(run(fall_over_at_three, [1], engine=Engine(kind="ray", address="127.0.0.1:9")))


def test_the_command(cluster: Any, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from relic.cli import main

    out = str(tmp_path / "x.beton")
    arguments = ["data", "convert", str(source), out, "--shard-size", "4000", "--engine", "ray"]
    assert main([*arguments, "--address", cluster.address]) == 0
    captured = capsys.readouterr()
    assert "30 images (30 JPEG, 0 as pixels) in " in captured.out
    assert "convert: 31/31 files" in captured.err
    assert main([*arguments, "--address", "127.0.0.1", "--overwrite"]) == 1
    assert "it is no HOST:PORT" in capsys.readouterr().err
