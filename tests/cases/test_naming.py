"""What names mean, without a file."""

from __future__ import annotations

import pytest

from ray_brats.cases import naming


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BraTS20_Training_001_flair.nii", ("BraTS20_Training_001", "flair")),
        ("BraTS-GLI-00000-000-t1c.nii.gz", ("BraTS-GLI-00000-000", "t1ce")),
        ("a_T1Gd.NII.GZ", ("a", "t1ce")),
        ("a-seg.nii", ("a", "seg")),
        ("a_t3.nii", None),
        ("a_t2.nii.zip", None),
        ("_t2.nii", None),
    ],
)
def test_a_file_name_tells_case_and_kind_or_nothing(
    name: str, expected: tuple[str, str] | None
) -> None:
    assert naming.case_and_kind(name) == expected


def test_the_last_group_of_a_name_is_the_scan_and_not_the_patient() -> None:
    assert naming.patient_of("Brats18_TCIA01_425_1") == "Brats18_TCIA01_425"
    assert naming.patient_of("BraTS-GLI-00005-100") == "BraTS-GLI-00005"
    assert naming.patient_of("BraTS2021_00005") == "BraTS2021_00005"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "x" * 129])
def test_what_cannot_name_a_file_everywhere_cannot_name_a_case(name: str) -> None:
    assert naming.problem_of_id(name)


@pytest.mark.parametrize("name", ["a", "BraTS-GLI-00005-100", "a.b_c", "x" * 128])
def test_other_names_can(name: str) -> None:
    assert naming.problem_of_id(name) is None
