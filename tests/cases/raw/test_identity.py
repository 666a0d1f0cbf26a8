"""What cases are called: a patient shows in no name, unless that is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases import naming
from ray_brats.cases.raw import identity
from ray_brats.cases.raw.dicoms import DicomSeries
from ray_brats.cases.raw.identity import Naming, case_ids
from ray_brats.cases.raw.studies import Study
from ray_brats.errors import UsageError

WAYS: tuple[Naming, ...] = ("hash", "patient", "folder")
WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)


def study(name: str, patient: str = "", time: str = "") -> Study:
    """A study without files, but for one series of a time where there is one."""
    one = DicomSeries(
        patient_id=patient,
        study_uid=name,
        study_time=time,
        series_uid="1",
        number=1,
        description="t1",
        paths=(Path("a"),),
        voxel_bytes=1,
    )
    return Study(
        name=name, patient=patient or name, folder=Path("/in"), dicom=(one,) if time else ()
    )


def test_a_hash_shows_no_patient_and_is_the_same_wherever_the_study_lies() -> None:
    (name,) = case_ids([study("Doe/2020", "DOE-1")], "hash")
    assert re.fullmatch(r"sub-[0-9a-f]{10}_ses-1", name)
    assert case_ids([study("elsewhere", "DOE-1"), study("b", "DOE-2")], "hash")[0] == name
    assert case_ids([study("Doe/2020", "DOE-3")], "hash") != [name]


def test_studies_of_a_patient_are_numbered_in_order_of_time_then_of_names() -> None:
    found = [
        study("c", "P", "20210101"),
        study("b", "P", "20200101"),
        study("x", "Q"),
        study("a", "P", "20210101"),
    ]
    assert case_ids(found, "patient") == [
        "sub-P_ses-3",
        "sub-P_ses-1",
        "sub-Q_ses-1",
        "sub-P_ses-2",
    ]
    assert [name[-1] for name in case_ids(found, "hash")] == ["3", "1", "1", "2"]
    assert case_ids(found[::-1], "patient") == case_ids(found, "patient")[::-1]


def test_a_patient_is_named_by_letters_and_digits_or_else_by_a_hash() -> None:
    assert case_ids([study("x", "TCGA-FG-6692")], "patient") == ["sub-TCGAFG6692_ses-1"]
    for letters in ("***", "患者"):
        assert case_ids([study("x", letters)], "patient") == case_ids([study("x", letters)], "hash")


def test_a_patient_that_bids_names_is_no_subject_twice() -> None:
    assert case_ids([study("sub-01/ses-2", "sub-01")], "patient") == ["sub-01_ses-1"]


def test_a_folder_names_its_case_so_that_it_can_be_read_back() -> None:
    names = ["P1/2020-01", "P1/2020-02", "Müller 1"]
    ids = case_ids([study(name) for name in names], "folder")
    assert ids == ["P1_u002f_2020-01", "P1_u002f_2020-02", "M_u00fc_ller_u0020_1"]
    assert [naming.name_of_id(case_id) for case_id in ids] == names


def test_names_that_two_studies_would_have_are_refused_and_not_told() -> None:
    twins = [study("a", "DOE-1"), study("b", "DOE 1")]
    with pytest.raises(UsageError, match=r"1 name\(s\) .* --names patient: expected") as caught:
        case_ids(twins, "patient")
    assert "DOE" not in str(caught.value)
    assert len(set(case_ids(twins, "hash"))) == 2


def test_patients_whose_hashes_begin_alike_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_HASHED", 1)
    with pytest.raises(UsageError, match=r"several studies with --names hash: .* --names folder"):
        case_ids([study(f"{number}", f"P{number}") for number in range(20)], "hash")


def test_a_folder_whose_name_is_too_long_for_a_case_is_refused_before_the_work() -> None:
    name = "/".join(["TCGA-LGG", "TCGA-FG-6692", "12-04-2009-MR BRAIN WITH AND WITHOUT CONTRAST"])
    with pytest.raises(
        UsageError, match=r"1 name\(s\) would be too long .* --names hash"
    ) as caught:
        case_ids([study("P1"), study(name * 2)], "folder")
    assert "TCGA" not in str(caught.value)


@pytest.mark.parametrize("how", WAYS)
def test_a_name_that_is_not_in_utf8_is_as_good_as_any(how: Naming) -> None:
    (name,) = case_ids([study("caf\udce9")], how)
    assert naming.problem_of_id(name) is None


@pytest.mark.parametrize("how", WAYS)
def test_a_name_of_dots_alone_is_no_folder_above(how: Naming) -> None:
    ids = case_ids([study("."), study("..")], how)
    assert [*map(naming.problem_of_id, ids)] == [None, None]
    if how == "folder":
        assert [*map(naming.name_of_id, ids)] == [".", ".."]


@given(names=st.lists(WORDS, min_size=1, max_size=5, unique=True), data=st.data())
def test_every_study_gets_a_name_that_a_file_may_have(
    names: list[str], data: st.DataObject
) -> None:
    found = [study(name, data.draw(st.sampled_from(names))) for name in names]
    ids = case_ids(found, "hash")
    assert len({*ids}) == len(names)
    assert [*map(naming.problem_of_id, ids)] == [None] * len(names)
    patients = {
        one.patient: naming.patient_of(case_id) for one, case_id in zip(found, ids, strict=True)
    }
    assert len({*patients.values()}) == len(patients)
    assert len({*case_ids(found, "folder")}) == len(names)
