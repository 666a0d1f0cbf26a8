"""Scores of a segmentation against its reference, one row per region or label.

Overlap scores follow Taha & Hanbury 2015 (BMC Medical Imaging 15:29); HD95 and surface Dice
Nikolov et al. 2018 (`distances`); lesion-wise scores the BraTS 2023 rules (`lesions`). The rules
of 2026 have a row of their own (`challenge`).
Distances are in mm, volumes in ml. A number that does not exist is None, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Final

import numpy as np

from ray_brats.arrays import Array, Mask, Spacing, bounding_box
from ray_brats.errors import UsageError
from ray_brats.labels import LabelMap, Region, Targets, mask_of
from ray_brats.metrics import challenge
from ray_brats.metrics.distances import SurfaceDistances
from ray_brats.metrics.lesions import PENALTY_MM
from ray_brats.metrics.pair import MapPair
from ray_brats.recipes.tasks import GLIOMA

CHALLENGE: Final = "2026"
RULES: Final = ("legacy", "lesionwise", "both", "2023", CHALLENGE)
_ALIASES: Final = {"2023": "both"}
MISSING_HD95_MM: Final = 373.12866
"""Legacy HD95 where exactly one mask is empty: the diagonal of a BraTS volume, 240×240×155."""
TOLERANCE_MM: Final = 1.0

LEGACY_COLUMNS: Final = (
    "dice",
    "hd95_mm",
    "iou",
    "sensitivity",
    "specificity",
    "precision",
    "surface_dice_1mm",
)
LESIONWISE_COLUMNS: Final = ("lesionwise_dice", "lesionwise_hd95_mm")
VOLUME_COLUMNS: Final = ("reference_ml", "predicted_ml", "volume_difference_ml")
SCORE_COLUMNS: Final = (*LEGACY_COLUMNS, *LESIONWISE_COLUMNS, *VOLUME_COLUMNS)
"""Every numeric column of a row under the rules of 2023, in order."""

_MM3_PER_ML: Final = 1000.0

Row = dict[str, Any]


def resolve(rules: str) -> str:
    """The rules themselves, where a name stands for others.

    Raises:
        UsageError: no rules have that name.
    """
    if rules not in RULES:
        raise UsageError(f"unknown rules {rules!r}: expected one of {', '.join(RULES)}")
    return _ALIASES.get(rules, rules)


def score_columns(rules: str, *, small: bool = False) -> tuple[str, ...]:
    """Every numeric column of a row under some rules, in order.

    Args:
        rules: one of `RULES`.
        small: whether small instances are treated apart.

    Raises:
        UsageError: no rules have that name.
    """
    if resolve(rules) != CHALLENGE:
        return SCORE_COLUMNS
    small_columns = challenge.SMALL_COLUMNS if small else ()
    return (*challenge.CHALLENGE_COLUMNS, *small_columns, *VOLUME_COLUMNS)


def case_metrics(
    reference: LabelMap,
    prediction: LabelMap,
    spacing_mm: Spacing,
    *,
    targets: Targets = GLIOMA,
    rules: str = "both",
    small_mm3: float | None = None,
) -> list[Row]:
    """Score one case in every region.

    Whole-mask scores of 2023, where both masks are empty: Dice, IoU and surface Dice 1, HD95 0 mm;
    where exactly one is: 0 and 373.12866 mm. Sensitivity, specificity and precision are None
    where their denominator is zero.

    Args:
        reference: class indices of the expert, `(H, W, D)`.
        prediction: class indices of the model, on the same grid.
        spacing_mm: size of a voxel along each axis.
        targets: what the indices mean.
        rules: `legacy` for the scores of the whole mask, `lesionwise` for those per lesion, or
            `both` (also `2023`); scores not asked for are None. `2026` for those of `challenge`.
            Volumes are always there.
        small_mm3: below which volume instances count by detection alone; see
            `instances.instance_scores`. Of the rules of 2026 only.

    Returns:
        One row per region in the order of the targets: `region`, then `score_columns` of the
        rules. `volume_difference_ml` is predicted minus reference.

    Raises:
        ValueError: the shapes differ, or a map does not hold class indices.
        UsageError: unknown rules, or a `small_mm3` that they have no use for.
    """
    how: dict[str, Any] = {"targets": targets, "rules": rules, "small_mm3": small_mm3}
    return all_metrics(reference, prediction, spacing_mm, **how)[0]


def label_metrics(
    reference: LabelMap,
    prediction: LabelMap,
    spacing_mm: Spacing,
    *,
    targets: Targets = GLIOMA,
    rules: str = "both",
    small_mm3: float | None = None,
) -> list[Row]:
    """Score one case in every label but the background.

    As `case_metrics`, with `label` in the place of `region`: the name of a class.
    Scores by lesion or instance are for regions and are None here.
    """
    how: dict[str, Any] = {"targets": targets, "rules": rules, "small_mm3": small_mm3}
    return all_metrics(reference, prediction, spacing_mm, **how)[1]


def all_metrics(
    reference: LabelMap,
    prediction: LabelMap,
    spacing_mm: Spacing,
    *,
    targets: Targets = GLIOMA,
    rules: str = "both",
    small_mm3: float | None = None,
) -> tuple[list[Row], list[Row]]:
    """Rows of `case_metrics` and of `label_metrics`, in less time than the two apart.

    Regions and labels that come to the same mask, as ET and the enhancing label always do,
    are measured once.
    """
    rules = resolve(rules)
    check_small(rules, small_mm3)
    pair = _cropped(reference, prediction, spacing_mm, targets, small_mm3)
    kind = {"lesionwise": "volumes", "both": "legacy"}.get(rules, rules)
    regions = [
        {"region": region.name, **_scores(pair, region.classes, rules)}
        for region in targets.regions
    ]
    labels = [
        {"label": targets.class_names[index], **_scores(pair, (index,), kind, by_instance=False)}
        for index in targets.indices
    ]
    return regions, labels


def check_small(rules: str, small_mm3: float | None) -> None:
    """A `UsageError` where instances are to be treated apart that the rules know nothing of."""
    if small_mm3 is None:
        return
    if rules != CHALLENGE:
        raise UsageError(f"small instances are told apart by rules {CHALLENGE} alone, not {rules}")
    if not 0 < small_mm3 < math.inf:
        raise UsageError(f"expected a positive volume in mm³ for small instances, not {small_mm3}")


def _cropped(
    reference: LabelMap,
    prediction: LabelMap,
    spacing_mm: Spacing,
    targets: Targets,
    small_mm3: float | None,
) -> MapPair:
    _check(reference, prediction, spacing_mm)
    spacing = (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2]))
    box = bounding_box(reference | prediction)
    maps = [np.ascontiguousarray(part[box]) for part in (reference, prediction)]
    most = len(targets.classes)
    if any(part.size and not 0 <= part.min() <= part.max() <= most for part in maps):
        raise ValueError(f"expected class indices from 0 to {most}, found others")
    return MapPair(maps, spacing, reference.size, small_mm3)


def _scores(
    pair: MapPair, classes: Collection[int], rules: str, *, by_instance: bool = True
) -> Row:
    """The columns of the rules, of a region or label."""
    reference, prediction = pair.masks(classes)
    volumes = _volumes(reference, prediction, pair.spacing_mm)
    row: Row = dict.fromkeys(SCORE_COLUMNS)
    if rules == CHALLENGE:
        return challenge.row(pair, classes, by_instance=by_instance) | volumes
    if rules in ("legacy", "both"):
        row |= _legacy_scores(reference, prediction, pair.distances(classes), pair.voxels)
    if rules in ("lesionwise", "both"):
        row |= zip(LESIONWISE_COLUMNS, pair.lesionwise(classes), strict=True)
    return row | volumes


def missing_prediction_metrics(
    reference: LabelMap,
    spacing_mm: Spacing,
    *,
    targets: Targets = GLIOMA,
    rules: str = "both",
    small_mm3: float | None = None,
) -> list[Row]:
    """Rows of a case that has no usable prediction; nothing in them rewards its absence.

    They are scored as against an empty prediction, except that every Dice and IoU is 0 and
    every distance its penalty, 373.12866 mm (lesion-wise 374 mm), also where the reference
    region is empty; by the rules of 2026 every score is 0 and every distance infinite. Arguments,
    order and errors are those of `case_metrics`.
    """
    nothing = np.zeros_like(reference)
    how: dict[str, Any] = {"targets": targets, "rules": rules, "small_mm3": small_mm3}
    rows = case_metrics(reference, nothing, spacing_mm, **how)
    return _punished(rows, rules)


def missing_prediction_label_metrics(
    reference: LabelMap,
    spacing_mm: Spacing,
    *,
    targets: Targets = GLIOMA,
    rules: str = "both",
    small_mm3: float | None = None,
) -> list[Row]:
    """`missing_prediction_metrics` by label."""
    nothing = np.zeros_like(reference)
    how: dict[str, Any] = {"targets": targets, "rules": rules, "small_mm3": small_mm3}
    rows = label_metrics(reference, nothing, spacing_mm, **how)
    return _punished(rows, rules)


def _punished(rows: list[Row], rules: str) -> list[Row]:
    if rules == CHALLENGE:
        return [challenge.punished(row) for row in rows]
    worst = {
        "dice": 0.0,
        "hd95_mm": MISSING_HD95_MM,
        "iou": 0.0,
        "surface_dice_1mm": 0.0,
        "lesionwise_dice": 0.0,
        "lesionwise_hd95_mm": PENALTY_MM,
    }
    return [
        row | {name: value for name, value in worst.items() if row[name] is not None}
        for row in rows
    ]


def _check(reference: Array, prediction: Array, spacing_mm: Spacing) -> None:
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise ValueError(
            f"the reference has shape {reference.shape}, the prediction {prediction.shape}: "
            "expected the same three axes; resample the prediction to the reference's grid"
        )
    if not all(np.issubdtype(part.dtype, np.integer) for part in (reference, prediction)):
        raise ValueError(
            f"expected whole-number class indices, not {reference.dtype} and {prediction.dtype}"
        )
    if len(spacing_mm) != 3 or not all(0 < size < math.inf for size in spacing_mm):
        raise ValueError(f"expected three positive voxel sizes in mm, not {spacing_mm}")


def _legacy_scores(
    reference: Mask, prediction: Mask, distances: SurfaceDistances | None, total_voxels: int
) -> Row:
    """Scores of the whole mask; `total_voxels` counts the uncropped volume."""
    both = int(np.count_nonzero(reference & prediction))
    actual = int(np.count_nonzero(reference))
    predicted = int(np.count_nonzero(prediction))
    either = actual + predicted - both
    if distances:
        hd95_mm, surface_dice = distances.hd95_mm, distances.surface_dice(TOLERANCE_MM)
    else:
        hd95_mm, surface_dice = (MISSING_HD95_MM, 0.0) if either else (0.0, 1.0)
    return {
        "dice": 2 * both / (actual + predicted) if either else 1.0,
        "hd95_mm": hd95_mm,
        "iou": both / either if either else 1.0,
        "sensitivity": _ratio(both, actual),
        "specificity": _ratio(total_voxels - either, total_voxels - actual),
        "precision": _ratio(both, predicted),
        "surface_dice_1mm": surface_dice,
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _volumes(reference: Mask, prediction: Mask, spacing_mm: Spacing) -> Row:
    voxel_ml = math.prod(spacing_mm) / _MM3_PER_ML
    actual, predicted = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    values = (actual * voxel_ml, predicted * voxel_ml, (predicted - actual) * voxel_ml)
    return dict(zip(VOLUME_COLUMNS, values, strict=True))


def region_dice(reference: LabelMap, prediction: LabelMap, region: Region) -> float:
    """Dice of one region of two class-index maps of one shape; 1 where both are empty."""
    truth, predicted = (mask_of(index, region.classes) for index in (reference, prediction))
    total = int(np.count_nonzero(truth)) + int(np.count_nonzero(predicted))
    return 2.0 * int(np.count_nonzero(truth & predicted)) / total if total else 1.0
