"""A run that is killed at random moments, again and again, ends with the bits of the undisturbed run.

RELIC_KILLS sets the number of kills (100 takes a quarter of an hour).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "dist"))
from launch import PYTHON, Running, outcome, pretrain, same_bits, write_data

from relic.preempt import EXIT_CODE

KILLS = int(os.environ.get("RELIC_KILLS", "5"))
OPTIONS = ("--duration", "60st", "--checkpoint.every", "4st", "--log.every", "10st", "--log.health-every", "60st")


def test_kills_at_random_moments_change_no_bit(tmp_path):
    data = write_data(tmp_path)
    start = time.monotonic()
    with Running(PYTHON, *pretrain(data, tmp_path, "straight", *OPTIONS)) as running:
        assert running.wait() == 0, "\n".join(running.lines)
    undisturbed = time.monotonic() - start
    expected = outcome(tmp_path, "straight", 60)

    chance, kills, saved, rounds, resumed = random.Random(0), 0, 0, 0, 0
    while kills < KILLS:
        rounds += 1
        command = [PYTHON, *pretrain(data, tmp_path, f"round{rounds}", *OPTIONS)]
        code = None
        while code != 0:
            with Running(*command) as running:
                number = chance.choice((signal.SIGKILL, signal.SIGTERM))
                try:
                    code = running.wait(chance.uniform(0, 1.1 * undisturbed) if kills < KILLS else 60)
                except subprocess.TimeoutExpired:
                    running.signal(number)
                    code = running.wait()
                    kills += code != 0
                    saved += code == EXIT_CODE
                assert code in (0, EXIT_CODE, -signal.SIGKILL, -signal.SIGTERM), "\n".join(running.lines)
            resumed += bool(running.said("resumes at step"))
        assert same_bits(outcome(tmp_path, f"round{rounds}", 60), expected)
    print(
        f"{kills} kills ({saved} saved on SIGTERM) in {rounds} runs, {resumed} resumed from a checkpoint: the same bits"
    )
    assert resumed
