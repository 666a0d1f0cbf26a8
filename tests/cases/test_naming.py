"""What names mean, without a file."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ray_brats.cases import naming
from ray_brats.recipes import tasks


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
        ("a_tumor_segmentation.nii.gz", None),
        ("a-GlistrBoost-ManuallyCorrected.nii.gz", None),
        ("a_tumor_seg.nii", ("a_tumor", "seg")),
        ("a_t1_t2.nii", ("a_t1", "t2")),
        ("W39_1998.09.19_Segm.nii", None),
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


PARTS = st.sampled_from(
    ["_", "u", "_u", "00e9", "_u0041_", "é", " ", "\U0001f9e0", "A", "-", "_u10ffff"]
)
NAMES = st.text() | st.lists(PARTS).map("".join)


@given(NAMES)
@example("_u0041é")
@example("_u0041_u0042_")
@example("é_u0041_")
@example("_ud800_")
def test_an_id_is_safe_and_gives_its_name_back(name: str) -> None:
    case_id = naming.id_of_name(name)
    assert re.fullmatch(r"[A-Za-z0-9._-]*", case_id)
    assert naming.name_of_id(case_id) == name


@given(st.from_regex(r"\A[A-Za-z0-9._-]{1,128}\Z"))
def test_a_name_that_is_safe_is_its_own_id(name: str) -> None:
    if not re.search(r"_u[0-9a-f]{4,6}_", name):
        assert naming.id_of_name(name) == name


def test_the_rule_is_the_documented_one() -> None:
    assert naming.id_of_name("Müller 1") == "M_u00fc_ller_u0020_1"
    assert naming.id_of_name("a\U0001f9e0") == "a_u1f9e0_"
    assert naming.id_of_name("x_u00e9_y") == "x_u005f_u00e9_y"
    (note,) = naming.notes_on_names(["a", "Müller 1"])
    assert "1 case(s)" in note
    assert "M_u00fc_ller_u0020_1 for 'Müller 1'" in note
    assert naming.notes_on_names(["a", "..", "x" * 129]) == ()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "x" * 129, "ä" * 19, "a\nb", "a\x1b[2J", "\x85", "caf\udce9"]
)
def test_what_cannot_be_an_id_either_cannot_name_a_case(name: str) -> None:
    assert naming.problem_of_name(name)


@pytest.mark.parametrize("name", ["a b", "ä" * 18, "患者 001", "a\\b", "..."])
def test_blanks_and_other_letters_may_name_a_case(name: str) -> None:
    assert naming.problem_of_name(name) is None


@pytest.mark.parametrize(
    ("name", "patient", "possible"),
    [
        ("Brats18_CBICA AAB_1", "Brats18_CBICA AAB", ("gli-2018",)),
        ("Brats18_CBICA_A 1", "Brats18_CBICA_A 1", ("gli-2018",)),
        ("BraTS-GLI-00005-100 ü", "BraTS-GLI-00005-100 ü", ("gli-2023", "gli-post")),
        ("BraTS20 1", "BraTS20 1", ()),
    ],
)
def test_patient_and_tasks_are_those_of_the_name(
    name: str, patient: str, possible: tuple[str, ...]
) -> None:
    case_id = naming.id_of_name(name)
    assert naming.patient_of(case_id) == naming.id_of_name(patient)
    assert naming.tasks_of(case_id) == possible


@pytest.mark.parametrize(
    ("name", "tumour"),
    [
        ("Brats18_CBICA_AAB_1", "GLI"),
        ("BraTS19_CBICA_AAB_1", "GLI"),
        ("BraTS20_Training_001", "GLI"),
        ("BraTS2021_00000", "GLI"),
        ("BraTS-GLI-00005-100", "GLI"),
        ("brats-ssa-00005-000", "SSA"),
        ("BraTS-MET-00005-000 ü", "MET"),
        ("BraTS-MEN-RT-0001-1", "MEN"),
        ("BraTS-PED-00005-000", "PED"),
        ("BraTS-NEW-00005-000", "NEW"),
        ("Patient_001", None),
        ("BraTS-", None),
    ],
)
def test_a_name_tells_which_tumour_a_case_is_of(name: str, tumour: str | None) -> None:
    assert naming.tumour_of(naming.id_of_name(name)) == tumour


def test_a_task_tells_it_where_all_its_cases_are_of_one() -> None:
    told = {name: naming.tumour_of_task(name) for name in tasks.TASKS}
    assert [name for name, tumour in told.items() if tumour == "GLI"] == [
        "gli-2018",
        "gli-2019",
        "gli-2020",
        "gli-2021",
    ]
    assert naming.tumour_of_task(None) is None


def test_a_case_is_found_by_its_id_and_by_its_name() -> None:
    ids = {"a", naming.id_of_name("Mü 1"), naming.id_of_name("x_u00e9_y")}
    for name in ("Mü 1", "Mu\u0308 1", "M_u00fc__u0020_1"):
        assert naming.find_id(name, ids) == "M_u00fc__u0020_1"
    assert naming.find_id("x_u00e9_y", ids) == "x_u005f_u00e9_y"
    assert naming.find_id("b", ids) is None


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("._a_t2.nii", True),
        ("x/.git/a", True),
        ("__MACOSX/x/a_t2.nii", True),
        ("x\\._a.nii", True),
        ("./a_t2.nii", False),
        ("a/b._c.nii", False),
        ("/a.b/c", False),
    ],
)
def test_what_is_hidden_is_so_in_folders_and_archives(path: str, hidden: bool) -> None:
    assert naming.is_hidden(path) is hidden
