"""Which cases are pictured, in which order, and that one that cannot be drawn does no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from classes import REGIONS
from conftest import file_of

from ray_brats.cases import cohort as cohorts
from ray_brats.recipes.tasks import TASKS
from ray_brats.report import worst_cases

CASES = [f"BraTS20_Training_{index:03d}" for index in range(1, 6)]


def scored(dices: dict[str, float | None]) -> list[dict[str, Any]]:
    return [
        {"case_id": name, "regions": [{"region": region, "dice": dice} for region in REGIONS]}
        for name, dice in dices.items()
    ]


def pictures(folder: Path, dices: dict[str, float | None]) -> list[str]:
    cases = {case.case_id: case for case in cohorts.find(str(folder)).cases}
    masks = {name: str(file_of(folder / name, "seg")) for name in CASES}
    found = worst_cases.pictures(scored(dices), cases, masks, TASKS["gli-2020"])
    for picture in found:
        assert [alt.split(". ")[1].split(" ")[0] for alt, _ in picture.panels] == [
            "Axial",
            "Coronal",
            "Sagittal",
        ]
        assert all(png.startswith(b"\x89PNG") for _, png in picture.panels)
    return [picture.title.split(": ")[0] for picture in found]


def test_the_worst_stand_first_and_the_median_last(cohort_folder: Path) -> None:
    dices = dict(zip(CASES, (0.9, 0.1, 0.5, 0.3, 0.7), strict=True))
    assert pictures(cohort_folder, {**dices, CASES[0]: 0.9}) == [
        f"{CASES[1]}, worst case 1 of 5",
        f"{CASES[3]}, worst case 2 of 5",
        f"{CASES[2]}, the median case",
    ]


def test_without_whole_masks_the_lesions_decide(cohort_folder: Path) -> None:
    rows = scored({CASES[0]: None, CASES[1]: None})
    for row, dice in zip(rows, (0.8, 0.2), strict=True):
        for region in row["regions"]:
            region["lesionwise_dice"] = dice
    cases = {case.case_id: case for case in cohorts.find(str(cohort_folder)).cases}
    masks = {name: str(file_of(cohort_folder / name, "seg")) for name in CASES}
    titles = [
        picture.title for picture in worst_cases.pictures(rows, cases, masks, TASKS["gli-2020"])
    ]
    assert titles[1].startswith(f"{CASES[0]}, worst case 2 of 2: lesion-wise Dice WT 0.800")


def test_nothing_scored_gives_no_pictures(cohort_folder: Path) -> None:
    assert pictures(cohort_folder, {}) == []


@pytest.mark.parametrize("damage", ["absent", "truncated"])
def test_a_case_without_a_usable_image_is_passed_over(one_case: Path, damage: str) -> None:
    flair = file_of(one_case, "flair")
    if damage == "truncated":
        flair.write_bytes(flair.read_bytes()[:500])
    found = cohorts.find(str(one_case))
    if damage == "absent":
        flair.unlink()
    cases = {case.case_id: case for case in found.cases}
    masks = {one_case.name: str(file_of(one_case, "seg"))}
    assert worst_cases.pictures(scored({one_case.name: 0.5}), cases, masks, TASKS["gli-2020"]) == []


def test_a_case_without_any_dice_is_no_bad_one(cohort_folder: Path) -> None:
    """By the rules of 2026 a region that is empty in both masks has no Dice."""
    rows = scored({CASES[0]: None, CASES[1]: 0.4})
    rows[1]["regions"][2]["dice"] = None
    cases = {case.case_id: case for case in cohorts.find(str(cohort_folder)).cases}
    masks = {name: str(file_of(cohort_folder / name, "seg")) for name in CASES}
    titles = [
        picture.title for picture in worst_cases.pictures(rows, cases, masks, TASKS["gli-2020"])
    ]
    assert titles == [
        f"{CASES[1]}, the median case: Dice WT 0.400, TC 0.400, ET none",
        f"{CASES[0]}, worst case 2 of 2: Dice WT none, TC none, ET none",
    ]
