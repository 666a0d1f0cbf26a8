"""Cohorts summed up: numbers one can check, and what does not exist left out."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from classes import CLASS_COUNT, CLASS_NAMES, EDEMA, REGIONS

from ray_brats.metrics import original, scores
from ray_brats.metrics import summary as summaries

UNIT_MM = (1.0, 1.0, 1.0)


def cohort_rows(seed: int, count: int) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    random = np.random.default_rng(seed)
    rows, originals = [], []
    for case in range(count):
        pair = random.integers(0, CLASS_COUNT, size=(2, 6, 6, 6)).astype(np.uint8)
        if case == 0:
            pair[0] = EDEMA  # neither core nor enhancing tumour
        rows += [{"case_id": f"case-{case}", **row} for row in scores.case_metrics(*pair, UNIT_MM)]
        originals.append(original.original_figures(*pair))
    return rows, originals


def test_summary_of_a_cohort():
    rows, originals = cohort_rows(0, 7)
    summary = summaries.summarise(rows, originals)
    assert list(summary) == ["cases", "regions", "original"]
    assert summary["cases"] == 7
    assert list(summary["regions"]) == list(REGIONS)
    enhancing = summary["regions"]["ET"]
    assert set(enhancing) == {*scores.SCORE_COLUMNS, "empty_references", "empty_predictions"}
    assert (enhancing["empty_references"], enhancing["empty_predictions"]) == (1, 0)
    values = [row["dice"] for row in rows if row["region"] == "ET"]
    assert enhancing["dice"]["mean"] == pytest.approx(np.mean(values))
    assert enhancing["dice"]["median"] == np.median(values)
    low, high = enhancing["dice"]["ci95"]
    assert min(values) <= low < enhancing["dice"]["mean"] < high <= max(values)
    # Sensitivity does not exist in the case without enhancing tumour: six values are left.
    existing = [row["sensitivity"] for row in rows if row["region"] == "ET"][1:]
    assert enhancing["sensitivity"]["mean"] == pytest.approx(np.mean(existing))
    for name in original.ORIGINAL_FIGURES:
        expected = np.mean([figures[name] for figures in originals])
        assert summary["original"][name] == pytest.approx(expected)
    json.dumps(summary, allow_nan=False)


def test_summary_is_the_same_in_any_order():
    rows, originals = cohort_rows(1, 5)
    assert summaries.summarise(rows, originals) == summaries.summarise(rows[::-1], originals[::-1])


def test_summary_of_one_case_has_an_interval_of_no_width():
    dice = summaries.summarise(*cohort_rows(2, 1))["regions"]["WT"]["dice"]
    assert dice["ci95"] == [dice["mean"]] * 2
    assert dice["median"] == dice["mean"]


def test_summary_of_no_cases_has_no_numbers():
    summary = summaries.summarise([], [])
    assert summary["cases"] == 0
    nothing = {"mean": None, "median": None, "ci95": [None, None]}
    for region in REGIONS:
        numbers = summary["regions"][region]
        assert all(numbers[name] == nothing for name in scores.SCORE_COLUMNS)
        assert (numbers["empty_references"], numbers["empty_predictions"]) == (0, 0)
    assert summary["original"] == dict.fromkeys(original.ORIGINAL_FIGURES)


def test_summary_reads_nan_as_missing():
    rows, originals = cohort_rows(3, 3)
    twins = [
        {name: math.nan if value is None else value for name, value in row.items()} for row in rows
    ]
    assert summaries.summarise(twins, originals) == summaries.summarise(rows, originals)


def test_interval_covers_the_mean_as_the_normal_theory_does():
    values = np.random.default_rng(5).normal(0.8, 0.1, size=400)
    low, high = summaries.interval(sorted(values.tolist()))
    half_width = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half_width, abs=0.002)
    assert high == pytest.approx(values.mean() + half_width, abs=0.002)


def test_labels_are_summed_up_by_their_names():
    pair = np.random.default_rng(1).integers(0, CLASS_COUNT, size=(2, 6, 6, 6)).astype(np.uint8)
    rows = [{"case_id": "a", **row} for row in scores.label_metrics(*pair, UNIT_MM)]
    summary = summaries.summarise_labels(rows)
    assert list(summary) == list(CLASS_NAMES[1:])
    assert summary["edema"]["dice"]["mean"] == rows[EDEMA - 1]["dice"]
    assert summary["edema"]["lesionwise_dice"]["mean"] is None


SHAPE = (8, 8, 8)
CORNERS = {
    "nothing": np.zeros(SHAPE, bool),
    "voxel": np.pad(np.ones((1, 1, 1), bool), ((3, 4),) * 3),
    "whole": np.ones(SHAPE, bool),
}


def mean_over(pairs: list[tuple[str, str]], rules: str) -> dict[str, float | None]:
    """Means of WT over cases whose reference and prediction are of `CORNERS`."""
    rows = [
        {"case_id": str(number), **row}
        for number, pair in enumerate(pairs)
        for row in scores.case_metrics(
            *(np.where(CORNERS[name], np.uint8(EDEMA), np.uint8(0)) for name in pair),
            UNIT_MM,
            rules=rules,
        )
    ]
    numbers = summaries.summarise(rows, [], scores.score_columns(rules))["regions"]["WT"]
    assert set(numbers) == {
        *scores.score_columns(rules),
        "empty_references",
        "empty_predictions",
    }
    return {name: numbers[name]["mean"] for name in scores.score_columns(rules)}


@pytest.mark.parametrize("present", ["voxel", "whole"])
def test_means_of_2026_leave_out_what_is_empty_in_both_and_count_what_is_in_one(present):
    found = mean_over(
        [("nothing", "nothing"), (present, present), (present, "nothing"), ("nothing", present)],
        "2026",
    )
    for name in ("dice", "nsd_1mm", "nsd_05mm", "nsd_2mm", "instance_dice", "detection_f1"):
        assert found[name] == pytest.approx(1 / 3), name
    for name in ("hd95_pooled_mm", "instance_hd95_pooled_mm"):
        assert found[name] == pytest.approx(2 * 373 / 3)
    assert (found["detection_precision"], found["detection_recall"]) == (0.5, 0.5)
    assert [found[name] for name in ("tp", "fp", "fn")] == [0.25, 0.25, 0.25]
    alone = mean_over([("nothing", "nothing")], "2026")
    assert {alone[name] for name in ("dice", "nsd_1mm", "hd95_pooled_mm")} == {None}


@pytest.mark.parametrize("present", ["voxel", "whole"])
def test_means_of_2023_count_what_is_empty_in_both_as_perfect(present):
    found = mean_over(
        [("nothing", "nothing"), (present, present), (present, "nothing"), ("nothing", present)],
        "2023",
    )
    for name in ("dice", "iou", "surface_dice_1mm"):
        assert found[name] == 0.5, name
    assert found["hd95_mm"] == pytest.approx(373.12866 / 2)
    # One voxel is too small a lesion to be missed, and is a false positive all the same.
    small = present == "voxel"
    assert found["lesionwise_dice"] == (0.75 if small else 0.5)
    assert found["lesionwise_hd95_mm"] == (374 / 4 if small else 374 / 2)
    assert (found["sensitivity"], found["precision"]) == (0.5, 0.5)
