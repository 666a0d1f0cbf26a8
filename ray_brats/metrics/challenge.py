"""The rules of 2026: Dice, NSD and HD95 of the whole mask and of its instances, in one row.

They are those of the evaluator that the BraTS challenge uses since (package BraTS-evaluation
0.0.10 on `panoptica` 2.1.7). The numbers are those of `borders` and `instances`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np

from ray_brats.metrics.instances import INFINITE_HD95_MM, TOLERANCE_MM, InstanceScores
from ray_brats.metrics.pair import MapPair

Row = dict[str, Any]

WHOLE_COLUMNS: Final = ("dice", "nsd_1mm", "nsd_05mm", "nsd_2mm", "hd95_pooled_mm")
COUNT_COLUMNS: Final = ("tp", "fp", "fn")
CHALLENGE_COLUMNS: Final = (
    *WHOLE_COLUMNS,
    "instance_dice",
    "instance_nsd_1mm",
    *COUNT_COLUMNS,
    "detection_f1",
    "detection_precision",
    "detection_recall",
    "instance_hd95_pooled_mm",
    "nsd_voxel",
    "instance_nsd_voxel",
)
"""What is measured; `voxel` stands for a tolerance of the smallest side of a voxel."""
SMALL_COLUMNS: Final = ("small_tp", "small_fn", "small_f1")
"""Detection of the small instances, where they are treated apart."""

_TOLERANCES_MM: Final = {"nsd_1mm": TOLERANCE_MM, "nsd_05mm": 0.5, "nsd_2mm": 2.0}
_INFINITE: Final = {"hd95_pooled_mm": "dice", "instance_hd95_pooled_mm": "instance_dice"}
"""Distances that may be infinite, to the score that exists where they are."""
_UNLIKE_SCORES: Final = (*COUNT_COLUMNS, *_INFINITE)
"""Columns of which 0 is not the worst: counts, and distances, whose worst is infinite, or null."""


def row(pair: MapPair, classes: Collection[int], *, by_instance: bool = True) -> Row:
    """Scores of a region or label: `CHALLENGE_COLUMNS`, then `SMALL_COLUMNS` where they are apart.

    Without `by_instance` what is told of instances is None.
    """
    small = pair.small_mm3 is not None
    columns = (*CHALLENGE_COLUMNS, *(SMALL_COLUMNS if small else ()))
    found = _by_instance(pair.instances(classes)) if by_instance else {}
    known = _whole(pair, classes) | found
    return {name: known.get(name) for name in columns}


def _whole(pair: MapPair, classes: Collection[int]) -> Row:
    """Scores of the whole mask: Dice, NSD at each tolerance and HD95 over both borders.

    Where both masks are empty none of them exists. Where one is, or where they share no voxel,
    Dice and NSD are 0 and HD95 is infinite, which is None.
    """
    names = (*WHOLE_COLUMNS, "nsd_voxel")
    reference, prediction = pair.masks(classes)
    total = int(np.count_nonzero(reference)) + int(np.count_nonzero(prediction))
    if not total:
        return dict.fromkeys(names)
    both = int(np.count_nonzero(reference & prediction))
    distances = pair.border_distances(classes) if both else None
    if distances is None:
        return {name: None if name == "hd95_pooled_mm" else 0.0 for name in names}
    return {
        "dice": 2 * both / total,
        **{name: distances.nsd(size_mm) for name, size_mm in _TOLERANCES_MM.items()},
        "nsd_voxel": distances.nsd(min(pair.spacing_mm)),
        "hd95_pooled_mm": distances.hd95_mm,
    }


def _by_instance(found: InstanceScores) -> Row:
    small = found.small
    return {
        "instance_dice": found.dice,
        "instance_nsd_1mm": found.nsd_1mm,
        "instance_nsd_voxel": found.nsd_voxel,
        "instance_hd95_pooled_mm": found.hd95_mm,
        "tp": found.tp,
        "fp": found.fp,
        "fn": found.fn,
        "detection_f1": found.f1,
        "detection_precision": found.precision,
        "detection_recall": found.recall,
        **({"small_tp": small.tp, "small_fn": small.fn, "small_f1": small.f1} if small else {}),
    }


def punished(row: Row) -> Row:
    """A row against an empty prediction, turned into that of a missing one.

    Every score is 0 and every distance infinite, also where the reference is empty; the counts
    stay, and what the row does not measure.
    """
    measured = CHALLENGE_COLUMNS if row["tp"] is not None else (*WHOLE_COLUMNS, "nsd_voxel")
    return row | {name: 0.0 for name in measured if name not in _UNLIKE_SCORES}


def counted(row: Mapping[str, Any], name: str) -> float | None:
    """A row's number as a mean counts it, under any rules; None where there is none.

    An infinite distance is null in the row; the challenge counts it as 373 mm. A table that was
    read back may hold NaN for null.
    """
    value = _number(row[name])
    if value is None and name in _INFINITE and _number(row.get(_INFINITE[name])) is not None:
        return INFINITE_HD95_MM
    return value


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
