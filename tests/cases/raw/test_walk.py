"""Which files below a folder are looked at, and which are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import touch

from ray_brats.cases.raw import elements, walk
from ray_brats.errors import UsageError

DICOM = bytes(128) + b"DICM"


def put(folder: Path, *names: str) -> None:
    touch(folder, *names)
    for name in names:
        (folder / name).write_bytes(DICOM)


def names(folder: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """NIfTI and DICOM by their paths, and why others are neither."""
    found = walk.files_below(folder)
    nifti, dicom = (
        [path.relative_to(folder).as_posix() for path in paths]
        for paths in (found.nifti, found.dicom)
    )
    return nifti, dicom, {item.name: item.reason for item in found.ignored}


def test_files_are_sorted_by_what_they_are_and_not_by_their_endings(tmp_path: Path) -> None:
    put(tmp_path, "a/IM0001", "a/b/c/x.dcm", "a/y.txt", "DICOMDIR")
    touch(tmp_path, "a/t1.nii", "n/t2.NII.GZ", "n/t2.json", "n/t2.nii.json")
    touch(tmp_path, "a/z.dcm", "notes.txt", "m.mgz", "n/t3.json")
    assert names(tmp_path) == (
        ["a/t1.nii", "n/t2.NII.GZ"],
        ["DICOMDIR", "a/IM0001", "a/y.txt", "a/b/c/x.dcm"],
        {
            "notes.txt": elements.NOT_DICOM,
            "m.mgz": walk.OTHER_FORMAT,
            "z.dcm": walk.OTHER_FORMAT,
            "t3.json": elements.NOT_DICOM,
            "t2.nii.json": elements.NOT_DICOM,
        },
    )


def test_hidden_files_and_what_macos_adds_are_nothing(tmp_path: Path) -> None:
    put(tmp_path, ".git/IM1", "__MACOSX/IM1", "a/._IM1", "a/.DS_Store", "a/IM1")
    assert names(tmp_path) == ([], ["a/IM1"], {})


def test_no_link_leads_out_of_the_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(root, "a/IM1", ".store/IM2")
    put(outside, "IM3")
    for link, target in (
        ("out", outside),
        ("out.dcm", outside / "IM3"),
        ("up", tmp_path),
        ("circle", root),
        ("inside", root / "a"),
        ("IM2", root / ".store/IM2"),
        ("broken", root / "absent"),
        ("self", root / "self"),
    ):
        (root / link).symlink_to(target)
    _, dicom, ignored = names(root)
    assert dicom == ["IM2", "a/IM1"]
    assert ignored == {
        **dict.fromkeys(("out", "out.dcm", "up"), walk.LEADS_OUT),
        **dict.fromkeys(("circle", "inside"), walk.LEADS_IN),
        **dict.fromkeys(("broken", "self"), walk.CLOSED),
    }


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert names(tmp_path) == ([], [], {"pipe": walk.CLOSED})


def test_more_files_than_may_be_are_refused(tmp_path: Path) -> None:
    put(tmp_path, *(f"IM{number}" for number in range(5)))
    assert len(walk.files_below(tmp_path, 5).dicom) == 5
    with pytest.raises(UsageError, match="more than 4 files"):
        walk.files_below(tmp_path, 4)
