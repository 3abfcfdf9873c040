"""A provider's process, seen from outside: started, asked, and ended, within a time limit each."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
QUIET = {
    "OMP_WAIT_POLICY": "PASSIVE",  # an idle worker's threads must not spin beside the one that is timed
    "NO_ALBUMENTATIONS_UPDATE": "1",  # it asks PyPI for its newest version when it is imported
}


class ProviderFailed(Exception):
    """A provider does not import, raised, died or took too long; the message is one line."""

    def __init__(self, reason: str, *, is_missing: bool = False):
        super().__init__(reason)
        self.is_missing = is_missing


class ProviderProcess:
    """One `benchmarks.worker`; it waits on a pipe while it is not asked.

    Args:
        name: registered provider.
        folder: where its work lies; its log and temporary files go there.
        threads: threads that its libraries may use.
        cores: cores that it may run on.
        limit: seconds that an answer may take.
    """

    def __init__(self, name: str, folder: Path, *, threads: int, cores: list[int], limit: float):
        self._log, self._limit = folder / f"{name}.log", limit
        root = str(Path(__file__).parent.parent)
        environment = {**os.environ, **QUIET, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "TMPDIR": str(folder)}
        environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "benchmarks.worker", name, str(folder), ",".join(map(str, cores))]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, bufsize=0
            )

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer; raises ProviderFailed."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: the missing answer says so
            self._process.stdin.write(json.dumps({"do": request, **arguments}).encode() + b"\n")
        answer = json.loads(self._answer())
        if "error" in answer:
            raise ProviderFailed(" ".join(answer["error"].split()), is_missing=answer["is_missing"])
        return answer

    def close(self) -> None:
        """End the process: by the end of its input, or by force."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:  # some library's threads do not end
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        deadline, answer = time.monotonic() + self._limit, b""
        while not answer.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
                self._process.kill()
                raise ProviderFailed(f"no answer within {self._limit:g} s (--timeout)")
            part = self._process.stdout.read(1 << 16)
            if not part:
                raise ProviderFailed(f"its process ended: {self._last_words()}")
            answer += part
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lines = re.sub(r"\x1b\[[0-9;]*m", "", self._log.read_text(errors="replace")).split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"{how}; {said[-1]}" if said else how
