"""A case as the row of a task, and what follows from its name and its files."""

from __future__ import annotations

import os

from ray_brats.cases.case import Case, case_of, rejection
from ray_brats.files.local import FileInfo


def test_rows_survive_the_trip_through_arrow() -> None:
    case = Case(case_id="a", patient_id="a", images={"t2": "u"}, segmentation="s")
    row = case.as_row()
    row["images"]["t1"] = None
    assert Case.from_row(row) == case


def test_what_is_not_told_follows_from_the_name() -> None:
    name = "BraTS-GLI-00005-100"
    files = {kind: FileInfo(uri=kind, size_bytes=9, etag=f"e-{kind}") for kind in ("seg", "t2")}
    case = case_of(name, files)
    assert (case.patient_id, case.task) == ("BraTS-GLI-00005", None)
    assert (case.images, case.segmentation) == ({"t2": "t2"}, "seg")
    assert case_of(name, files, patient_id="p").patient_id == "p"
    assert case.inputs(["t1", "t2"]) == {"t2": "e-t2", "seg": "e-seg"}


def test_a_length_is_known_only_of_files_that_were_seen() -> None:
    files = {
        "t1": FileInfo(uri="seen", size_bytes=9, etag="e"),
        "t2": FileInfo(uri="unseen", size_bytes=0, etag=""),
    }
    assert case_of("a", files).sizes_bytes == {"seen": 9}


def test_the_row_of_a_rejected_case_can_be_written_down() -> None:
    row = rejection("a", "its folder is odd", os.fsdecode(b"caf\xe9"))
    assert row.as_json() == {
        "case_id": "a",
        "status": "rejected",
        "reason": "its folder is odd",
        "file": "caf\ufffd",
    }


def test_the_files_of_a_case_are_those_that_hold_it_once_each() -> None:
    images = {"t1": "a.nii#0", "t2": "a.nii#1", "flair": "b#1.nii"}
    case = Case(case_id="a", patient_id="a", images=images, segmentation="s.nii", channels=2)
    assert list(case.files()) == ["a.nii", "b#1.nii", "s.nii"]
    assert Case.from_row(case.as_row()) == case
