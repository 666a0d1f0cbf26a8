"""Names of BIDS: case, modality, and which mask is the tumour's."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import touch

from ray_brats.cases import bids, cohort, joining
from ray_brats.cases.case import Cohort


@pytest.mark.parametrize(
    ("name", "case", "modality"),
    [
        ("sub-01_ses-1_T1w.nii.gz", "sub-01_ses-1", "t1"),
        ("sub-01_ses-1_ce-gadolinium_T1w.nii.gz", "sub-01_ses-1", "t1ce"),
        ("sub-01_ce-none_T1w.nii", "sub-01", "t1"),
        ("sub-A1_acq-3D_run-2_T2w.nii.gz", "sub-A1", "t2"),
        ("sub-A1_ses-pre_space-SRI_desc-brain_FLAIR.nii.gz", "sub-A1_ses-pre", "flair"),
        ("sub-A1_T1c.nii.gz", "sub-A1", "t1ce"),
        ("sub-A1_t2f.nii.gz", "sub-A1", "flair"),
        ("sub-A1_task-rest_bold.nii.gz", "sub-A1", None),
        ("sub-A1_dwi.nii.gz", "sub-A1", None),
        ("sub-A1_T2starw.nii.gz", "sub-A1", None),
        ("sub-site_pat-01_T1w.nii.gz", None, None),
        ("sub-A1_T1w_brain.nii.gz", None, None),
        ("patient_T1w.nii.gz", None, None),
        ("sub-_T1w.nii.gz", None, None),
    ],
)
def test_a_name_tells_case_and_modality(name: str, case: str | None, modality: str | None) -> None:
    told = bids.meaning_of(name)
    assert (told and told.case, told and told.modality) == (case, modality)


def found(folder: Path, *names: str) -> Cohort:
    return cohort.find(str(touch(folder, *names)))


ANAT = "sub-01/ses-1/anat/sub-01_ses-1"
SCANS = tuple(f"{ANAT}_{suffix}.nii.gz" for suffix in ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR"))


def test_sessions_are_cases_of_one_patient(tmp_path: Path) -> None:
    later = tuple(name.replace("ses-1", "ses-2") for name in SCANS)
    one, other = found(tmp_path, *SCANS, *later).cases
    assert (one.case_id, other.case_id) == ("sub-01_ses-1", "sub-01_ses-2")
    assert one.patient_id == other.patient_id == "sub-01"
    assert one.images["t1ce"] == str(tmp_path / SCANS[1])
    assert set(one.images) == {"t1", "t1ce", "t2", "flair"}
    assert one.task is None


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["dseg"], "dseg"),
        (["seg"], "seg"),
        (["mask"], "mask"),
        (["space-SRI_label-tumor_mask"], "space-SRI_label-tumor_mask"),
        (["desc-lesion_roi"], "desc-lesion_roi"),
        (["label-tumour_dseg", "dseg", "mask"], "label-tumour_dseg"),
        (["seg", "label-tumor_mask"], "seg"),
        (["dseg", "desc-brain_mask"], "dseg"),
        (["desc-brain_mask"], None),
        (["desc-aparcaseg_dseg", "label-GM_mask"], None),
        (["label-tumor_mask", "desc-tumor_mask"], None),
        (["space-A_dseg", "space-B_dseg"], None),
        (["roi"], None),
    ],
)
def test_the_one_mask_of_the_tumour_is_taken_and_the_others_are_listed(
    tmp_path: Path, names: list[str], taken: str | None
) -> None:
    masks = [f"derivatives/x/{ANAT}_{name}.nii.gz" for name in names]
    there = found(tmp_path, *SCANS, *masks)
    (case,) = there.cases
    expected = taken and str(tmp_path / f"derivatives/x/{ANAT}_{taken}.nii.gz")
    assert case.segmentation == expected
    left = {str(tmp_path / name) for name in masks} - {expected}
    assert {item.uri for item in there.passed_over} == left
    reasons = {joining.HAS_MASK, joining.OTHER_MASK, joining.SEVERAL_MASKS}
    assert {item.why for item in there.passed_over} <= reasons
    assert any("it is taken" in note for note in there.notes) is bool(taken and taken != "seg")


def test_other_images_of_a_subject_are_listed(tmp_path: Path) -> None:
    there = found(tmp_path, *SCANS, f"{ANAT}_dwi.nii.gz", "sub-02/anat/sub-02_dseg.nii.gz")
    assert len(there.cases) == 1
    assert {item.name: item.why for item in there.passed_over} == {
        "sub-01_ses-1_dwi.nii.gz": joining.NO_KIND,
        "sub-02_dseg.nii.gz": joining.NO_SCANS,
    }


def test_two_runs_of_one_modality_are_not_guessed(tmp_path: Path) -> None:
    there = found(tmp_path, *SCANS, f"{ANAT}_run-2_T2w.nii.gz")
    assert there.cases == ()
    (row,) = there.rejected
    assert row.case_id == "sub-01_ses-1"
    assert "t2 is there more than once" in row.reason


def test_masks_and_scans_of_other_stems_are_joined_as_before(tmp_path: Path) -> None:
    there = found(tmp_path, "sub-01_brain_t1ce.nii.gz", "sub-01_brain_t2.nii.gz", "sub-01_seg.nii")
    (case,) = there.cases
    assert (case.case_id, case.segmentation) == ("sub-01", str(tmp_path / "sub-01_seg.nii"))
