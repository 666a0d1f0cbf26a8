"""Configurations as JSON: round trips, fingerprints, settings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats import errors
from ray_brats.recipes import config, jsonform, named
from ray_brats.recipes.config import Recipe


@pytest.mark.parametrize("name", named.RECIPES)
def test_recipes_survive_json(name: named.RecipeName) -> None:
    recipe = named.get(name)
    text = json.dumps(jsonform.as_json(recipe))
    assert jsonform.from_json(Recipe, json.loads(text)) == recipe


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(errors.UsageError, match="no field colour"):
        jsonform.from_json(config.InferenceConfig, {"colour": 1})


def test_fingerprint_follows_content() -> None:
    one, other = named.get("smoke"), named.get("smoke", steps=3)
    assert jsonform.fingerprint(one) == jsonform.fingerprint(named.get("smoke"))
    assert jsonform.fingerprint(one) != jsonform.fingerprint(other)


def test_settings_replace_fields_by_their_path() -> None:
    recipe = jsonform.with_settings(
        named.get("standard"),
        [
            "train.clip_norm=12",
            "network.widths=8,16,32",
            "train.patch_vox=[64, 64, 64]",
            "train.flip=False",
            "train.schedule=constant",
            "train.ema_decay=null",
            "preprocess.modalities=t1ce,flair",
        ],
    )
    assert recipe.train.clip_norm == 12
    assert (recipe.network.widths, recipe.train.patch_vox) == ((8, 16, 32), (64, 64, 64))
    assert (recipe.train.flip, recipe.train.schedule) == (False, "constant")
    assert recipe.train.ema_decay is None
    assert recipe.preprocess.modalities == ("t1ce", "flair")


def test_a_word_for_a_list_of_words_is_its_only_item() -> None:
    recipe = jsonform.with_settings(named.get("standard"), ["preprocess.modalities=t1ce"])
    assert recipe.preprocess.modalities == ("t1ce",)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("train.clip_norm", "expected PART.FIELD=VALUE"),
        ("clip_norm=1", "expected PART.FIELD=VALUE; did you mean train.clip_norm?"),
        ("train.stepz=1", "expected PART.FIELD=VALUE; did you mean train.steps?"),
        ("train.nothing_like_it=1", r"one of the fields train\.patch_vox, "),
        ("train.clip=1", "train.clip_norm"),
        ("trian.clip_norm=1", "no 'trian'"),
        ("train.clip_norm=-1", "--set train.clip_norm=-1: clip_norm is -1.*above zero"),
        ("train.accumulate=1.5", "type int"),
        ("train.flip=1", "type bool"),
        ("train.loss=mse", "'dice_focal' or 'dice_bce'"),
        ("train.patch_vox=96,96", "3 values"),
        ("network.widths=wide", "a list"),
    ],
)
def test_a_setting_that_cannot_be_is_a_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(errors.UsageError, match=sentence):
        jsonform.with_settings(named.get("standard"), [setting])


@given(st.lists(st.integers() | st.text() | st.dictionaries(st.text(), st.booleans()), max_size=5))
def test_a_fingerprint_of_what_is_given_one_by_one_is_that_of_the_list(items: list[Any]) -> None:
    assert jsonform.fingerprint(iter(items), "a") == jsonform.fingerprint(items, "a")
    nested = (iter(items) for _ in range(2))
    assert jsonform.fingerprint(nested) == jsonform.fingerprint([items, items])


def test_a_part_may_be_written_once_for_many_fingerprints() -> None:
    recipe = named.get("smoke")
    for part in (recipe, {"b": 1, "a": [2]}, "é", None):
        assert jsonform.fingerprint(1, jsonform.Written.of(part)) == jsonform.fingerprint(1, part)
