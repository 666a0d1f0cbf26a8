"""Cohorts: what names mean, and what cannot be a case."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from conftest import touch

from ray_brats.cases import cohort, inspection
from ray_brats.errors import UsageError
from ray_brats.recipes import named, tasks
from ray_brats.recipes.config import PreprocessConfig


@pytest.mark.parametrize(
    ("name", "task", "patient", "modality"),
    [
        ("BraTS20_Training_001_flair.nii", "gli-2020", "BraTS20_Training_001", "flair"),
        (
            "HGG/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_t1ce.nii.gz",
            "gli-2018",
            "Brats18_CBICA_AAB",
            "t1ce",
        ),
        ("BraTS2021_00000_t2.nii.gz", "gli-2021", "BraTS2021_00000", "t2"),
        ("BraTS-GLI-00000-000-t1c.nii.gz", None, "BraTS-GLI-00000", "t1ce"),
        ("BraTS-SSA-00000-000-t1c.nii.gz", "ssa", "BraTS-SSA-00000", "t1ce"),
        ("BraTS-PED-00000-000-t1c.nii.gz", "ped", "BraTS-PED-00000", "t1ce"),
        ("BraTS-MEN-RT-0001-1-t1c.nii.gz", "men-rt", "BraTS-MEN-RT-0001", "t1ce"),
        ("BraTS-MEN-00001-000-t1c.nii.gz", "men-pre", "BraTS-MEN-00001", "t1ce"),
        ("BraTS-GoAT-00001-t1c.nii.gz", "goat", "BraTS-GoAT-00001", "t1ce"),
        ("Brats17_CBICA_AAB_1_t1ce.nii.gz", "gli-2018", "Brats17_CBICA_AAB", "t1ce"),
        (
            "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz",
            None,
            "BraTS-GLI-00000",
            "flair",
        ),
        ("anything_t2w.nii.gz", None, "anything", "t2"),
    ],
)
def test_names_tell_task_patient_and_modality(
    tmp_path: Path, name: str, task: str | None, patient: str, modality: str
) -> None:
    (case,) = cohort.find(str(touch(tmp_path, name))).cases
    told = case.task.name if case.task else None
    assert (told, case.patient_id, list(case.images)) == (task, patient, [modality])


def test_grade_is_the_folders(tmp_path: Path) -> None:
    (case,) = cohort.find(str(touch(tmp_path, "LGG/a_t2.nii.gz"))).cases
    assert case.grade == "LGG"


def test_case_355_of_2020_is_recovered_and_logged(tmp_path: Path) -> None:
    name = "BraTS20_Training_355"
    found = cohort.find(
        str(touch(tmp_path, f"{name}/{name}_t2.nii", f"{name}/W39_1998.09.19_Segm.nii"))
    )
    assert found.cases[0].segmentation
    assert "W39" in found.notes[0]


def test_case_355_under_both_names_is_one_case(tmp_path: Path) -> None:
    name = "BraTS20_Training_355"
    names = (f"{name}_t2.nii", f"{name}_seg.nii", "W39_1998.09.19_Segm.nii")
    found = cohort.find(str(touch(tmp_path, *names)))
    assert str(found.cases[0].segmentation).endswith(f"{name}_seg.nii")
    assert (found.rejected, found.notes) == ((), ())
    assert [item.name for item in found.passed_over] == ["W39_1998.09.19_Segm.nii"]


def test_grades_come_from_the_mapping_of_2019_and_2020(tmp_path: Path) -> None:
    touch(tmp_path, *(f"BraTS20_Training_00{n}/BraTS20_Training_00{n}_t2.nii" for n in (1, 2, 3)))
    (tmp_path / "name_mapping.csv").write_text(
        "Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n"
        "HGG,BraTS19_CBICA_AAB_1,BraTS20_Training_001\n"
        "LGG,NA,BraTS20_Training_002\n"
    )
    assert [case.grade for case in cohort.find(str(tmp_path)).cases] == ["HGG", "LGG", None]


def test_tasks_of_one_meaning_are_not_mixed_either(tmp_path: Path) -> None:
    folder = touch(tmp_path, "BraTS20_Training_001_t2.nii", "Brats18_CBICA_AAB_1_t2.nii.gz")
    with pytest.raises(UsageError, match="same patients under several names"):
        cohort.find(str(folder))


def test_time_points_and_scans_of_a_patient_stay_together(tmp_path: Path) -> None:
    names = ("BraTS-GLI-00005-100-t2w.nii.gz", "BraTS-GLI-00005-101-t2w.nii.gz")
    found = cohort.find(str(touch(tmp_path, *names)))
    assert {case.patient_id for case in found.cases} == {"BraTS-GLI-00005"}


def test_two_cases_of_one_name_are_one_rejected_row(tmp_path: Path) -> None:
    found = cohort.find(str(touch(tmp_path, "x/a_t2.nii.gz", "y/a_t2.nii.gz", "b_t2.nii.gz")))
    assert [case.case_id for case in found.cases] == ["b"]
    (row,) = found.rejected
    assert (row.case_id, row.status) == ("a", "rejected")
    assert "one name" in row.reason


def test_mixed_tasks_are_refused_with_the_reason(tmp_path: Path) -> None:
    folder = touch(tmp_path, "BraTS2021_00000_t2.nii.gz", "BraTS-SSA-00000-000-t2w.nii.gz")
    with pytest.raises(UsageError, match="mixes gli-2021 and ssa, whose labels differ"):
        cohort.find(str(folder))
    asked = tasks.TASKS["gli-2023"]
    assert {case.task for case in cohort.find(str(folder), task=asked).cases} == {asked}


def test_a_task_that_names_contradict_is_said(tmp_path: Path) -> None:
    folder = str(touch(tmp_path, "BraTS2021_00000_t2.nii.gz"))
    (note,) = cohort.find(folder, task=tasks.TASKS["gli-post"]).notes
    assert "names the cases are of gli-2021; their labels are read as those of gli-post" in note
    # Another name of the same meaning is none.
    assert cohort.find(folder, task=tasks.TASKS["gli-2020"]).notes == ()


def test_what_names_leave_open_is_asked_for(tmp_path: Path) -> None:
    folder = touch(tmp_path, "BraTS-GLI-00000-000-t2w.nii.gz", "BraTS-GLI-00000-000-seg.nii.gz")
    found = cohort.find(str(folder))
    assert found.possible_tasks() == ("gli-2023", "gli-post")
    with pytest.raises(UsageError, match="pass --task gli-2023 or --task gli-post"):
        found.task_or(None)
    # A bundle has learnt one of the two.
    assert found.task_or(tasks.TASKS["gli-2018"]) == tasks.TASKS["gli-2023"]
    assert found.task_or(tasks.TASKS["gli-post"]) == tasks.TASKS["gli-post"]
    with pytest.raises(UsageError, match=r"are of gli-2023 or gli-post .* has learnt ped"):
        found.task_or(tasks.TASKS["ped"])
    # Where there is no mask to read, nothing is asked.
    without = [dataclasses.replace(case, segmentation=None) for case in found.cases]
    assert dataclasses.replace(found, cases=tuple(without)).task_or(None) is None


def test_what_may_be_another_task_is_not_mixed_in(tmp_path: Path) -> None:
    folder = touch(tmp_path, "BraTS-SSA-00000-000-t2w.nii.gz", "BraTS-GLI-00000-000-t2w.nii.gz")
    with pytest.raises(UsageError, match="mixes ssa, and what may be gli-2023 or gli-post"):
        cohort.find(str(folder))


def test_tasks_of_one_meaning_may_stand_side_by_side(tmp_path: Path) -> None:
    folder = touch(tmp_path, "BraTS-SSA-00000-000-t2w.nii.gz", "BraTS-MEN-00000-000-t2w.nii.gz")
    found = cohort.find(str(folder))
    assert {case.task.name for case in found.cases if case.task} == {"ssa", "men-pre"}


@pytest.mark.parametrize("names", [(), ("notes.txt",), ("._a_t2.nii.gz",)])
def test_nothing_found_is_a_usage_error_that_says_what_was_expected(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match=r"expected|named as"):
        cohort.find(str(touch(tmp_path, *names)))


def test_real_folders_are_recognised(real_data: Path) -> None:
    found = cohort.find(str(real_data / "brats2018"))
    assert len(found.cases) == 32
    assert not found.rejected
    assert {case.grade for case in found.cases} == {"HGG", "LGG"}
    (case,) = cohort.find(str(real_data / "brats2023")).cases
    assert set(case.images) == {"t1ce", "t2", "flair"}


def test_where_no_case_is_the_images_that_are_there_are_named(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a_t2.hdr", "a_t2.img", "b_t2.img", "c_t2.img", "d.nii")
    with pytest.raises(UsageError, match="named as") as caught:
        cohort.find(str(folder))
    text = str(caught.value)
    assert "4 image file(s) passed over (a_t2.hdr, a_t2.img, b_t2.img …): a header and" in text
    assert "nib-convert" in text
    assert "1 image file(s) passed over (d.nii): the name ends in no modality" in text


@pytest.mark.parametrize(
    ("names", "is_raw"),
    [
        (("a/scan 5.nii.gz",), True),
        (("a/IM1.dcm",), True),
        (("a/IM0001",), True),
        (("a/notes.txt", "seg.mha"), False),
        (("CASE_seg.nii.gz",), False),
    ],
)
def test_studies_as_they_leave_the_scanner_are_told_their_command(
    tmp_path: Path, names: tuple[str, ...], is_raw: bool
) -> None:
    touch(tmp_path, *names)
    if names == ("a/IM0001",):
        (tmp_path / "a/IM0001").write_bytes(bytes(128) + b"DICM")
    try:
        cohort.find(str(tmp_path))
    except UsageError as error:
        said = "`ray-brats prepare` takes studies as they leave the scanner" in str(error)
    else:
        said = False
    assert said is is_raw


def test_folders_and_files_with_blanks_and_other_letters_are_cases(tmp_path: Path) -> None:
    name = "Müller 1"
    found = cohort.find(
        str(touch(tmp_path, f"{name}/{name}_t2.nii.gz", f"{name}/{name}_seg.nii.gz"))
    )
    (case,) = found.cases
    assert (case.case_id, case.patient_id) == ("M_u00fc_ller_u0020_1",) * 2
    assert case.images["t2"] == str(tmp_path / name / f"{name}_t2.nii.gz")
    assert "'Müller 1'" in found.notes[0]


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb", b"a\x1b[2J", b"x" * 129])
def test_names_that_can_be_no_id_either_are_rejected(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name + b"_t2.nii.gz")).write_bytes(b"")
    found = cohort.find(str(touch(tmp_path, "good_t2.nii.gz")))
    assert [case.case_id for case in found.cases] == ["good"]
    assert [row.status for row in found.rejected] == ["rejected"]


def test_names_of_what_is_passed_over_cannot_steer_a_terminal(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9\x1b[2J\n.nii")).write_bytes(b"")
    found = cohort.find(str(touch(tmp_path, "good_t2.nii.gz")))
    assert [item.name for item in found.passed_over] == ["caf\ufffd\ufffd[2J\ufffd.nii"]


def test_a_cohort_in_a_csv_passes_nothing_over(tmp_path: Path) -> None:
    touch(tmp_path, "b_adc.nii.gz")
    (tmp_path / "c.csv").write_text("case_id,t2\na,a.nii\n")
    assert cohort.find(str(tmp_path / "c.csv")).passed_over == ()


def with_settings(*settings: str) -> PreprocessConfig:
    return named.get("standard", settings=settings).preprocess


def test_a_cohort_of_other_scans_than_the_recipes_is_told_what_to_pass(tmp_path: Path) -> None:
    for scan in (1, 2):
        touch(tmp_path, f"BraTS-MEN-RT-000{scan}-1_t1c.nii.gz")
    found = cohort.find(str(tmp_path))
    sentence = (
        r"no case of \S+ has all scans that the recipe reads \(t1ce, t2, flair\), nor do those of "
        r"its task, men-rt, usually; all of them have t1ce: pass "
        r"--set preprocess\.modalities=t1ce preprocess\.allow_skull=true, since their scans have "
        "the skull on$"
    )
    with pytest.raises(UsageError, match=sentence):
        cohort.check_inputs(found, with_settings())
    with pytest.raises(UsageError, match=r"modalities=t1ce$"):
        cohort.check_inputs(found, with_settings("preprocess.allow_skull=true"))
    (line,) = cohort.check_inputs(found, with_settings("preprocess.modalities=t1ce"))
    assert line.endswith("refuses such: pass --set preprocess.allow_skull=true")
    both = with_settings("preprocess.modalities=t1ce", "preprocess.allow_skull=true")
    assert cohort.check_inputs(found, both) == []


def test_a_described_cohort_of_other_scans_is_told_what_to_pass(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr", "a_0000.nii.gz", "a_0001.nii.gz")
    names = '{"0": "T1-Gd", "1": "T1"}, "labels": {"background": 0, "core": 1}'
    (tmp_path / "dataset.json").write_text(
        f'{{"channel_names": {names}, "file_ending": ".nii.gz"}}'
    )
    with pytest.raises(UsageError, match=r"all of them have t1, t1ce: pass --set \S+=t1,t1ce$"):
        cohort.check_inputs(cohort.find(str(tmp_path)), with_settings())


def test_a_scan_that_its_task_usually_has_is_missing_case_by_case(tmp_path: Path) -> None:
    touch(tmp_path, "BraTS-PED-00001-000-t1c.nii.gz")
    assert cohort.check_inputs(cohort.find(str(tmp_path)), with_settings()) == []
    # One case that has all scans says that the recipe is meant.
    touch(tmp_path / "rt", "BraTS-MEN-RT-0001-1_t1c.nii.gz")
    for kind in ("t1c", "t2w", "t2f"):
        touch(tmp_path / "rt", f"BraTS-MEN-RT-0002-1_{kind}.nii.gz")
    config = with_settings("preprocess.allow_skull=true")
    assert cohort.check_inputs(cohort.find(str(tmp_path / "rt")), config) == []


OWN = (
    'name = "own"\nclasses = [{name = "c", integer = 9}]\nregions = [{name = "C", classes = ["c"]}]'
)


def test_a_task_is_read_from_a_file_whatever_editor_wrote_it(tmp_path: Path) -> None:
    for number, content in enumerate(
        (OWN.encode(), b"\xef\xbb\xbf" + OWN.encode(), OWN.replace("\n", "\r\n").encode())
    ):
        path = tmp_path / f"{number}.TOML"
        path.write_bytes(content)
        task = cohort.task_of(str(path))
        assert task is not None
        assert (task.name, task.integers) == ("own", (9,))


def test_what_is_no_file_of_a_task_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "latin.json").write_bytes(b'{"name": "caf\xe9"}')
    (tmp_path / "large.toml").write_bytes("# é".encode() * 3_000_000)
    for name, sentence in (
        ("folder.toml", "a folder: expected the file of a task"),
        ("latin.json", "expected text in UTF-8"),
        ("large.toml", "more than 1048576 bytes: expected a task"),
        ("absent.toml", "no such file"),
    ):
        path = tmp_path / name
        with pytest.raises(UsageError, match=f"^--task {path}: {sentence}$"):
            cohort.task_of(str(path))


def test_links_that_lead_nowhere_are_told_and_never_lost(tmp_path: Path) -> None:
    kinds = ("t1ce", "t2", "flair")
    touch(tmp_path / "c", *(f"a/a_{kind}.nii.gz" for kind in kinds))
    (tmp_path / "c" / "b").mkdir()
    for kind in kinds:
        (tmp_path / "c" / "b" / f"b_{kind}.nii.gz").symlink_to(f"/nowhere/{kind}")
    (tmp_path / "c" / "d").symlink_to("/nowhere/d")
    there = cohort.find(str(tmp_path / "c"))
    assert [case.case_id for case in there.cases] == ["a", "b"]
    assert [note for note in there.notes if "1 link(s) lead nowhere" in note]
    assert "d leads to /nowhere/d" in str(there.notes)
    row = inspection.check_case(there.cases[1], named.get("standard").preprocess)
    assert (row.status, row.file) == ("rejected", str(tmp_path / "c/b/b_t1ce.nii.gz"))
    assert "a link to /nowhere/t1ce, which is not there" in row.reason
