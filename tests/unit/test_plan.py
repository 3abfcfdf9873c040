"""Durations become steps, and what does not fit is refused by name."""

from __future__ import annotations

import dataclasses

import pytest

from relic import recipes
from relic.config import LossConfig
from relic.plan import make_plan


def test_imagenet_at_300_epochs():
    plan = make_plan(recipes.get("relicv2_r50_300ep"), num_images=1_281_167, world_size=8)
    assert plan.steps_per_epoch == 1_281_167 // 4096 == 312
    assert plan.total_steps == 300 * 312
    assert plan.warmup_steps == 10 * 312
    assert plan.local_batch_size == 512
    assert plan.peak_learning_rate == pytest.approx(0.3 * 16)
    assert plan.keep_every_steps == 30 * 312


@pytest.mark.parametrize(
    ("changes", "world_size", "said"),
    [
        ({"batch_size": 100}, 3, "batch_size=100 is no multiple of the 3 processes"),
        ({"batch_size": 2000}, 1, "batch_size=2000 is larger than the data set of 1000 images"),
        ({"loss": LossConfig(num_negatives=10)}, 8, "num_negatives=10 does not fit the 8 images of a part"),
        ({"loss": LossConfig(num_negatives=64, negatives_from="global")}, 8, "fit the 64 images of all processes"),
        ({"loss": LossConfig(num_negatives=None), "batch_size": 8}, 8, "num_negatives=None does not fit the 1 images"),
        ({}, 0, "0 processes: give at least 1"),
        ({"duration": "0st"}, 1, "duration=0st is no step at all"),
        ({"duration": "5"}, 1, "duration: duration '5' is no number with a unit"),
        ({"duration": "2st"}, 1, "optim.warmup=1ep"),
    ],
)
def test_what_does_not_fit_is_named(changes, world_size, said):
    recipe = recipes.get("cifar10_r18")
    config = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, warmup="1ep"), batch_size=64)
    config = dataclasses.replace(config, **changes)
    with pytest.raises(ValueError, match=said):
        make_plan(config, num_images=1000, world_size=world_size)
