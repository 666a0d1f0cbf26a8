"""Configuration: round trips, ranges, fingerprints."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest

from ray_brats import config, errors, recipes
from ray_brats.config import Recipe


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_survive_json(name: recipes.RecipeName) -> None:
    recipe = recipes.get(name)
    text = json.dumps(config.as_json(recipe))
    assert config.from_json(Recipe, json.loads(text)) == recipe


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_are_named_after_themselves(name: recipes.RecipeName) -> None:
    assert recipes.get(name).name == name


def test_length_of_training_replaces_the_recipes_own() -> None:
    assert recipes.get("smoke", minutes=2).train.steps is None
    assert recipes.get("smoke", steps=7).train.steps == 7
    with pytest.raises(errors.UsageError, match="exactly one"):
        recipes.get("smoke", minutes=2, steps=7)


def test_errors_name_the_knob_the_value_and_what_was_expected() -> None:
    recipe = recipes.get("standard")
    train = dataclasses.replace(recipe.train, patch_vox=(90, 96, 96))
    with pytest.raises(
        errors.UsageError, match=r"train\.patch_vox is \(90, 96, 96\).*multiples of"
    ):
        dataclasses.replace(recipe, train=train)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(errors.UsageError, match="no field colour"):
        config.from_json(config.InferenceConfig, {"colour": 1})


def test_fingerprint_follows_content() -> None:
    one, other = recipes.get("smoke"), recipes.get("smoke", steps=3)
    assert config.fingerprint(one) == config.fingerprint(recipes.get("smoke"))
    assert config.fingerprint(one) != config.fingerprint(other)


@pytest.mark.parametrize("kind", [errors.CaseRejected, errors.CaseFailed, errors.CaseFiltered])
def test_case_errors_survive_pickling(kind: type[errors.CaseError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it is broken", "a.nii.gz")))
    assert (error.reason, error.file, error.status) == ("it is broken", "a.nii.gz", kind.status)


def test_settings_replace_fields_by_their_path() -> None:
    recipe = config.with_settings(
        recipes.get("standard"),
        [
            "train.clip_norm=12",
            "network.widths=8,16,32",
            "train.patch_vox=[64, 64, 64]",
            "train.flip=False",
            "train.schedule=constant",
            "train.ema_decay=null",
        ],
    )
    assert recipe.train.clip_norm == 12
    assert (recipe.network.widths, recipe.train.patch_vox) == ((8, 16, 32), (64, 64, 64))
    assert (recipe.train.flip, recipe.train.schedule) == (False, "constant")
    assert recipe.train.ema_decay is None


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("train.clip_norm", "expected PART.FIELD=VALUE"),
        ("clip_norm=1", "expected PART.FIELD=VALUE"),
        ("train.clip=1", "train.clip_norm"),
        ("trian.clip_norm=1", "no 'trian'"),
        ("train.clip_norm=-1", "above zero"),
        ("train.accumulate=1.5", "type int"),
        ("train.flip=1", "type bool"),
        ("train.loss=mse", "'dice_focal' or 'dice_bce'"),
        ("train.patch_vox=96,96", "3 values"),
        ("network.widths=wide", "a list"),
    ],
)
def test_a_setting_that_cannot_be_is_a_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(errors.UsageError, match=sentence):
        config.with_settings(recipes.get("standard"), [setting])
