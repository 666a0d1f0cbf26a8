"""Whole folders: studies, their series, and what is ignored."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import dicoms as make
import nibabel as nib
import numpy as np
import pytest

from ray_brats.cases.raw import choice, studies
from ray_brats.cases.raw.choice import Choice
from ray_brats.cases.raw.studies import Study
from ray_brats.errors import UsageError

pytest.importorskip("pydicom")
pytest.importorskip("dcm2niix")

HEAD = make.voxels_of((48, 56, 20))
GRID = np.diag([4.0, 4.0, 6.0, 1.0])


def write_study(folder: Path, *, one_folder: bool = False, **values: str) -> None:
    """Four series and a localiser of a patient, each in a folder of its own or all in one."""
    for name, tags in make.STUDY.items():
        place = folder if one_folder else folder / f"{tags.number}.000-{name}"
        make.write(place, HEAD, GRID, dataclasses.replace(tags, **values))
    localiser = make.Tags(description="localizer", **values)
    make.localiser(folder if one_folder else folder / "1.000-loc", localiser)


def save(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(make.voxels_of(HEAD.shape, seed).astype(np.int16), GRID), path)


def chosen(study: Study, folder: Path, **asked: str) -> Choice:
    found, _ = studies.series_of(study, folder, asked=asked.values())
    return choice.choose(found, asked)


def numbers(found: Choice) -> dict[str, int | None]:
    return {name: one.number for name, one in found.chosen.items()}


@pytest.mark.parametrize("one_folder", [False, True])
def test_a_study_of_dicom_comes_to_its_four_series(tmp_path: Path, one_folder: bool) -> None:
    write_study(tmp_path / "in/P1", one_folder=one_folder)
    make.secondary_capture(tmp_path / "in/P1")
    (study,) = studies.find(tmp_path / "in")
    assert (study.name, study.patient) == ("P1", "PATIENT-1")
    found, ignored = studies.series_of(study, tmp_path / "work")
    result = choice.choose(found)
    assert numbers(result) == {"t1": 2, "t1ce": 6, "t2": 3, "flair": 4}
    assert result.unsure == frozenset()
    assert sorted((item.name, item.files) for item in ignored) == [
        ("Screenshot", 1),
        ("localizer", 6),
    ]
    for one in found:
        assert one.path.is_relative_to(tmp_path / "work")
        assert one.warnings == ()
        assert [path.name for path in one.sources] == [
            f"IM{one.number:03d}{k:04d}" for k in range(20)
        ]


def test_what_headers_rule_out_is_converted_only_if_somebody_asks(tmp_path: Path) -> None:
    write_study(tmp_path / "P1")
    dwi = dataclasses.replace(make.T2, number=7, description="ep2d_diff_b1000")
    make.write(tmp_path / "P1/dwi", HEAD, GRID, dwi)
    (study,) = studies.find(tmp_path / "P1")
    found, ignored = studies.series_of(study, tmp_path / "a")
    assert 7 not in [one.number for one in found]
    assert "diffusion: its name says 'diff'" in [item.reason for item in ignored]
    for text in ("7", " EP2D_diff_b1000 "):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        assert numbers(chosen(study, tmp_path / "b", t2=text))["t2"] == 7


def test_studies_of_one_patient_are_in_order_of_time_without_a_date(tmp_path: Path) -> None:
    for study, date in (("9", "20210101"), ("5", "20200101"), ("7", "20220101")):
        make.write(
            tmp_path / "in/P1",
            HEAD,
            GRID,
            dataclasses.replace(make.T1, study=study, date=date, number=int(study)),
        )
    found = studies.find(tmp_path / "in")
    assert [study.name for study in found] == ["P1-1", "P1-2", "P1-3"]
    assert [study.dicom[0].number for study in found] == [5, 9, 7]
    assert {study.patient for study in found} == {"PATIENT-1"}


def test_mixed_patients_in_one_folder_are_several(tmp_path: Path) -> None:
    for patient in ("SECRET-B", "SECRET-A"):
        tags = dataclasses.replace(make.T1, patient=patient)
        make.write(tmp_path / "in" / patient[-1], HEAD, GRID, tags)
    for path in [*(tmp_path / "in").rglob("IM*")]:
        path.rename(tmp_path / "in" / f"{path.parent.name}{path.name}")
    found = studies.find(tmp_path / "in")
    assert [(study.name, study.patient) for study in found] == [
        ("in-1", "SECRET-A"),
        ("in-2", "SECRET-B"),
    ]


def test_a_name_that_a_folder_has_is_given_to_no_other_study(tmp_path: Path) -> None:
    for study in ("1", "2"):
        make.write(
            tmp_path / "P", HEAD, GRID, dataclasses.replace(make.T1, study=study, number=int(study))
        )
    make.write(tmp_path / "P-1", HEAD, GRID, dataclasses.replace(make.T1, study="3"))
    assert [study.name for study in studies.find(tmp_path)] == ["P-1", "P-2", "P-3"]


def test_folders_of_nifti_are_studies(tmp_path: Path) -> None:
    flat = [f"C{case}_{name}" for case in (1, 2) for name in ("t1", "t2")]
    for name in ("P1/t1_raw", "P1/t1ce_raw", "P2/T1/a", "P2/T2/a", *flat):
        save(tmp_path / f"{name}.nii.gz")
    found = studies.find(tmp_path)
    assert [study.name for study in found] == ["C1", "C2", "P1", "P2"]
    assert [len(study.nifti) for study in found] == [2, 2, 2, 2]
    result = [chosen(study, tmp_path / "work") for study in found]
    assert [[*one.chosen] for one in result] == [["t1", "t2"]] * 2 + [["t1", "t1ce"], ["t1", "t2"]]
    assert not (tmp_path / "work").exists()


def test_a_sidecar_beside_nifti_is_read(tmp_path: Path) -> None:
    save(tmp_path / "scan.nii.gz")
    sidecar = {"SeriesDescription": "Ax T2 FLAIR", "SeriesNumber": 5, "EchoTime": 0.1}
    (tmp_path / "scan.json").write_text(json.dumps(sidecar))
    (study,) = studies.find(tmp_path)
    assert study.ignored == ()
    assert numbers(chosen(study, tmp_path)) == {"flair": 5}
    for content in ("[", "[]", "[" * 9999, "{" + " " * (1 << 20) + "}"):
        (tmp_path / "scan.json").write_text(content)
        found, _ = studies.series_of(study, tmp_path)
        assert [one.description for one in found] == [""]


def test_a_damaged_image_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    for name in ("t1", "t2"):
        save(tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "in/flair.nii").write_bytes(b"no")
    write_study(tmp_path / "in/dicom")
    broken = make.write(
        tmp_path / "in/dicom/x", HEAD, GRID, dataclasses.replace(make.T2, number=9), rle=True
    )
    for path in broken:
        path.write_bytes(path.read_bytes()[:-3000])
    dicom, nifti = studies.find(tmp_path / "in")
    found, ignored = studies.series_of(nifti, tmp_path / "work")
    assert [one.name for one in found] == ["t1", "t2"]
    assert [(item.name, item.reason[:9]) for item in ignored] == [("flair", "truncated")]
    assert {one.number for one in studies.series_of(dicom, tmp_path / "work")[0]} == {2, 3, 4, 6}


def test_a_scan_that_was_exported_twice_is_one_series(tmp_path: Path) -> None:
    for name, seed in (("t1_a", 1), ("t1_b", 1), ("t2", 2)):
        save(tmp_path / f"{name}.nii", seed)
    (study,) = studies.find(tmp_path)
    found = chosen(study, tmp_path)
    assert {name: one.path.name for name, one in found.chosen.items()} == {
        "t1": "t1_a.nii",
        "t2": "t2.nii",
    }
    assert [(one.name, why) for one, why in found.ignored] == [("t1_b", "the same as t1_a")]
    save(tmp_path / "t1_b.nii", 3)
    with pytest.raises(choice.CaseRejected, match="nothing tells t1_a"):
        chosen(study, tmp_path)


def test_a_file_whose_name_is_not_in_utf8_is_told_in_text(tmp_path: Path) -> None:
    save(tmp_path / "P1/a.nii.gz")
    (tmp_path / "P1/a.nii.gz").rename(tmp_path / "P1/caf\udce9.nii.gz")
    (tmp_path / "P1/caf\udce9.txt").write_text("x")
    (study,) = studies.find(tmp_path)
    assert [item.name for item in study.ignored] == ["caf\ufffd.txt"]
    found, _ = studies.series_of(study, tmp_path)
    with pytest.raises(choice.CaseRejected, match="caf\ufffd") as caught:
        choice.choose(found)
    assert str(caught.value).encode()
    assert Study.from_row(json.loads(json.dumps(study.as_row()))) == study


def test_ignored_files_are_told_with_the_study_that_they_lie_in(tmp_path: Path) -> None:
    make.write(tmp_path / "P1/a", HEAD, GRID, make.T1)
    make.write(tmp_path / "P2/b", HEAD, GRID, dataclasses.replace(make.T1, patient="2"))
    make.secondary_capture(tmp_path, make.Tags(patient="2", number=50, description="Screenshot"))
    for name in ("P1/notes.txt", "P2/b/c/notes.pdf", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    one, other = studies.find(tmp_path)
    assert {item.name for item in one.ignored} == {"notes.txt", "README"}
    assert {item.name for item in other.ignored} == {"notes.pdf", "Screenshot"}


def test_a_folder_without_a_study_says_what_is_there_and_names_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is empty"):
        studies.find(tmp_path)
    with pytest.raises(UsageError, match="expected a folder"):
        studies.find(tmp_path / "absent")
    make.secondary_capture(tmp_path / "Doe^Jane")
    for number in range(3):
        (tmp_path / f"Doe {number}.txt").write_text("x")
    with pytest.raises(UsageError) as caught:
        studies.find(tmp_path)
    assert "3 file(s): neither a DICOM nor a NIfTI file; 1 file(s): a secondary" in str(
        caught.value
    )
    assert "Doe" not in str(caught.value)


def test_an_enhanced_study_and_a_series_with_gaps_come_through(tmp_path: Path) -> None:
    make.enhanced(tmp_path, HEAD, GRID, make.T1CE)
    there = [k for k in range(20) if k != 7]
    make.write(tmp_path, HEAD, GRID, make.FLAIR, slices=there)
    (study,) = studies.find(tmp_path)
    result = chosen(study, tmp_path / "work")
    assert numbers(result) == {"t1ce": 6, "flair": 4}
    flair = result.chosen["flair"]
    assert (flair.missing_slices, flair.slices) == (1, 20)
    assert [note.split(" ")[0] for note in flair.warnings] == ["1", "what"]


def test_a_study_is_the_same_after_its_way_to_a_task_elsewhere(tmp_path: Path) -> None:
    """Of single slices with a gap, of several frames and of NIfTI, with what is ignored."""
    write_study(tmp_path / "P1")
    make.write(tmp_path / "P1/gap", HEAD, GRID, make.FLAIR, slices=[k for k in range(20) if k != 7])
    make.enhanced(tmp_path / "P2", HEAD, GRID, dataclasses.replace(make.T1CE, patient="2"))
    make.secondary_capture(tmp_path / "P2", make.Tags(patient="2", number=50))
    for name in ("P3/t1", "P3/t2"):
        save(tmp_path / f"{name}.nii.gz")
    (tmp_path / "P3/notes.txt").write_text("x")
    found = studies.find(tmp_path)
    assert [bool(study.ignored) for study in found] == [False, True, True]
    for study in found:
        row = json.loads(json.dumps(study.as_row(), allow_nan=False))
        assert Study.from_row(row) == study
        assert Study.from_row(row).etag() == study.etag()
        assert [*Study.from_row(row).files()] == [*study.files()]


@pytest.mark.parametrize("form", ["dicom", "nifti"])
def test_the_etag_of_a_study_changes_with_each_of_its_files_and_with_no_other(
    tmp_path: Path, form: str
) -> None:
    (tmp_path / "in").mkdir()
    if form == "dicom":
        for tags in (make.T1, make.T2):
            make.write(tmp_path / f"in/P1/{tags.number}", HEAD, GRID, tags, slices=range(9))
    else:
        for name in ("P1/t1", "P1/T2/a"):
            save(tmp_path / f"in/{name}.nii.gz")

    def etag(root: Path = tmp_path / "in") -> str:
        (study,) = studies.find(root)
        return study.etag()

    before = etag()
    (tmp_path / "in/P1/notes.txt").write_text("x")
    shutil.copytree(tmp_path / "in", tmp_path / "elsewhere/deep")
    assert {etag(), etag(tmp_path / "elsewhere/deep"), etag(tmp_path / "in/P1")} == {before}
    (study,) = studies.find(tmp_path / "in")
    for path in study.files():
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        os.utime(path, ns=(times[0], times[1] + 1))
        assert study.etag() != before
        content = path.read_bytes()
        path.write_bytes(content + b"\0")
        os.utime(path, ns=times)
        assert study.etag() != before
        path.write_bytes(content)
        os.utime(path, ns=times)
        assert study.etag() == before
    path = next(study.files())
    path.rename(path.with_name(f"x{path.name}"))
    assert etag() != before


def test_what_tells_a_series_beside_its_image_counts_for_the_etag(tmp_path: Path) -> None:
    save(tmp_path / "scan.nii.gz")
    etags = []
    for description in (None, "Ax T2", "Ax T2 FLAIR"):
        if description:
            sidecar = json.dumps({"SeriesDescription": description})
            (tmp_path / "scan.json").write_text(sidecar)
        (study,) = studies.find(tmp_path)
        etags.append(study.etag())
    assert len({*etags}) == 3


def test_dicom_is_seen_without_the_packages_that_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    save(tmp_path / "nifti/t1.nii.gz")
    (tmp_path / "nifti/IM0001.dcm").write_bytes(b"no image")
    assert not studies.has_dicom(tmp_path / "nifti")
    monkeypatch.undo()
    make.write(tmp_path / "both/deep/er", HEAD, GRID, make.T1, slices=[0])
    save(tmp_path / "both/t1.nii.gz")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert studies.has_dicom(tmp_path / "both")
    with pytest.raises(UsageError, match=r"need pydicom.*pip install"):
        studies.find(tmp_path / "both")


@pytest.mark.parametrize(
    ("names", "reference"),
    [
        (("t1_raw", "t1ce_raw", "t2_raw"), "t1ce_raw"),
        (("flair", "t2", "t1"), "t1"),
        (("t2", "flair"), "flair"),
        (("t2",), "t2"),
        (("a/T1CE/x", "a/T2/x"), "a/T1CE/x"),
        (("P1_t1", "P1_t2", "P2_t1", "P2_t2"), None),
    ],
)
def test_the_reference_of_one_study_is_told_by_names(
    tmp_path: Path, names: Sequence[str], reference: str | None
) -> None:
    for name in names:
        save(tmp_path / f"{name}.nii.gz")
    expected = None if reference is None else tmp_path / f"{reference}.nii.gz"
    assert studies.reference_in(tmp_path) == expected


def test_where_nothing_tells_a_series_there_is_no_reference(tmp_path: Path) -> None:
    save(tmp_path / "scan.nii.gz")
    with pytest.raises(choice.CaseRejected, match="no series is T1"):
        studies.reference_in(tmp_path)
    make.write(tmp_path / "dicom", HEAD, GRID, make.T1CE)
    assert studies.reference_in(tmp_path / "dicom") is None


@pytest.mark.parametrize(
    ("case", "modalities", "ignored"),
    [
        ("TCGA-FG-6692", ["t1", "t1ce", "t2", "flair"], ["brainmask"] * 2 + ["reference"] * 4),
        ("openms-01", ["t1", "t2", "flair"], []),
    ],
)
def test_real_patients_are_read_by_names_alone(
    real_data: Path, tmp_path: Path, case: str, modalities: Sequence[str], ignored: Sequence[str]
) -> None:
    folder = real_data / "raw" / case
    if not folder.is_dir():
        pytest.skip("no raw patients among the real cases")
    (study,) = studies.find(folder)
    assert study.name == case
    result = chosen(study, tmp_path)
    assert {name: one.name for name, one in result.chosen.items()} == {
        name: f"{name}_raw" for name in modalities
    }
    assert {one.plane for one in result.chosen.values()} == {"axial"}
    assert result.unsure == frozenset()
    reasons = [why for _, why in result.ignored]
    assert sorted(re.findall("brainmask|reference", " ".join(reasons))) == ignored
    assert len(reasons) == len(ignored)


def test_what_pydicom_ships_is_studies_and_sentences(tmp_path: Path) -> None:
    import pydicom.data.data_manager

    found = studies.find(Path(pydicom.data.data_manager.DATA_ROOT, "test_files"))
    assert any("truncated" in item.reason for study in found for item in study.ignored)
    for number, study in enumerate(found):
        series, ignored = studies.series_of(study, tmp_path / f"{number}", asked=["1", "2"])
        assert series or ignored
        assert all(item.reason for item in ignored)
        with pytest.raises(choice.CaseRejected):
            choice.choose(series)
