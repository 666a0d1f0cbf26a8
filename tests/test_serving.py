"""What the options of `serve` mean, before anything starts."""

from __future__ import annotations

import pytest

from ray_brats import modelcard, serving, storage
from ray_brats.errors import UsageError


def test_bundles_of_one_name_are_one_model_and_keep_their_pins() -> None:
    models, pinned = serving.named(["fast=a", "exact=b", "exact=c"], ["1", "2", "3"])
    assert models == {
        "fast": (storage.absolute("a"),),
        "exact": (storage.absolute("b"), storage.absolute("c")),
    }
    assert pinned == {"fast": ("1",), "exact": ("2", "3")}


def test_without_a_bundle_the_starter_is_served() -> None:
    assert serving.named([], []) == ({"default": (modelcard.STARTER,)}, {})


def test_pins_are_one_a_bundle_or_none() -> None:
    with pytest.raises(UsageError, match="--bundle-sha256 names 1 and --bundle 2: expected one"):
        serving.named(["a", "b"], ["1"])
