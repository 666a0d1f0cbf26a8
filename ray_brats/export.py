"""`export`: a run's checkpoint to a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_brats import bundle, checkpoint, config, storage, unet
from ray_brats.config import Recipe
from ray_brats.errors import UsageError
from ray_brats.trainingset import bundle_is_there


def export_run(
    run_uri: str, bundle_uri: str, name: str | None, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write the best or a named checkpoint of a run as a bundle; returns its card.

    Raises:
        UsageError: no run, or no checkpoint of that name.
    """
    description = storage.read_json_or_none(storage.join(run_uri, "run.json"))
    if description is None:
        raise UsageError(f"{run_uri} is no run: expected what `ray-brats train` writes")
    recipe = config.from_json(Recipe, description["recipe"])
    there = checkpoint.list_checkpoints(storage.join(run_uri, "checkpoints"))
    if name is not None:
        there = [item for item in there if storage.name_of(item.uri) == name]
    if not there:
        wanted = f"checkpoint {name}" if name else "complete checkpoint"
        raise UsageError(f"{run_uri} has no {wanted}: see {run_uri}/checkpoints")
    chosen = checkpoint.best(there)
    model = unet.build(recipe.network, len(recipe.preprocess.modalities), seed=0)
    checkpoint.restore({"averaged": [weight.value for weight in model.weights]}, chosen.uri)
    if facts is None:
        earlier = (
            bundle.read_card(storage.join(run_uri, "bundle")) if bundle_is_there(run_uri) else {}
        )
        facts = {name: earlier.get(name) for name in ("release", "training_cases_sha256")}
    scores = {
        key: chosen.facts[key]
        for key in ("dice", "mean_dice", "original_soft_on_crops")
        if key in chosen.facts
    }
    measured = {"step": chosen.step, "validation": scores, "cases": description["cases"]}
    return bundle.write(model, recipe, bundle_uri, facts={**facts, "measured": measured})
