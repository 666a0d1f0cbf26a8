"""Validation during training: full volumes through the one Predictor, shared among ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ray_brats.labels import LabelMap
from ray_brats.metrics import original
from ray_brats.metrics import scores as metrics
from ray_brats.model import unet
from ray_brats.model.predict import Predictor
from ray_brats.recipes.config import Recipe
from ray_brats.training.data import PreparedCase


@dataclass(frozen=True, kw_only=True)
class Example:
    """A validated case, for a picture."""

    case_id: str
    image_HWDC: np.ndarray[Any, Any]
    label_HWD: LabelMap
    prediction_HWD: LabelMap


def forward_of(model: Any) -> Callable[[Any], Any]:
    """A Predictor's forward function from a Keras model; one trace for all shapes."""
    network = unet.for_inference(model)
    channels = network.inputs[0].shape[-1]
    spec = tf.TensorSpec((None, None, None, None, channels), tf.float32)
    compiled = tf.function(lambda x: network(x, training=False), input_signature=[spec])
    return lambda batch: np.asarray(compiled(tf.constant(batch)).numpy(), np.float32)


def sample(count: int, most: int, seed: int) -> list[int]:
    """Which of so many cases are scored while training goes on: the same ones each time."""
    drawn = np.random.default_rng((seed, 3)).permutation(count)[:most]
    return sorted(int(number) for number in drawn)


def score_names(recipe: Recipe) -> list[str]:
    """What `scores` measures of each case: Dice of the regions, and the original's figures."""
    soft = recipe.network.output == "classes"
    return [*recipe.targets.region_names, *(original.ORIGINAL_FIGURES if soft else ())]


def scores(
    model: Any, cases: Sequence[PreparedCase], recipe: Recipe, beat: Callable[[], None]
) -> tuple[np.ndarray[Any, Any], Example | None]:
    """Each score of `score_names` of some cases.

    Args:
        model: a Keras model.
        cases: this rank's share of the validation cases.
        recipe: how probabilities become labels.
        beat: called after each case.

    Returns:
        A row a case, `(cases, scores)`, and the first case with its prediction.
    """
    predictor = Predictor([forward_of(model)], recipe)
    soft = recipe.network.output == "classes"
    rows = np.zeros((len(cases), len(score_names(recipe))))
    example = None
    for row, case in zip(rows, cases, strict=True):
        image, label = np.asarray(case.image()), np.asarray(case.label())
        probabilities = predictor.probabilities(image)
        index = predictor.decode(probabilities)
        values = [metrics.region_dice(label, index, region) for region in recipe.targets.regions]
        if soft:
            values += original.original_figures_soft(
                label, probabilities, recipe.targets.class_count
            ).values()
        row[:] = values
        if example is None:
            example = Example(
                case_id=case.case_id, image_HWDC=image, label_HWD=label, prediction_HWD=index
            )
        beat()
    return rows, example


def summary(recipe: Recipe, case_ids: Sequence[str], rows: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Mean scores over the cases of all ranks, and the Dice of each.

    Args:
        recipe: what was scored.
        case_ids: of the rows.
        rows: as of `scores`, of one case or more.
    """
    regions = recipe.targets.region_names
    averages = rows.mean(axis=0).tolist()
    dice = dict(zip(regions, averages, strict=False))
    # What follows from other regions would count twice.
    learnt = [dice[region.name] for region in recipe.targets.learnt]
    means: dict[str, Any] = {"dice": dice, "mean_dice": float(np.mean(learnt))}
    if figures := dict(
        zip(score_names(recipe)[len(regions) :], averages[len(regions) :], strict=True)
    ):
        means["original_soft_on_crops"] = figures
    means["dice_by_case"] = {
        case_id: dict(zip(regions, row[: len(regions)].tolist(), strict=True))
        for case_id, row in zip(case_ids, rows, strict=True)
    }
    return means
