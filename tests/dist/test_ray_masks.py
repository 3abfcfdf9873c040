"""Masks made on a Ray cluster of several nodes, one of which is lost on the way (see `test_ray` for the cluster)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharded import in_shards

from pipelines.prepare.engines import Engine
from pipelines.prepare.writer import write_beton
from relic.masks import stores
from relic.masks.tally import Summary
from relic.masks.task import Made, Task, make_masks
from saliency.infer import Maker

pytestmark = pytest.mark.extra("ray")
STUCK = 12
"""First image of the task whose first attempt does not end."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 << 20}
    with pytest.MonkeyPatch.context() as patch:
        here = Path(__file__).parent  # nodes must find the functions of this file, and what it imports
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (here, here.parent))))
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
        for _ in range(2):
            nodes.add_node(num_cpus=1, **memory)
        yield nodes
        nodes.shutdown()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return 30 small images in three shards, of which a task takes four."""
    monkeypatch.setattr(stores, "IMAGES_PER_TASK", 4)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 10 + index, 3), np.uint8) for index in range(30)]
    write_beton(tmp_path / "x.beton", images, [0] * 30)
    return in_shards(tmp_path / "x.beton", tmp_path / "shards", (20, 1, 9))


def infer(source: Path, folder: Path, engine: Engine, on_progress: Any = lambda _: None) -> tuple[Summary, Any]:
    """Make the masks and pictures of all images; return what was said of them, and all files that appeared."""
    folder.mkdir()
    silent = {"on_start": lambda _: None, "on_note": pytest.fail}
    maker, out = Maker(priors=("mbd",)), folder / "x.masks"
    summary = stores.make_stores(
        source, out, maker, engine=engine, pngs=folder / "maps", on_progress=on_progress, **silent
    )
    return summary, {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def on_ray(cluster: Any) -> Engine:
    return Engine(kind="ray", address=cluster.address)


def make_and_note(task: Task) -> Made:
    """Make masks; the first attempt at the task `STUCK` of the first shard says on which node it is, and stays."""
    import ray

    assert task.pngs is not None
    notes = task.beton.parent.parent / "notes"
    with open(notes / f"{task.first + task.start}.runs", "a") as file:
        file.write("run\n")
    if (task.part, task.start) == (0, STUCK) and not (notes / "stuck").exists():
        (notes / "stuck.partial").write_text(ray.get_runtime_context().get_node_id())
        (notes / "stuck.partial").rename(notes / "stuck")
        time.sleep(600)
    return make_masks(task)


def test_the_bytes_of_the_local_engine(cluster: Any, source: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    _, here = infer(source, tmp_path / "here", Engine(workers=1))
    summary, there = infer(source, tmp_path / "there", on_ray(cluster), steps.append)
    assert there == here
    assert len(here) == 4 + 30
    assert (summary.images, sum(steps), summary.resumed) == (30, 30, 0)


def test_a_node_that_is_lost_costs_the_task_it_was_at(
    cluster: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, here = infer(source, tmp_path / "here", Engine(workers=1))
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setattr(stores, "make_masks", make_and_note)
    done: list[int] = []

    def take_the_node_away(images: int) -> None:
        """Once all others are done, and the stuck one is at work."""
        done.append(images)
        if sum(done) == 26:
            (node,) = [n for n in cluster.worker_nodes if n.node_id == (notes / "stuck").read_text()]
            cluster.remove_node(node, allow_graceful=False)

    summary, there = infer(source, tmp_path / "there", on_ray(cluster), take_the_node_away)
    assert there == here
    assert (summary.images, sum(done)) == (30, 30)
    runs = {int(path.stem): len(path.read_text().splitlines()) for path in notes.glob("*.runs")}
    starts = [0, 4, 8, 12, 16, 20, 21, 25, 29]
    assert runs == {start: 2 if start == STUCK else 1 for start in starts}


def test_the_command(cluster: Any, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from relic.cli import main

    arguments = ["masks", "infer", str(source), "--priors", "mbd", "--engine", "ray", "--address"]
    assert main([*arguments, cluster.address]) == 0
    captured = capsys.readouterr()
    assert "of 30 images, by priors mbd at 300" in captured.out
    assert "masks: 30/30 images" in captured.err
    assert sorted(name for name in os.listdir(source.parent) if "masks" in name) == [
        *(f"x-0000{number}.masks" for number in range(3)),
        "x.masks",
    ]
    assert main([*arguments, "127.0.0.1", "--overwrite"]) == 1
    assert "it is no HOST:PORT" in capsys.readouterr().err
