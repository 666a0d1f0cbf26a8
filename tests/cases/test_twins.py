"""One modality twice in a folder: one file where both hold the same, a rejected case else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ray_brats.cases import cohort, twins
from ray_brats.cases.case import Cohort, Guard

VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def save(path: Path, voxels: Any = VOXELS, affine: Any = None) -> None:
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


@pytest.mark.parametrize("kind", ["t2", "seg"])
def test_of_equal_twins_the_compressed_one_is_read_and_that_is_said(
    tmp_path: Path, kind: str
) -> None:
    save(tmp_path / "a_t1.nii")
    for ending in ("nii", "nii.gz"):
        save(tmp_path / f"a_{kind}.{ending}")
    there = cohort.find(str(tmp_path))
    (case,) = there.cases
    packed = str(tmp_path / f"a_{kind}.nii.gz")
    assert packed in (case.segmentation, case.images.get("t2"))
    assert [(item.name, item.why) for item in there.passed_over] == [(f"a_{kind}.nii", twins.SAME)]
    assert "equal voxels" in there.notes[0]


def test_twins_of_another_type_with_equal_values_are_equal(tmp_path: Path) -> None:
    save(tmp_path / "a_t2.nii", VOXELS.astype(np.float32))
    save(tmp_path / "a_t2.nii.gz")
    assert len(cohort.find(str(tmp_path)).cases) == 1


def test_a_mask_of_another_name_may_have_a_twin_too(tmp_path: Path) -> None:
    for name in ("a_t2.nii", "a_segm.nii", "a_segm.nii.gz"):
        save(tmp_path / name)
    (case,) = cohort.find(str(tmp_path)).cases
    assert case.segmentation == str(tmp_path / "a_segm.nii.gz")


def moved() -> Any:
    return np.diag([1.0, 1.0, 2.0, 1.0])


DIFFERENT: dict[str, Callable[[Path], None]] = {
    "voxels": lambda path: save(path, VOXELS + (VOXELS == 7)),
    "grid": lambda path: save(path, affine=moved()),
    "shape": lambda path: save(path, VOXELS[1:]),
    "damaged": lambda path: path.write_text("no NIfTI") and None,
}


def rejected(there: Cohort) -> str:
    assert there.cases == ()
    (row,) = there.rejected
    return row.reason


@pytest.mark.parametrize("what", DIFFERENT)
def test_twins_that_differ_reject_their_case_by_name(tmp_path: Path, what: str) -> None:
    save(tmp_path / "a_t2.nii.gz")
    DIFFERENT[what](tmp_path / "a_t2.nii")
    reason = rejected(cohort.find(str(tmp_path)))
    assert "a_t2.nii and " in reason
    assert "a_t2.nii.gz" in reason


def test_equal_files_in_two_folders_are_no_twins(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    save(tmp_path / "x/a_t2.nii")
    save(tmp_path / "y/a_t2.nii.gz")
    assert "more than once" in rejected(cohort.find(str(tmp_path)))


def test_nothing_is_opened_for_somebody_elses_cohort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service has not judged the size of what a client names."""
    for ending in ("nii", "nii.gz"):
        save(tmp_path / f"a_t2.{ending}")
    monkeypatch.setattr(twins.volume, "read", lambda uri: pytest.fail(f"{uri} was opened"))
    assert "more than once" in rejected(cohort.find(str(tmp_path), guard=Guard()))
