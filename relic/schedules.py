"""Schedules as pure functions of the step, and durations as users write them."""

from __future__ import annotations

import difflib
import math
import re
from fractions import Fraction

_UNITS = {"ep": "epochs", "st": "steps", "im": "images", "%": "of the run"}
_SPELLINGS = {
    **{unit: unit for unit in _UNITS},
    **{"e": "ep", "epoch": "ep", "epochs": "ep"},
    **{"s": "st", "step": "st", "steps": "st", "it": "st", "iterations": "st"},
    **{"i": "im", "img": "im", "images": "im", "samples": "im", "ex": "im", "examples": "im"},
    **{"percent": "%", "pct": "%"},
}


def scaled_learning_rate(base: float, batch_size: int) -> float:
    """Return base * batch_size / 256, the linear scaling rule (Goyal et al., 2017)."""
    return base * batch_size / 256


def learning_rate(step: int, *, base: float, total_steps: int, warmup_steps: int) -> float:
    """Return the learning rate of a step: linear from 0 to base, then cosine to 0.

    Args:
        step: number of the update, from 0; past the end the rate stays 0.
        base: the peak, reached at step `warmup_steps`.
        total_steps: updates of the run.
        warmup_steps: updates of the linear part; 0 starts at the peak.

    Raises:
        ValueError: for a negative step, or a warm-up that is negative or longer than the run.
    """
    if step < 0:
        raise ValueError(f"step {step} is negative")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps={warmup_steps} is not in [0, total_steps={total_steps}]: shorten it")
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return base * step / warmup_steps
    return base * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2


def target_decay(step: int, *, base: float, total_steps: int) -> float:
    """Return the target network's decay at a step: 1 - (1 - base)(1 + cos(pi k / K)) / 2.

    Args:
        step: number of the update k, from 0; past the end the decay stays 1.
        base: decay of the first step.
        total_steps: updates of the run, K.

    Raises:
        ValueError: for a negative step or a base outside [0, 1].
    """
    if step < 0:
        raise ValueError(f"step {step} is negative")
    if not 0 <= base <= 1:
        raise ValueError(f"target decay {base} is not in [0, 1]")
    if step >= total_steps:
        return 1.0
    return 1 - (1 - base) * (1 + math.cos(math.pi * step / total_steps)) / 2


def duration_steps(duration: str, *, num_images: int, batch_size: int, total_steps: int | None = None) -> int:
    """Return the number of steps of a duration such as "300ep", "500st", "12800im" or "50%".

    An epoch is num_images // batch_size steps, since the loader drops the incomplete batch. Fractions of a
    step are rounded up, so that a duration of more than nothing is at least one step.

    Args:
        duration: a number and a unit: ep(ochs), st(eps), im(ages), or % of `total_steps`.
        num_images: images in the data set.
        batch_size: images per step over all ranks.
        total_steps: steps of the run; None where the duration is the run's own, which is no share of itself.

    Raises:
        ValueError: for text that is no duration, a share of an unknown run, or an epoch without a batch.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ep|st|im|%)", duration)
    if match is None:
        raise ValueError(f"duration {duration!r} is no number with a unit: {_meant(duration)}")
    number, unit = Fraction(match[1]), match[2]
    if unit == "st":
        if number.denominator != 1:
            raise ValueError(f"duration {duration!r} is no whole number: did you mean '{math.ceil(number)}st'?")
        return int(number)
    if unit == "im":
        return math.ceil(number / batch_size)
    if unit == "%":
        if total_steps is None:
            raise ValueError(f"duration {duration!r} is a share of the run it sets: use ep, st or im")
        return math.ceil(number * total_steps / 100)
    steps_per_epoch = num_images // batch_size
    if steps_per_epoch < 1:
        raise ValueError(
            f"duration {duration!r}: an epoch of {num_images} images has no batch of {batch_size}: "
            "lower batch_size, or use st or im"
        )
    return math.ceil(number * steps_per_epoch)


def _meant(duration: str) -> str:
    number = re.search(r"\d+(?:\.\d+)?", duration)
    word = re.sub(r"[\s\d.,_+-]", "", duration).lower()
    if number is None:
        return "write it as '300ep', '500st', '12800im' or '50%'"
    if not word:
        choices = (f"'{number[0]}{unit}' ({meaning})" for unit, meaning in _UNITS.items())
        return f"did you mean {', '.join(choices)}?"
    nearest = _SPELLINGS[difflib.get_close_matches(word, _SPELLINGS, n=1, cutoff=0.0)[0]]
    return f"did you mean '{number[0]}{nearest}'? (ep = epochs, st = steps, im = images, % = of the run)"
