"""Configurations and recipes: names, lengths, ranges."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from ray_brats import errors
from ray_brats.recipes import named


@pytest.mark.parametrize("name", named.RECIPES)
def test_recipes_are_named_after_themselves(name: named.RecipeName) -> None:
    assert named.get(name).name == name


def test_length_of_training_replaces_the_recipes_own() -> None:
    assert named.get("smoke", minutes=2).train.steps is None
    assert named.get("smoke", steps=7).train.steps == 7
    with pytest.raises(errors.UsageError, match="exactly one"):
        named.get("smoke", minutes=2, steps=7)


def test_errors_name_the_knob_the_value_and_what_was_expected() -> None:
    recipe = named.get("standard")
    train = dataclasses.replace(recipe.train, patch_vox=(90, 96, 96))
    with pytest.raises(
        errors.UsageError, match=r"train\.patch_vox is \(90, 96, 96\).*multiples of"
    ):
        dataclasses.replace(recipe, train=train)


@pytest.mark.parametrize("kind", [errors.CaseRejected, errors.CaseFailed, errors.CaseFiltered])
def test_case_errors_survive_pickling(kind: type[errors.CaseError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it is broken", "a.nii.gz")))
    assert (error.reason, error.file, error.status) == ("it is broken", "a.nii.gz", kind.status)
