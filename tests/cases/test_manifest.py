"""Cohorts as CSV: paths, aliases, and rows that cannot be meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import touch

from ray_brats.cases import cohort, manifest, volume
from ray_brats.cases.case import Guard
from ray_brats.errors import CaseRejected, UsageError


@pytest.mark.parametrize("name", ["../evil", "..", "a/b", "a\x1bb", "x" * 129, ""])
def test_names_that_would_leave_the_folder_are_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / "c.csv").write_text(f"case_id,t2\n{name},a.nii.gz\ngood,b.nii.gz\n")
    found = cohort.find(str(tmp_path / "c.csv"))
    assert [row.case_id for row in found.rejected] == [name]
    assert [case.case_id for case in found.cases] == ["good"]


def test_csv_paths_are_relative_to_the_csv_and_aliases_are_known(tmp_path: Path) -> None:
    touch(tmp_path, "scans/x.nii.gz")
    (tmp_path / "c.csv").write_text("case_id,t1c,patient_id,split\na,scans/x.nii.gz,p,val\n")
    (case,) = cohort.find(str(tmp_path / "c.csv")).cases
    assert case.images == {"t1ce": str(tmp_path / "scans/x.nii.gz")}
    assert (case.patient_id, case.split) == ("p", "val")
    assert case.inputs(["t1ce"])["t1ce"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("case_id,t2,split\na,x.nii.gz,validation\n", "split 'validation' is none of train, val"),
        ("case_id,t1ce,t2,seg\n", "no row"),
        ("case_id,t1ce,t1c\na,x.nii.gz,y.nii.gz\n", "t1ce, t1c: one column too many"),
        ("case_id,t2\na," + "x" * 200_000, "not a CSV"),
    ],
)
def test_a_csv_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(UsageError, match=reason):
        cohort.find(str(tmp_path / "c.csv"))


def test_what_a_csv_names_and_is_no_file_is_a_rejected_case(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    touch(tmp_path, "folder/a.nii", "file.nii")
    named = ("pipe.nii", "folder", "file.nii/a.nii", "absent.nii")
    lines = [f"c{number},{name}" for number, name in enumerate(named)]
    (tmp_path / "c.csv").write_text("\n".join(["case_id,t2", *lines]))
    for case in cohort.find(str(tmp_path / "c.csv")).cases:
        with pytest.raises(CaseRejected, match=r"no such file|truncated: 0 bytes"):
            volume.read(case.images["t2"])


def test_a_file_that_must_not_be_looked_at_rejects_its_case_with_the_reason(
    tmp_path: Path,
) -> None:
    (tmp_path / "c.csv").write_text("case_id,t2,split\na,/etc/x.nii,val\nb,y.nii,train\n")
    guard = Guard(refusal=lambda uri: "not here" if uri.startswith("/etc") else None)
    found = cohort.find(str(tmp_path / "c.csv"), guard=guard)
    assert [case.case_id for case in found.cases] == ["b"]
    (row,) = found.rejected
    assert (row.reason, row.file, row.facts["split"]) == ("not here", "/etc/x.nii", "val")


@pytest.mark.parametrize("most", ["bytes", "rows", "columns"])
def test_a_csv_of_somebody_else_is_not_taken_in_whatever_its_size(
    tmp_path: Path, most: str
) -> None:
    uri = tmp_path / "c.csv"
    uri.write_text("case_id,t1ce,t2\n" + "".join(f"c{number},a,b\n" for number in range(9)))
    counts = {"bytes": len(uri.read_bytes()), "rows": 9, "columns": 3}
    enough = Guard(**{f"most_{most}": counts[most]})
    assert len(cohort.find(str(uri), guard=enough).cases) == 9
    less = Guard(**{f"most_{most}": counts[most] - 1})
    with pytest.raises(UsageError, match=f"more than {counts[most] - 1} {most}"):
        cohort.find(str(uri), guard=less)


@pytest.mark.parametrize("name", ["c.csv", "C.CSV", "c.tsv"])
@pytest.mark.parametrize("delimiter", [",", ", ", ";", "\t"])
def test_a_csv_is_read_as_spreadsheets_write_it(tmp_path: Path, name: str, delimiter: str) -> None:
    file = "a.nii" if "," in delimiter else "a,1.nii"
    lines = (["case_id ", "t1ce", "split"], ["a", file, "val"])
    (tmp_path / name).write_text("\r\n".join(delimiter.join(line) for line in lines))
    (case,) = cohort.find(str(tmp_path / name)).cases
    assert (case.case_id, case.split) == ("a", "val")
    assert case.images["t1ce"].endswith(f"/{file}")


def test_names_with_blanks_and_other_letters_have_safe_ids(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("case_id,t2\nMüller 1,a.nii\nx_u00e9_y,b.nii\nz,c.nii\n")
    found = cohort.find(str(tmp_path / "c.csv"))
    ids = [case.case_id for case in found.cases]
    assert ids == ["M_u00fc_ller_u0020_1", "x_u005f_u00e9_y", "z"]
    assert "2 case(s)" in found.notes[0]
    assert found.rejected == ()


def test_a_csv_may_name_channels_of_4d_files(tmp_path: Path) -> None:
    touch(tmp_path, "scans/x.nii.gz", "a#1.nii.gz")
    lines = ["case_id,t1ce,t2,flair,t1", "a,scans/x.nii.gz#2,scans/x.nii.gz#0,a#1.nii.gz,y.nii#3"]
    (tmp_path / "c.csv").write_text("\n".join(lines))
    (case,) = cohort.find(str(tmp_path / "c.csv")).cases
    file = f"{tmp_path}/scans/x.nii.gz"
    assert (case.images["t1ce"], case.images["t2"]) == (f"{file}#2", f"{file}#0")
    assert case.sizes_bytes.keys() == {f"{file}#2", f"{file}#0", f"{tmp_path}/a#1.nii.gz"}
    inputs = case.inputs(["t1ce", "t2", "flair", "t1"])
    assert inputs["t1ce"] != inputs["t2"]
    assert all(inputs[kind] for kind in ("t1ce", "t2", "flair"))
    # A file that is not there is known by nothing.
    assert inputs["t1"] == ""
    assert set(case.files()) == {file, f"{tmp_path}/a#1.nii.gz", f"{tmp_path}/y.nii"}


@pytest.mark.parametrize("channel", ["flair", "-1", "01", ""])
def test_what_seems_to_be_a_channel_and_is_no_number_is_said(tmp_path: Path, channel: str) -> None:
    touch(tmp_path, "x.nii.gz")
    (tmp_path / "c.csv").write_text(f"case_id,t2\na,x.nii.gz#{channel}\n")
    (case,) = cohort.find(str(tmp_path / "c.csv")).cases
    with pytest.raises(CaseRejected, match="no such file; a channel of a 4-D file is a number"):
        volume.read(case.images["t2"])


def test_a_guard_judges_the_file_of_a_channel(tmp_path: Path) -> None:
    """As the one of the service, to which no `#` is part of a plain URI."""
    (tmp_path / "c.csv").write_text(
        "case_id,t2\na,s3://open/x.nii.gz#1\nb,s3://closed/x.nii.gz#1\nc,s3://open/x#.nii.gz\n"
    )
    judged = []

    def refusal(uri: str) -> str | None:
        judged.append(uri)
        return None if uri.startswith("s3://open/") and "#" not in uri else "not here"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest.storage, "file_infos", dict.fromkeys)
        found = cohort.find(str(tmp_path / "c.csv"), guard=Guard(refusal=refusal))
    assert [case.images["t2"] for case in found.cases] == ["s3://open/x.nii.gz#1"]
    assert [row.file for row in found.rejected] == [
        "s3://closed/x.nii.gz#1",
        "s3://open/x#.nii.gz",
    ]
    assert judged == ["s3://open/x.nii.gz", "s3://closed/x.nii.gz", "s3://open/x#.nii.gz"]
