"""Tasks in processes of this machine: all run, one at a time per worker, and what goes wrong is said."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from pipelines.prepare.engines import Engine, run


def square(task: int) -> int:
    return task * task


def process_of(task: int) -> int:
    return os.getpid()


def fall_over_at_three(task: int) -> int:
    if task == 3:
        raise ValueError("task 3: is wrong")
    return task


def kill_this_process(task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [None, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_task_runs_once(workers: int | None, count: int) -> None:
    results = dict(run(square, range(10, 10 + count), engine=Engine(workers=workers)))
    assert results == {number: (10 + number) ** 2 for number in range(count)}
    assert not multiprocessing.active_children()


def test_no_more_processes_than_workers_or_tasks() -> None:
    assert len({pid for _, pid in run(process_of, range(6), engine=Engine(workers=2))} - {os.getpid()}) == 2
    assert {pid for _, pid in run(process_of, range(6), engine=Engine(workers=1))} == {os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_are_taken_only_when_there_is_room(workers: int) -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for task in range(100):
            taken += 1
            yield task

    running = run(square, tasks(), engine=Engine(workers=workers))
    for done in range(1, 20):
        next(running)
        assert taken <= done + workers
    running.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_ends_the_run_as_it_was_raised(workers: int) -> None:
    with pytest.raises(ValueError, match=r"^task 3: is wrong$") as error:
        list(run(fall_over_at_three, range(100), engine=Engine(workers=workers)))
    if workers > 1:
        assert "fall_over_at_three" in str(error.value.__cause__)
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_named() -> None:
    with pytest.raises(ChildProcessError, match=r"killed by signal 9 .*run the same command again"):
        list(run(kill_this_process, range(3), engine=Engine(workers=2)))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"workers": 0}, "workers 0: give at least 1"),
        ({"address": "head:6379"}, "address head:6379 is a Ray cluster's: give --engine ray"),
    ],
)
def test_engines_that_are_refused(engine: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(**engine)


def test_ray_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray, which is missing: pip install 'relicv2\[ray\]'"):
        list(run(square, [1], engine=Engine(kind="ray")))
