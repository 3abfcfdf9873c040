"""The process of one provider: `python -m benchmarks.worker NAME FOLDER CORES`, driven by lines of JSON on its pipes.

Requests and answers are one line each; `start` imports, prepares and warms up, `run` makes one pass over all images,
`parity` compares pixels. Whatever libraries print goes to stderr. It ends with its standard input.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

WARM_UP_IMAGES = 8


def main(name: str, folder: str, cores: str) -> None:
    """Answer requests until standard input ends."""
    if hasattr(os, "sched_setaffinity"):  # before numpy: its thread pools count the cores when they are imported
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    state = _State(name, Path(folder))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(state, request.pop("do"))(**request)
        except ImportError as error:
            answer = {"error": f"does not import ({error})", "is_missing": True}
        except Exception as error:  # whatever a library raises is reported, and ends only this provider
            answer = {"error": f"{type(error).__name__}: {error}", "is_missing": False}
        print(json.dumps(answer), file=answers)


class _State:
    def __init__(self, name: str, folder: Path):
        self._name, self._folder = name, folder
        self._work: Any = None
        self._provider: Any = None

    def start(self) -> dict[str, Any]:
        """Import, prepare and warm up; return the seconds of all that."""
        import dataclasses
        import importlib

        from benchmarks.providers import PROVIDERS

        with open(self._folder / "jpegs.pickle", "rb") as file:
            jpegs = pickle.load(file)
        with open(self._folder / f"{self._name}.pickle", "rb") as file:
            self._work = dataclasses.replace(pickle.load(file), jpegs=jpegs)
        start = time.perf_counter()
        module = importlib.import_module(f"benchmarks.providers.{PROVIDERS[self._name].module}")
        self._provider = module.prepare(self._work)
        self._provider.run(range(min(WARM_UP_IMAGES, len(jpegs))))
        return {"seconds": time.perf_counter() - start, "note": self._provider.note}

    def run(self) -> dict[str, Any]:
        """Make one pass over all images; return its seconds, and those of its stages."""
        start = time.perf_counter()
        stages = self._provider.run(range(len(self._work.jpegs)))
        return {"seconds": time.perf_counter() - start, "stages": stages}

    def parity(self, indices: list[int]) -> dict[str, Any]:
        """Compare the pixels of some images with the reference's."""
        from benchmarks import parity

        return {"parity": parity.measure(self._work, self._provider, indices)}


if __name__ == "__main__":
    main(*sys.argv[1:])
