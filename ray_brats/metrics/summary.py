"""Scores of a cohort summed up: means, medians, intervals of the mean, empty masks counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Final

import numpy as np

from ray_brats.labels import Targets
from ray_brats.metrics.challenge import counted
from ray_brats.metrics.original import ORIGINAL_FIGURES
from ray_brats.metrics.scores import SCORE_COLUMNS
from ray_brats.recipes.tasks import GLIOMA

_RESAMPLES: Final = 2000
_SEED: Final = 20230601
_RESAMPLE_BLOCK: Final = 4_000_000


def summarise(
    rows: Sequence[Mapping[str, Any]],
    originals: Sequence[Mapping[str, float]],
    columns: Sequence[str] = SCORE_COLUMNS,
    targets: Targets = GLIOMA,
) -> dict[str, Any]:
    """Sum up a cohort; the order of rows does not matter.

    Args:
        rows: rows of `case_metrics`, each with its `case_id` added.
        originals: `original_figures` of each case.
        columns: `score_columns` of the rules that the rows follow.
        targets: what was scored.

    Returns:
        `{"cases": n, "regions": {region: {column: {"mean", "median", "ci95": [low, high]},
        "empty_references": n, "empty_predictions": n}}, "original": {figure: mean}}` with all
        `columns`. `ci95` is the percentile interval of the mean over 2000
        seeded bootstrap resamples of the cases (Efron & Tibshirani 1993). Values that do not
        exist are left out; where none is left, the numbers are None. An infinite HD95 of the
        rules of 2026 counts as 373 mm.
    """
    return {
        "cases": len({row["case_id"] for row in rows}),
        "regions": {
            region: _summary_of([row for row in rows if row["region"] == region], columns)
            for region in targets.region_names
        },
        "original": {name: _mean(_existing(originals, name)) for name in ORIGINAL_FIGURES},
    }


def summarise_labels(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] = SCORE_COLUMNS,
    targets: Targets = GLIOMA,
) -> dict[str, Any]:
    """Sum up the rows of `label_metrics` as `summarise` does regions: label to its numbers."""
    return {
        name: _summary_of([row for row in rows if row["label"] == name], columns)
        for name in targets.class_names[1:]
    }


def _summary_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    return {
        **{name: _spread(_existing(rows, name)) for name in columns},
        "empty_references": sum(row["reference_ml"] == 0 for row in rows),
        "empty_predictions": sum(row["predicted_ml"] == 0 for row in rows),
    }


def _existing(rows: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """Sorted values of a column, as a mean counts them."""
    values = (counted(row, name) for row in rows)
    return sorted(value for value in values if value is not None)


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _spread(values: list[float]) -> dict[str, Any]:
    if not values:
        return {"mean": None, "median": None, "ci95": [None, None]}
    return {"mean": _mean(values), "median": median(values), "ci95": interval(values)}


def interval(values: Sequence[float]) -> list[float]:
    """Bootstrap percentile interval of the mean; the same values give the same interval."""
    array, random = np.array(values), np.random.default_rng(_SEED)
    block = max(1, _RESAMPLE_BLOCK // array.size)  # a fixed share of memory for any cohort
    means = [
        array[random.integers(array.size, size=(min(block, _RESAMPLES - done), array.size))].mean(
            axis=1
        )
        for done in range(0, _RESAMPLES, block)
    ]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return [float(low), float(high)]
