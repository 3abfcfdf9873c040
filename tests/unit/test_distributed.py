"""Which process this is, by whatever started it, and what is drawn for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from relic import randomness, recipes
from relic.config import LossConfig, OptimConfig, RunConfig
from relic.distributed import Group, World, first_host, from_environment
from relic.plan import make_plan

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SLURM = {
    "SLURM_PROCID": "11",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_LOCALID": "3",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_ID": "123456",
}


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets variables, after taking all that launchers set away."""
    for name in (*RANK_VARIABLES, *SLURM, "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def test_alone(environment):
    world = from_environment("cpu")
    assert (world.rank, world.world_size, world.num_nodes, world.launcher) == (0, 1, 1, "python")
    assert world.is_main


def test_by_torchrun(environment):
    environment(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", LOCAL_WORLD_SIZE="4")
    world = from_environment("cpu")
    assert (world.rank, world.world_size, world.local_rank, world.num_nodes) == (5, 8, 1, 2)
    assert (world.launcher, world.meeting_point, world.is_main) == ("torchrun", "env://", False)


def test_by_srun(environment):
    environment(**SLURM)
    world = from_environment("cpu")
    assert (world.rank, world.world_size, world.local_rank, world.local_world_size) == (11, 16, 3, 8)
    assert world.launcher == "srun"
    assert world.meeting_point == "tcp://gpu07:23456?rank=11&world_size=16"


def test_a_batch_script_without_srun_is_alone(environment):
    environment(SLURM_PROCID="0", SLURM_NTASKS="16", SLURM_JOB_ID="1")
    assert from_environment("cpu").world_size == 1


def test_torchrun_inside_srun_counts(environment):
    environment(**SLURM, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="2")
    assert from_environment("cpu").launcher == "torchrun"


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu07", "gpu07"),
        ("gpu07,gpu09", "gpu07"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("gpu[7,9]", "gpu7"),
        ("rack1-n[003-004].site", "rack1-n003.site"),
        ("rack[1-2]node[3-4],cpu1", "rack1node3"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_first_host_of_a_list(nodes, host):
    assert first_host(nodes) == host


def test_without_a_gpu_cuda_is_refused_by_name(environment, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device=cuda, but torch sees no GPU"):
        from_environment("cuda")


def test_more_processes_than_gpus_are_refused_by_name(environment, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    environment(RANK="3", WORLD_SIZE="4", LOCAL_RANK="3", LOCAL_WORLD_SIZE="4")
    with pytest.raises(ValueError, match=r"process 3 of this machine has no GPU \(2 visible\)"):
        from_environment("auto")


def test_srun_that_shows_each_process_one_gpu(environment, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    environment(**SLURM)
    assert from_environment("auto").device == torch.device("cuda", 0)


def test_a_single_process_agrees_with_itself():
    group = Group(World(device=torch.device("cpu")))
    assert [group.agree(wish) for wish in (0, 2, 1)] == [0, 2, 1]
    assert group.gather([1.0, 2.0]) == [[1.0, 2.0]]
    assert group.broadcast(b"x") == b"x"
    group.settle()


def drawn(world_size: int, negatives_from: str, *, accumulate: int = 1, step: int = 4) -> list[list[np.ndarray]]:
    """Return for each rank and part the negatives of a batch of 24."""
    config: RunConfig = replace(
        recipes.get("cifar10_r18"),
        batch_size=24,
        loss=LossConfig(num_negatives=3, negatives_from=negatives_from),
        optim=OptimConfig(accumulate=accumulate),
    )
    plan = make_plan(config, num_images=1000, world_size=world_size)
    worlds = (World(rank=rank, world_size=world_size, device=torch.device("cpu")) for rank in range(world_size))
    return [[table.numpy() for table in randomness.negatives(config, plan, world, step)] for world in worlds]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_global_negatives_name_the_same_images_whatever_the_number_of_processes(world_size, accumulate):
    def by_position(ranks: list[list[np.ndarray]], world: int) -> dict[int, list[int]]:
        """Return position in the global batch -> positions of its negatives; the order deals images in turn."""
        size, found = 24 // world // accumulate, {}
        for rank, tables in enumerate(ranks):
            for part, table in enumerate(tables):
                first = part * size * world  # of this part of all ranks
                for slot, row in enumerate(table):
                    found[first + slot * world + rank] = [first + n % size * world + n // size for n in row]
        return found

    one = by_position(drawn(1, "global", accumulate=accumulate), 1)
    assert len(one) == 24
    assert by_position(drawn(world_size, "global", accumulate=accumulate), world_size) == one


def test_local_negatives_differ_by_rank_part_and_step_and_stay_inside_the_part():
    tables = [table for rank in drawn(2, "local", accumulate=2) for table in rank]
    assert all(table.shape == (6, 3) and table.max() < 6 for table in tables)
    assert len({table.tobytes() for table in tables}) == 4
    assert drawn(2, "local", step=5)[0][0].tobytes() != drawn(2, "local", step=4)[0][0].tobytes()


def test_noise_differs_by_seed_step_and_rank():
    values = set()
    for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        randomness.seed_networks(*place)
        values.add(float(torch.rand(())))
    assert len(values) == 4
    randomness.seed_networks(0, 0, 0)
    assert float(torch.rand(())) in values
