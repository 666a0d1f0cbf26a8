"""Which NIfTI files are of one study, by folders and names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_brats.cases.raw import grouping

ROOT = Path("/cohort")


def paths(*names: str) -> list[Path]:
    return [ROOT / f"{name}.nii.gz" for name in names]


def by_folder(*names: str) -> dict[str, list[str]]:
    found = grouping.by_folder(paths(*names), ROOT)
    return {
        folder.relative_to(ROOT).as_posix(): [path.name.split(".")[0] for path in images]
        for folder, images in found.items()
    }


def test_the_files_of_a_folder_are_together() -> None:
    assert by_folder("P1/t1", "P1/x", "P2/t1", "t2") == {
        "P1": ["t1", "x"],
        "P2": ["t1"],
        ".": ["t2"],
    }


@pytest.mark.parametrize(
    "shelf",
    ["anat", "T1", "T1w", "FLAIR", "nifti", "5-AX_FLAIR", "5.000000-AX T1 POST-12345", "7_t2_tse"],
)
def test_folders_that_are_called_after_what_they_hold_are_no_studies(shelf: str) -> None:
    assert by_folder(f"P1/{shelf}/image", "P1/t2") == {"P1": ["image", "t2"]}
    assert by_folder(f"P1/anat/{shelf}/image") == {"P1": ["image"]}
    assert by_folder(f"{shelf}/image") == {".": ["image"]}


@pytest.mark.parametrize("folder", ["P1", "2020-01-01", "visit_2", "T1_study", "ses-1", "12345"])
def test_other_folders_are(folder: str) -> None:
    assert by_folder(f"P/{folder}/t1") == {f"P/{folder}": ["t1"]}


def by_case(*names: str) -> dict[str, list[str]]:
    found = grouping.by_case(paths(*names))
    return {case: [path.name.split(".")[0] for path in images] for case, images in found.items()}


TWO = ["P1_t1", "P1_t2", "P2_t1", "P2_flair"]


@pytest.mark.parametrize(
    ("names", "cases"),
    [
        (TWO, {"P1": TWO[:2], "P2": TWO[2:]}),
        (
            ["sub-A_ses-1_T1w", "sub-A_ses-1_ce-gd_T1w", "sub-A_ses-2_T1w", "sub-A_ses-2_FLAIR"],
            {
                "sub-A_ses-1": ["sub-A_ses-1_T1w", "sub-A_ses-1_ce-gd_T1w"],
                "sub-A_ses-2": ["sub-A_ses-2_T1w", "sub-A_ses-2_FLAIR"],
            },
        ),
        (
            ["P1_T1_raw", "P1_FLAIR_raw", "P10_T1_raw", "P10_T2_raw", "P10_mask", "readme"],
            {
                "P1": ["P1_T1_raw", "P1_FLAIR_raw"],
                "P10": ["P10_T1_raw", "P10_T2_raw", "P10_mask"],
                "": ["readme"],
            },
        ),
    ],
)
def test_names_that_begin_with_several_cases_are_each_a_study(
    names: list[str], cases: dict[str, list[str]]
) -> None:
    assert by_case(*names) == cases


@pytest.mark.parametrize(
    "names",
    [
        ["t1_raw", "t1ce_raw", "t1_reference_brats_space", "brainmask_hdbet_brats"],
        ["5_AX_T1", "6_AX_T1_POST", "7_AX_FLAIR", "8_AX_T2"],
        ["P1_t1", "P1_t2", "P1_flair"],
        ["AX_T1", "AX_T2", "SAG_T1", "SAG_T2"],
        ["3D_T1", "3D_T2", "2D_T1", "2D_T2"],
        ["flair_to_t1", "t2_to_t1", "t1"],
        ["x"],
    ],
)
def test_other_names_are_of_one_study(names: list[str]) -> None:
    assert by_case(*names) == {"": names}


def test_the_patient_is_the_subject_of_bids_or_the_study() -> None:
    assert grouping.patient_of(paths("sub-A_ses-1_T1w", "sub-A_ses-1_T2w"), "x") == "sub-A"
    assert grouping.patient_of(paths("t1", "t2"), "P1/2") == "P1/2"


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (["P1/t1_raw", "P1/t2_raw"], ["t1_raw", "t2_raw"]),
        (["P1/sub_01_T1", "P1/sub_01_T2"], ["T1", "T2"]),
        (["P1/Doe-Jane T1", "P1/Doe-Jane FLAIR"], ["T1", "FLAIR"]),
        (["P1/T1/image", "P1/T2/image"], ["T1/image", "T2/image"]),
        (["P1/anat/x_T1", "P1/anat/x_T2"], ["T1", "T2"]),
        (["P1/t1_pre", "P1/t1_post"], ["t1_pre", "t1_post"]),
        (["P1/sub_01_T1"], ["sub_01_T1"]),
    ],
)
def test_names_leave_out_what_all_begin_with(names: list[str], called: list[str]) -> None:
    assert [*grouping.names_of(paths(*names), ROOT / "P1").values()] == called
