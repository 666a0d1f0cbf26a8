"""A row by the rules of 2026: its columns, every corner, a missing mask, and a slow version."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from classes import ENHANCING, NECROTIC
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ray_brats.arrays import Mask
from ray_brats.metrics import challenge, scores

from .masks import (
    CUBE,
    EMPTY,
    QUICK,
    SPACINGS,
    UNIT_MM,
    as_label_map,
    box_mask,
    cube,
    score,
    two_masks,
)

VOXEL = box_mask((10, 10, 10), cube((4, 4, 4), 1))
WHOLE = np.ones((10, 10, 10), bool)
NSD = ("nsd_1mm", "nsd_05mm", "nsd_2mm", "nsd_voxel")
DISTANCES = ("hd95_pooled_mm", "instance_hd95_pooled_mm")
COLUMNS = [
    *("dice", "nsd_1mm", "nsd_05mm", "nsd_2mm", "hd95_pooled_mm", "instance_dice"),
    *("instance_nsd_1mm", "tp", "fp", "fn", "detection_f1", "detection_precision"),
    *("detection_recall", "instance_hd95_pooled_mm", "nsd_voxel", "instance_nsd_voxel"),
    *("reference_ml", "predicted_ml", "volume_difference_ml"),
]
SCORES = [name for name in COLUMNS[:-3] if name not in ("tp", "fp", "fn", *DISTANCES)]
"""Numbers of which 1 is the best and 0 the worst."""


def judged(reference: Mask, prediction: Mask, spacing_mm=UNIT_MM, **options: Any) -> dict[str, Any]:
    return score(reference, prediction, spacing_mm, rules="2026", **options)


def test_the_columns_are_these_in_this_order():
    assert list(judged(CUBE, CUBE)) == ["region", *COLUMNS]
    assert scores.score_columns("2026") == tuple(COLUMNS)
    small = ["small_tp", "small_fn", "small_f1"]
    expected = ["region", *COLUMNS[:-3], *small, *COLUMNS[-3:]]
    assert list(judged(CUBE, CUBE, small_mm3=20.0)) == expected
    assert set(scores.score_columns("2026", small=True)) == {*COLUMNS, *small}


def test_a_shifted_cube_on_paper():
    """A cube of 4³ moved by one: of 56 border voxels 20 lie on no border voxel of the other."""
    row = judged(CUBE, np.roll(CUBE, 1, 0))
    assert row["dice"] == row["instance_dice"] == 0.75
    assert row["nsd_1mm"] == row["nsd_2mm"] == row["nsd_voxel"] == row["instance_nsd_1mm"] == 1.0
    assert row["nsd_05mm"] == pytest.approx(36 / 56)
    assert row["hd95_pooled_mm"] == row["instance_hd95_pooled_mm"] == 1.0
    assert (row["tp"], row["fp"], row["fn"], row["detection_f1"]) == (1, 0, 0, 1.0)
    assert row["reference_ml"] == 0.064


def test_tolerances_are_in_mm():
    row = judged(CUBE, np.roll(CUBE, 1, 0), (2.0, 2.0, 2.0))
    assert row["nsd_05mm"] == row["nsd_1mm"] == pytest.approx(36 / 56)
    assert row["nsd_2mm"] == row["nsd_voxel"] == 1.0
    assert row["instance_nsd_1mm"] == pytest.approx(36 / 56)
    assert row["instance_nsd_voxel"] == 1.0
    assert row["hd95_pooled_mm"] == 2.0


@pytest.mark.parametrize("mask", [VOXEL, CUBE, WHOLE], ids=["voxel", "cube", "whole"])
def test_a_mask_against_itself_is_perfect(mask):
    row = judged(mask, mask)
    assert {row[name] for name in SCORES} == {1.0}
    assert {row[name] for name in DISTANCES} == {0.0}
    assert (row["tp"], row["fp"], row["fn"]) == (1, 0, 0)


def test_both_empty_has_no_scores():
    row = judged(EMPTY, EMPTY)
    assert {row[name] for name in (*SCORES, *DISTANCES)} == {None}
    assert (row["tp"], row["fp"], row["fn"]) == (0, 0, 0)
    assert (row["reference_ml"], row["predicted_ml"]) == (0.0, 0.0)


@pytest.mark.parametrize("mask", [VOXEL, CUBE, WHOLE], ids=["voxel", "cube", "whole"])
def test_one_empty_is_0_and_infinitely_far(mask):
    for reference, prediction in ((mask, EMPTY), (EMPTY, mask)):
        row = judged(reference, prediction)
        gone = "detection_precision" if not prediction.any() else "detection_recall"
        assert row[gone] is None
        assert {row[name] for name in SCORES if name != gone} == {0.0}
        assert {row[name] for name in DISTANCES} == {None}
        assert (row["tp"], row["fp"], row["fn"]) == (0, int(prediction.any()), int(reference.any()))


def test_masks_that_share_no_voxel_are_infinitely_far_too():
    row = judged(VOXEL, np.roll(VOXEL, 1, 0))
    assert {row[name] for name in SCORES} == {0.0}, "within 1 mm, and yet 0: so panoptica has it"
    assert {row[name] for name in DISTANCES} == {None}
    assert (row["tp"], row["fp"], row["fn"]) == (0, 1, 1)


def test_one_voxel_against_the_whole_volume():
    row = judged(VOXEL, WHOLE)
    assert row["dice"] == row["instance_dice"] == 2 / 1001
    border = 10**3 - 8**3
    assert row["nsd_1mm"] == 0.0
    assert row["tp"] == 1
    distances = ndimage.distance_transform_edt(~VOXEL)[WHOLE & ~ndimage.binary_erosion(WHOLE)]
    assert len(distances) == border
    assert row["hd95_pooled_mm"] == pytest.approx(np.percentile([4.0, *distances], 95))


def test_labels_are_scored_by_the_whole_mask_alone():
    index = np.where(CUBE, np.uint8(ENHANCING), np.uint8(0))
    index[4, 4, 4] = NECROTIC
    necrotic, edema, enhancing = scores.label_metrics(index, index, UNIT_MM, rules="2026")
    assert (necrotic["dice"], edema["dice"], enhancing["nsd_1mm"]) == (1.0, None, 1.0)
    told = {necrotic[name] for name in ("tp", "instance_dice", "detection_f1")}
    assert told == {None}
    missing = scores.missing_prediction_label_metrics(index, UNIT_MM, rules="2026")
    assert {row["dice"] for row in missing} == {row["nsd_voxel"] for row in missing} == {0.0}
    assert {row["instance_dice"] for row in missing} == {None}


@pytest.mark.parametrize("reference", [EMPTY, VOXEL, CUBE, WHOLE])
def test_a_missing_prediction_has_the_worst_of_every_score(reference):
    index = as_label_map(reference)
    for row in scores.missing_prediction_metrics(index, UNIT_MM, rules="2026"):
        assert {row[name] for name in SCORES} == {0.0}
        assert {row[name] for name in DISTANCES} == {None}
        assert {challenge.counted(row, name) for name in DISTANCES} == {373.0}
        assert (row["tp"], row["fp"], row["fn"]) == (0, 0, int(reference.any()))
        assert row["predicted_ml"] == 0.0


def test_an_infinite_distance_counts_as_373_mm_and_one_that_is_none_does_not():
    infinite, none, known = judged(CUBE, EMPTY), judged(EMPTY, EMPTY), judged(CUBE, CUBE)
    for name in DISTANCES:
        assert challenge.counted(infinite, name) == 373.0
        assert challenge.counted(none, name) is None
        assert challenge.counted(known, name) == 0.0
    assert challenge.counted({"hd95_pooled_mm": math.nan, "dice": 0.0}, "hd95_pooled_mm") == 373.0
    twin = {"hd95_pooled_mm": math.nan, "dice": math.nan}
    assert challenge.counted(twin, "hd95_pooled_mm") is None
    assert challenge.counted({"hd95_mm": None, "dice": 0.0}, "hd95_mm") is None


@QUICK
@given(two_masks(), SPACINGS)
def test_scores_are_symmetric_and_bounded(masks, spacing_mm):
    row, swapped = judged(*masks, spacing_mm), judged(*masks[::-1], spacing_mm)
    for name in ("dice", *NSD, "hd95_pooled_mm", "detection_f1", "tp"):
        assert row[name] == swapped[name]
    assert (row["fp"], row["detection_precision"]) == (swapped["fn"], swapped["detection_recall"])
    assert row["instance_dice"] == pytest.approx(swapped["instance_dice"])
    for name in SCORES:
        assert row[name] is None or (type(row[name]) is float and 0 <= row[name] <= 1)
    nsd = [row[name] for name in ("nsd_05mm", "nsd_1mm", "nsd_2mm")]
    assert nsd == sorted(nsd, key=lambda value: value or 0.0)


def slow_numbers(reference: Mask, prediction: Mask, spacing_mm) -> list[float]:
    """Dice, NSD at 1 mm and HD95 of two masks that share a voxel, from whole volumes."""
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (reference, prediction)]
    away_mm = [
        ndimage.distance_transform_edt(~other, sampling=spacing_mm)[own]
        for own, other in (borders, borders[::-1])
    ]
    dice = 2 * (reference & prediction).sum() / (reference.sum() + prediction.sum())
    nsd = sum((part <= 1 + 1e-9).mean() for part in away_mm) / 2
    return [dice, nsd, float(np.percentile(np.concatenate(away_mm), 95))]


def slow_row(reference: Mask, prediction: Mask, spacing_mm) -> dict[str, Any]:
    """The rules step by step; the best of all ways to match, and its means without NSD ties."""
    parts = [ndimage.label(mask, np.ones((3, 3, 3))) for mask in (reference, prediction)]
    own, other = ([labels == i for i in range(1, count + 1)] for labels, count in parts)
    few, many = sorted((own, other), key=len)
    best: list[tuple[Mask, Mask]] = []
    for order in itertools.permutations(range(len(many)), len(few)):
        pairs = [(few[i], many[j]) for i, j in enumerate(order) if (few[i] & many[j]).any()]
        best = max(best, pairs, key=lambda found: sum(dice_of(*pair) for pair in found))
    tp, fn, fp = len(best), len(own) - len(best), len(other) - len(best)
    whole = slow_numbers(reference, prediction, spacing_mm) if best else [0.0, 0.0, None]
    nothing = not own and not other
    return {
        **dict(zip(("dice", "nsd_1mm", "hd95_pooled_mm"), whole, strict=True)),
        "instance_dice": np.mean([dice_of(*pair) for pair in best]) if best else 0.0,
        **({"dice": None, "nsd_1mm": None, "instance_dice": None} if nothing else {}),
        **{"tp": tp, "fp": fp, "fn": fn},
        "detection_f1": None if nothing else 2 * tp / (2 * tp + fp + fn),
    }


def dice_of(own: Mask, other: Mask) -> float:
    return float(2 * (own & other).sum() / (own.sum() + other.sum()))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), SPACINGS, st.floats(0.02, 0.1))
def test_rows_agree_with_the_rules_step_by_step(seed, spacing_mm, density):
    random = np.random.default_rng(seed)
    masks = [
        ndimage.binary_dilation(random.random((9, 8, 7)) < density / 3, iterations=1)
        for _ in range(2)
    ]
    # More can be matched in too many ways for a slow version.
    assume(all(ndimage.label(mask, np.ones((3, 3, 3)))[1] <= 6 for mask in masks))
    row, expected = judged(*masks, spacing_mm), slow_row(*masks, spacing_mm)
    for name, value in expected.items():
        assert row[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name
