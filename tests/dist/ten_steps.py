"""One of several processes: `torchrun ... tests/dist/ten_steps.py FOLDER`; every case, results by rank and case."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import problem

from relic.distributed import from_environment, process_group

torch.set_num_threads(1)
folder, cases = Path(sys.argv[1]), sys.argv[2:]
world = from_environment("cpu")
with problem.in_float64(), process_group(world, timeout_seconds=120) as group:
    for case in cases:
        outcome = problem.run(case, world)
        outcome["losses"] = [
            sum(row[0] for row in group.gather([loss])) / world.world_size for loss in outcome["losses"]
        ]
        torch.save(outcome, folder / f"{case}-{world.rank}.pt")
