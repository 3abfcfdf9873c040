"""Configurations survive their YAML, refuse what they do not know, and tell what changed."""

from __future__ import annotations

import dataclasses

import pytest

from relic import config, recipes
from relic.config import RunConfig


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_survives_yaml(name, tmp_path):
    recipe = recipes.get(name)
    assert recipe.recipe == name
    config.save(recipe, tmp_path / "config.yaml")
    assert config.load(tmp_path / "config.yaml") == recipe


def test_an_unknown_field_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"config\.optim has no field 'weigth_decay': did you mean 'weight_decay'\?"):
        config.from_dict(RunConfig, {"recipe": "demo", "optim": {"weigth_decay": 0.1}})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"precision": "float8"}, r"config\.precision is 'float8', not one of float32"),
        ({"batch_size": "many"}, r"config\.batch_size is 'many', not int"),
        ({"loss": {"num_negatives": 2.5}}, r"config\.loss\.num_negatives is 2\.5, not int or NoneType"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(values, said):
    with pytest.raises(ValueError, match=said):
        config.from_dict(RunConfig, {"recipe": "demo", **values})


def test_whole_numbers_pass_for_floats():
    loaded = config.from_dict(RunConfig, {"recipe": "demo", "optim": {"base_learning_rate": 1}})
    assert isinstance(loaded.optim.base_learning_rate, float)


def test_the_difference_names_what_changes_the_computation_only():
    old = recipes.get("demo")
    new = dataclasses.replace(
        old, seed=3, name="other", loader=dataclasses.replace(old.loader, num_threads=7), device="cpu"
    )
    assert config.difference(old, new) == ["seed: 0 -> 3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "names no recipe"), ("a: [1", "is no YAML"), ("- 1", "names no recipe"), ("seed: 1", "recipe")],
)
def test_a_damaged_file_is_named(text, said, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"config\.yaml .*{said}"):
        config.load(path)
