"""The folder of a training run, read: its checkpoints, what made them, its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.model.card import CARD
from ray_brats.recipes import jsonform
from ray_brats.recipes.config import Recipe
from ray_brats.training import checkpoint
from ray_brats.training.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One checkpoint of a run, with what `run.json` says of the run."""

    run_uri: str
    recipe: Recipe
    cases: Mapping[str, int]
    """How many, for `training` and `validation`."""
    facts: Mapping[str, Any]
    """Of the model card: `release`, and the sha256 of each case's image."""
    checkpoint: Checkpoint


def choose(run_uri: str, name: str | None = None) -> Trained:
    """The best checkpoint of a run by validation, or the one of that name.

    Raises:
        UsageError: no run, or no checkpoint of that name.
    """
    description = storage.read_json_or_none(storage.join(run_uri, "run.json"))
    if description is None or not {"recipe", "cases"} <= set(description):
        raise UsageError(f"{run_uri} is no run: expected what `ray-brats train` writes")
    there = checkpoint.list_checkpoints(storage.join(run_uri, "checkpoints"))
    named = [item for item in there if name in (None, storage.name_of(item.uri))]
    if not named:
        wanted = f"checkpoint {name}" if name else "complete checkpoint"
        names = ", ".join(storage.name_of(item.uri) for item in there)
        raise UsageError(f"{run_uri} has no {wanted}; it has {names or 'none'}")
    return Trained(
        run_uri=run_uri,
        recipe=jsonform.from_json(Recipe, description["recipe"]),
        cases=description["cases"],
        facts=_facts(run_uri, description),
        checkpoint=checkpoint.best(named),
    )


def _facts(run_uri: str, description: Mapping[str, Any]) -> dict[str, Any]:
    if "release" not in description:
        # Runs of before that was written down, of which exporting again mends an old bundle.
        description = storage.read_json_or_none(storage.join(run_uri, "bundle", CARD)) or {}
    if "release" not in description:
        raise UsageError(
            f"{run_uri} does not say whose labels it was trained on, and has no bundle that does: "
            "go on with it by `ray-brats train DATASET RUN --resume`, which writes both"
        )
    names = ("release", "training_cases_sha256", "validation_cases_sha256")
    return {name: description.get(name) for name in names}


def bundle_is_there(run_uri: str) -> bool:
    """Whether a run has written its bundle, which comes last."""
    return storage.exists(storage.join(run_uri, "bundle", CARD))
