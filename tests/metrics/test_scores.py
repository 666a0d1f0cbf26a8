"""Scores of a case: on paper, laws that hold for any mask, empty masks, rules, and time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from classes import CLASS_COUNT, CLASS_NAMES, EDEMA, ENHANCING, NECROTIC
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases import cohort, volume
from ray_brats.errors import UsageError
from ray_brats.labels import BACKGROUND, LabelMap
from ray_brats.metrics import lesions, original, scores

from .masks import (
    CUBE,
    EMPTY,
    QUICK,
    SMALL_MASKS,
    SPACINGS,
    UNIT_MM,
    as_label_map,
    box_mask,
    cube,
    perturbed,
    score,
    two_masks,
)


def test_shifted_cube_overlap():
    reference = box_mask((12, 12, 12), cube((2, 2, 2), 4))
    prediction = box_mask((12, 12, 12), cube((3, 2, 2), 4))
    row = score(reference, prediction, (1.0, 1.0, 2.0))
    assert row["dice"] == 0.75
    assert row["iou"] == 48 / 80
    assert row["sensitivity"] == row["precision"] == 0.75
    assert row["specificity"] == (12**3 - 80) / (12**3 - 64)
    assert row["hd95_mm"] == 1.0
    assert row["surface_dice_1mm"] == 1.0
    assert row["reference_ml"] == row["predicted_ml"] == 0.128
    assert row["volume_difference_ml"] == 0.0


@QUICK
@given(two_masks(), SPACINGS)
def test_scores_are_symmetric_and_bounded(masks, spacing_mm):
    reference, prediction = masks
    row, swapped = (
        score(reference, prediction, spacing_mm),
        score(prediction, reference, spacing_mm),
    )
    for name in ("dice", "iou", "hd95_mm", "surface_dice_1mm"):
        assert row[name] == swapped[name]
    assert row["sensitivity"] == swapped["precision"]
    for name in scores.SCORE_COLUMNS:
        if row[name] is None:
            continue
        assert type(row[name]) is float
        if name.endswith("_mm"):
            assert 0 <= row[name] <= lesions.PENALTY_MM
        elif not name.endswith("_ml"):
            assert 0 <= row[name] <= 1


@QUICK
@given(two_masks(), SPACINGS, st.sets(st.integers(0, 2)))
def test_scores_are_the_same_in_a_mirror(masks, spacing_mm, axes):
    mirrored = [np.flip(mask, tuple(axes)) for mask in masks]
    row, twin = score(*masks, spacing_mm), score(*mirrored, spacing_mm)
    for name in scores.SCORE_COLUMNS:
        assert row[name] == pytest.approx(twin[name], abs=1e-9)


@QUICK
@given(SMALL_MASKS)
def test_a_mask_against_itself_is_perfect(mask):
    row = score(mask, mask)
    assert (row["dice"], row["hd95_mm"], row["iou"], row["surface_dice_1mm"]) == (1, 0, 1, 1)
    assert (row["lesionwise_dice"], row["lesionwise_hd95_mm"]) == (1.0, 0.0)


def test_both_empty_is_perfect_and_has_no_sensitivity():
    assert score(EMPTY, EMPTY) == {
        "region": "WT",
        "dice": 1.0,
        "hd95_mm": 0.0,
        "iou": 1.0,
        "sensitivity": None,
        "specificity": 1.0,
        "precision": None,
        "surface_dice_1mm": 1.0,
        "lesionwise_dice": 1.0,
        "lesionwise_hd95_mm": 0.0,
        "reference_ml": 0.0,
        "predicted_ml": 0.0,
        "volume_difference_ml": 0.0,
    }


@pytest.mark.parametrize(("reference", "prediction"), [(CUBE, EMPTY), (EMPTY, CUBE)])
def test_exactly_one_empty_takes_the_penalty(reference, prediction):
    row = score(reference, prediction)
    assert (row["dice"], row["hd95_mm"], row["iou"]) == (0.0, 373.12866, 0.0)
    assert (row["lesionwise_dice"], row["lesionwise_hd95_mm"]) == (0.0, 374.0)
    assert row["surface_dice_1mm"] == 0.0
    assert row["sensitivity"] == (0.0 if reference.any() else None)
    assert row["precision"] == (0.0 if prediction.any() else None)


def test_a_reference_that_fills_the_volume_has_no_specificity():
    assert score(np.ones((4, 4, 4), bool), CUBE[:4, :4, :4])["specificity"] is None


def test_regions_join_their_classes():
    reference = np.zeros((10, 10, 10), np.uint8)
    reference[2:8, 2:8, 2:8] = EDEMA
    reference[3:6, 3:6, 3:6] = NECROTIC
    reference[4, 4, 4] = ENHANCING
    prediction = np.where(reference == NECROTIC, np.uint8(ENHANCING), reference)
    whole, core, enhancing = scores.case_metrics(reference, prediction, UNIT_MM)
    assert (whole["dice"], core["dice"]) == (1.0, 1.0)
    assert enhancing["dice"] == 2 / 28
    assert [row["reference_ml"] for row in (whole, core, enhancing)] == [0.216, 0.027, 0.001]
    assert enhancing["volume_difference_ml"] == pytest.approx(0.026)


def test_each_label_is_scored_for_itself():
    reference = np.zeros((10, 10, 10), np.uint8)
    reference[2:8, 2:8, 2:8] = EDEMA
    reference[3:6, 3:6, 3:6] = NECROTIC
    prediction = np.where(reference == NECROTIC, np.uint8(ENHANCING), reference)
    prediction[2, 2, 2] = BACKGROUND
    necrotic, edema, enhancing = scores.label_metrics(reference, prediction, (1.0, 1.0, 2.0))
    assert [row["label"] for row in (necrotic, edema, enhancing)] == list(CLASS_NAMES[1:])
    assert (necrotic["dice"], enhancing["dice"]) == (0.0, 0.0)
    assert edema["dice"] == 2 * 188 / (189 + 188)
    assert (edema["precision"], edema["sensitivity"]) == (1.0, 188 / 189)
    assert (edema["reference_ml"], edema["predicted_ml"]) == (0.378, 0.376)
    assert edema["lesionwise_dice"] is None
    region = scores.case_metrics(reference, prediction, (1.0, 1.0, 2.0), rules="legacy")[2]
    assert [enhancing[name] for name in scores.SCORE_COLUMNS] == [
        region[name] for name in scores.SCORE_COLUMNS
    ], "a region of one label and that label score the same"


def test_labels_heed_the_rules_and_a_missing_prediction():
    cube = as_label_map(CUBE)
    lesionwise = scores.label_metrics(cube, cube, UNIT_MM, rules="lesionwise")
    assert [(row["dice"], row["reference_ml"]) for row in lesionwise] == [
        (None, 0.0),
        (None, 0.0),
        (None, 0.064),
    ]
    missing = scores.missing_prediction_label_metrics(cube, UNIT_MM)
    assert [(row["dice"], row["hd95_mm"]) for row in missing] == [(0.0, 373.12866)] * 3


def test_rules_choose_the_columns():
    legacy, lesionwise = (score(CUBE, CUBE, rules=rules) for rules in ("legacy", "lesionwise"))
    both = score(CUBE, CUBE)
    for name in scores.LEGACY_COLUMNS:
        assert (legacy[name], lesionwise[name]) == (both[name], None)
    for name in scores.LESIONWISE_COLUMNS:
        assert (legacy[name], lesionwise[name]) == (None, both[name])
    assert legacy["reference_ml"] == lesionwise["reference_ml"] == 0.064
    assert tuple(both) == ("region", *scores.SCORE_COLUMNS)


def test_2023_is_a_name_for_both():
    assert score(CUBE, np.roll(CUBE, 1, 0), rules="2023") == score(CUBE, np.roll(CUBE, 1, 0))
    assert scores.resolve("2023") == "both"
    assert scores.score_columns("2023") == scores.score_columns("legacy") == scores.SCORE_COLUMNS


def test_small_instances_are_of_the_rules_of_2026_alone():
    cube = as_label_map(CUBE)
    with pytest.raises(UsageError, match="2026 alone, not both"):
        scores.case_metrics(cube, cube, UNIT_MM, small_mm3=20.0)
    with pytest.raises(UsageError, match="positive volume"):
        scores.case_metrics(cube, cube, UNIT_MM, rules="2026", small_mm3=0.0)


def test_memory_layout_does_not_matter():
    reference, prediction = as_label_map(CUBE), as_label_map(np.roll(CUBE, 1, 2))
    expected = scores.case_metrics(reference, prediction, UNIT_MM)
    fortran = scores.case_metrics(np.asfortranarray(reference), prediction[::1], UNIT_MM)
    assert fortran == expected


def test_what_cannot_be_scored_is_refused():
    maps = as_label_map(CUBE), as_label_map(CUBE[:9])
    with pytest.raises(ValueError, match=r"\(10, 10, 10\).*\(9, 10, 10\)"):
        scores.case_metrics(*maps, UNIT_MM)
    with pytest.raises(UsageError, match="legacy, lesionwise, both"):
        scores.case_metrics(maps[0], maps[0], UNIT_MM, rules="all")
    with pytest.raises(ValueError, match="class indices"):
        scores.case_metrics(maps[0] + CLASS_COUNT, maps[0], UNIT_MM)
    with pytest.raises(ValueError, match="float"):
        scores.case_metrics(maps[0].astype(float), maps[0], UNIT_MM)
    with pytest.raises(ValueError, match="voxel sizes"):
        scores.case_metrics(maps[0], maps[0], (1.0, 0.0, 1.0))


@pytest.mark.parametrize("reference", [EMPTY, CUBE, box_mask((10, 10, 10), cube((1, 1, 1), 2))])
def test_a_missing_prediction_takes_every_penalty(reference):
    for row in scores.missing_prediction_metrics(as_label_map(reference), UNIT_MM):
        assert (row["dice"], row["hd95_mm"], row["iou"]) == (0.0, 373.12866, 0.0)
        assert (row["lesionwise_dice"], row["lesionwise_hd95_mm"]) == (0.0, 374.0)
        assert row["sensitivity"] == (0.0 if reference.any() else None)
        assert (row["specificity"], row["precision"]) == (1.0, None)
        assert row["predicted_ml"] == 0.0
        assert row["volume_difference_ml"] == -row["reference_ml"]


def test_a_missing_prediction_heeds_the_rules():
    rows = scores.missing_prediction_metrics(as_label_map(CUBE), UNIT_MM, rules="legacy")
    assert [(row["dice"], row["lesionwise_dice"]) for row in rows] == [(0.0, None)] * 3


def degenerate_predictions() -> dict[str, LabelMap]:
    """What an untrained or broken network may say of a brain of 240 × 240 × 155 voxels."""
    shape = (240, 240, 155)
    rows, columns, slices = np.ogrid[:240, :240, :155]
    brain = ((rows - 120) / 68) ** 2 + ((columns - 120) / 85) ** 2 + ((slices - 75) / 68) ** 2 < 1
    blobs = np.zeros(shape, bool)
    blobs[::5, ::5, ::5] = True
    found = {
        "noise": np.random.default_rng(0).integers(0, CLASS_COUNT, shape),
        "checkerboard": np.where((rows + columns + slices) % 2, ENHANCING, BACKGROUND),
        "blobs": np.where(lesions.dilate_18(blobs, 1), ENHANCING, BACKGROUND),
        "full brain": np.full(shape, ENHANCING),
    }
    return {name: np.where(brain, index, 0).astype(np.uint8) for name, index in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["both", "2026"])
def test_all_metrics_of_any_case_take_seconds(rules):
    """CPU time, so that other processes count little; the aim is 2 s, and 6 s leave slack."""
    rows, columns, slices = np.ogrid[:240, :240, :155]
    away = (rows - 100) ** 2 + (columns - 140) ** 2 + (slices - 80) ** 2
    reference = np.zeros((240, 240, 155), np.uint8)
    for radius, index in ((30, EDEMA), (20, ENHANCING), (12, NECROTIC)):
        reference[away < radius**2] = index
    predictions = degenerate_predictions()
    noise = predictions["noise"]
    pairs = {name: (reference, index) for name, index in predictions.items()}
    pairs["noise against noise"] = (noise, np.ascontiguousarray(noise[::-1]))
    seconds = {}
    for name, two in pairs.items():
        start = time.process_time()
        scores.all_metrics(*two, UNIT_MM, rules=rules)
        original.original_figures(*two)
        seconds[name] = round(time.process_time() - start, 2)
    print(seconds)  # noqa: T201
    assert max(seconds.values()) < 6, seconds


@pytest.mark.slow
def test_the_rules_of_2026_take_at_most_half_as_long_again(real_data):
    """CPU time on real masks and such masks bent, side by side; medians of five."""
    cases = [case for case in cohort.find(str(real_data / "brats2018")).cases if case.segmentation]
    ratios = []
    for seed, case in enumerate(cases[:8]):
        reference = volume.read_mask(str(case.segmentation), case.task)
        prediction = perturbed(reference, seed)
        seconds = {"both": [], "2026": []}
        for _ in range(5):
            for rules, taken in seconds.items():
                start = time.process_time()
                scores.all_metrics(reference, prediction, UNIT_MM, rules=rules)
                taken.append(time.process_time() - start)
        ratios.append(np.median(seconds["2026"]) / np.median(seconds["both"]))
    print([f"{ratio:.2f}" for ratio in ratios])  # noqa: T201
    assert np.median(ratios) <= 1.5
