"""Run one function over many tasks: in processes of this machine, or on the machines of a Ray cluster.

The function, the tasks and the results are the same on every engine. What a task leaves behind it leaves in files
that every machine sees; tasks and results are small messages.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, TypeVar

from pipelines.prepare.worker import Worker

Task = TypeVar("Task")
Result = TypeVar("Result")

# A task that took its machine or its worker down so often would do it for ever.
RAY_RETRIES = 4
# So many tasks per CPU are handed to Ray ahead: a node that is done finds the next one waiting.
RAY_TASKS_PER_CPU = 2
CONNECT_SECONDS = 10.0
# Without a task finished for so long the user is told.
SILENT_SECONDS = 30.0
# Where `ray get-auth-token --generate` puts the token of a cluster that wants one.
_AUTH_TOKEN = "~/.ray/auth_token"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where tasks run."""

    kind: Literal["local", "ray"] = "local"
    """`local`: processes of this machine; `ray`: a Ray cluster."""
    workers: int | None = None
    """Most tasks at a time; None takes one here, and what the cluster has CPUs for on Ray."""
    address: str | None = None
    """The Ray cluster's HOST:PORT; None takes the one that this machine belongs to (or RAY_ADDRESS), else starts one
    of this machine alone."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers {self.workers}: give at least 1")
        if self.kind != "ray" and self.address is not None:
            raise ValueError(f"address {self.address} is a Ray cluster's: give --engine ray too, or leave it out")


def run(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    engine: Engine,
    on_note: Callable[[str], None] | None = None,
) -> Iterator[tuple[int, Result]]:
    """Call `function` once for every task; yields (number of the task, result) in the order of completion.

    Tasks are taken from the iterable only as workers have room for them, so that neither tasks nor results
    pile up. A task that raises ends the run with its exception; the others are cancelled. On Ray a task whose
    node or worker is lost runs again elsewhere, so that it may have run, or may even be running still, twice:
    what it leaves behind must appear at once (a rename) and be the same each time.

    Args:
        function: picklable, importable on every machine (or a `functools.partial` of such).
        tasks: picklable and small.
        engine: where they run.
        on_note: gets a sentence for the user where Ray is silent for long.

    Raises:
        ChildProcessError: a worker was killed, on Ray again and again.
        ConnectionError: no Ray cluster answers at the start. One that is lost later raises nothing: Ray itself waits
            for it a minute and then ends this process, exit code 1.
        ValueError: Ray is asked for and not installed.
    """
    if engine.kind == "ray":
        yield from _on_ray(function, tasks, engine, on_note)
    elif engine.workers in (None, 1):
        for number, task in enumerate(tasks):
            yield number, function(task)
    else:
        yield from _in_processes(function, tasks, engine.workers)


# ---- this machine ---------------------------------------------------------------------------------------------


def _in_processes(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[tuple[int, Result]]:
    numbered = enumerate(tasks)
    with ExitStack() as stack:
        busy: dict[Connection, Worker] = {}
        for number, task in islice(numbered, workers):  # no more processes than tasks
            worker = stack.enter_context(Worker(_serve, function))
            worker.send((number, task))
            busy[worker.connection] = worker
        while busy:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                number, result, error = worker.receive()
                if error is not None:
                    raise error[0] from RuntimeError(f"in a worker:\n{error[1]}")
                following = next(numbered, None)
                if following is None:
                    del busy[worker.connection]
                else:
                    worker.send(following)
                yield number, result


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """Answer (number, task) by (number, result, None) or (number, None, (exception, traceback))."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        while True:
            number, task = connection.recv()
            try:
                answer = number, function(task), None
            except Exception as error:  # the parent raises it again
                answer = number, None, (portable(error), traceback.format_exc())
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def portable(error: Exception) -> Exception:
    """Give what another process can raise: the exception, or where it cannot be pickled an OSError that says the
    same.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its own methods raise
        return OSError(str(error))
    return error


# ---- Ray ------------------------------------------------------------------------------------------------------


def _on_ray(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    engine: Engine,
    on_note: Callable[[str], None] | None,
) -> Iterator[tuple[int, Result]]:
    ray = _import_ray()
    pickled = pickle.dumps(function)

    def call(task: Task) -> Result:
        try:
            there = pickle.loads(pickled)
        except ImportError as error:
            raise OSError(f"{socket.gethostname()}: {error}; install the same relicv2 there as here") from None
        try:
            return there(task)
        except Exception as error:
            from pipelines.prepare import engines  # here, so that a node without it can say so

            raise engines.portable(error) from None

    # Retries are for lost nodes and workers; an exception of the function is final (Ray's own default).
    options = {"num_cpus": 1, "max_retries": RAY_RETRIES, "scheduling_strategy": "SPREAD"}
    numbered = enumerate(tasks)
    with _connected(ray, engine.address):
        remote = ray.remote(**options)(call)
        pending: dict[Any, int] = {}
        try:
            while True:
                room = _limit(ray, engine.workers) - len(pending)
                for number, task in islice(numbered, max(room, 0)):
                    pending[remote.remote(task)] = number
                if not pending:
                    return
                done = _first_done(ray, list(pending), on_note)
                yield pending.pop(done), _result(ray, done)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


def _first_done(ray: Any, references: list[Any], on_note: Callable[[str], None] | None) -> Any:
    done, _ = ray.wait(references, num_returns=1, timeout=SILENT_SECONDS)
    if not done:
        if on_note is not None:
            cpus = ray.cluster_resources().get("CPU", 0)
            on_note(
                f"none of {len(references)} tasks at Ray was finished for {SILENT_SECONDS:.0f} s; the cluster has "
                f"{cpus:.0f} CPUs, which others may hold (`ray status` tells)"
            )
        done, _ = ray.wait(references, num_returns=1)
    return done[0]


def _limit(ray: Any, workers: int | None) -> int:
    """Give how many tasks may be in flight; asked again each time, since nodes come and go."""
    cpus = max(int(ray.cluster_resources().get("CPU", 1)), 1)
    return workers if workers is not None else RAY_TASKS_PER_CPU * cpus


def _result(ray: Any, reference: Any) -> Any:
    errors = ray.exceptions
    try:
        return ray.get(reference)
    except errors.RayTaskError as error:
        raise error.cause from RuntimeError(f"on a node:\n{error}")
    except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.ObjectLostError) as error:
        what = f"a task lost its worker {RAY_RETRIES + 1} times ({type(error).__name__})"
        raise ChildProcessError(
            f"{what}; give its node more memory or --workers fewer; what is finished is kept, run the same command "
            "again to continue"
        ) from None


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Join the cluster for the time of the context, unless this process belongs to one already."""
    if ray.is_initialized():
        yield
        return
    try:
        if address is not None:
            _check_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        mend = "start one by `ray start --head`, or give the HOST:PORT that it printed"
        if "token" in str(error).lower():
            mend = f"put the cluster's token into {_AUTH_TOKEN} here, or name another file by RAY_AUTH_TOKEN_PATH"
        where = "--engine ray" if address is None else f"--address {address}"
        raise ConnectionError(f"{where}: no Ray cluster answers ({error}); {mend}") from None
    # A thread of Ray's prints notices to standard output, the last at its end; that is for the command's answer.
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise OSError or ValueError where nobody listens: Ray itself would knock for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("it is no HOST:PORT")
    socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _import_ray() -> Any:
    if os.path.isfile(os.path.expanduser(_AUTH_TOKEN)):
        # Ray looks for the token only where it is told to, and without it a cluster that wants one seems dead.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ValueError("--engine ray needs Ray, which is missing: pip install 'relicv2[ray]'") from None
    return ray
