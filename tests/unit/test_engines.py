"""Tasks in processes of this machine: all run, one at a time per worker, and what goes wrong is said."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.prepare import engines
from pipelines.prepare.engines import Engine, run


def square(task: int) -> int:
    return task * task


def process_of(task: int) -> int:
    return os.getpid()


def fall_over_at_three(task: int) -> int:
    if task == 3:
        raise ValueError("task 3: is wrong")
    return task


class LockedError(Exception):
    """Does not pickle."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.lock = threading.Lock()


class TwofoldError(Exception):
    """Pickles, and does not come back."""

    def __init__(self, _: int, reason: str):
        super().__init__(reason)


def fail_with_a_lock(task: int) -> None:
    raise LockedError("the real reason")


def fail_and_not_come_back(task: int) -> None:
    raise TwofoldError(task, "the real reason")


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


@pytest.mark.parametrize("fail", [fail_with_a_lock, fail_and_not_come_back])
def test_an_exception_that_does_not_travel_says_its_reason(fail: Callable[[int], None]) -> None:
    with pytest.raises(OSError, match=r"^the real reason$"):
        list(run(fail, range(3), engine=Engine(workers=2)))
    assert not multiprocessing.active_children()


class SilentRay:
    """Stands in for Ray where the first answer takes long."""

    def __init__(self, answers: list[list[str]]):
        self._answers = answers
        self.timeouts: list[float | None] = []

    def wait(self, references: list[str], num_returns: int, timeout: float | None = None) -> tuple[list[str], list]:
        self.timeouts.append(timeout)
        return self._answers.pop(0), []

    def cluster_resources(self) -> dict[str, float]:
        return {}


def test_the_user_is_told_when_ray_is_silent() -> None:
    notes: list[str] = []
    silent = SilentRay([[], ["b"]])
    assert engines._first_done(silent, ["a", "b"], notes.append) == "b"
    assert silent.timeouts == [engines.SILENT_SECONDS, None]
    assert notes == [
        "none of 2 tasks at Ray was finished for 30 s; the cluster has 0 CPUs, which others may hold "
        "(`ray status` tells)"
    ]
    assert engines._first_done(SilentRay([["a"]]), ["a", "b"], notes.append) == "a"
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("has_token", "told", "mode"), [(True, None, "token"), (True, "disabled", "disabled"), (False, None, None)]
)
def test_ray_reads_the_token_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_token: bool, told: str | None, mode: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", told or "")
    if told is None:
        monkeypatch.delenv("RAY_AUTH_MODE")
    if has_token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("secret")
    seen: list[str | None] = []

    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "ray":
                seen.append(os.environ.get("RAY_AUTH_MODE"))
                raise ImportError

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(ValueError, match="needs Ray"):
        list(run(square, [1], engine=Engine(kind="ray")))
    assert seen == [mode]


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
