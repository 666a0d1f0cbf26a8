"""The challenge's zip: whole and valid, or not written."""

from __future__ import annotations

import dataclasses
import gzip
import io
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import rewrite

from ray_brats.cases import cohort
from ray_brats.errors import UsageError
from ray_brats.recipes import tasks
from ray_brats.stages import submission
from ray_brats.stages.submission import submit


@pytest.fixture
def predictions(cohort_folder: Path, tmp_path: Path) -> Path:
    """The references themselves, as predictions."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    for path in cohort_folder.rglob("*_seg.nii.gz"):
        (folder / path.name.replace("_seg", "")).write_bytes(path.read_bytes())
    return folder


def names(path: Path) -> list[str]:
    return zipfile.ZipFile(path).namelist()


def test_a_valid_cohort_becomes_a_flat_zip_of_equal_bytes(
    cohort_folder: Path, predictions: Path, tmp_path: Path
) -> None:
    found = cohort.find(str(cohort_folder))
    (predictions / "BraTS20_Training_099.nii.gz").write_bytes(b"of another cohort")
    out = tmp_path / "out.zip"
    summary = submit(found, str(predictions), str(out), task=None)
    assert summary.failures == []
    assert summary.submission == str(out)
    assert "BraTS20_Training_099" in summary.notes[0]
    assert names(out) == [f"BraTS20_Training_{n:03d}.nii.gz" for n in range(1, 6)]
    archive = zipfile.ZipFile(out)
    assert archive.testzip() is None
    for name in archive.namelist():
        assert archive.read(name) == (predictions / name).read_bytes()
    backwards = dataclasses.replace(found, cases=found.cases[::-1])
    submit(backwards, str(predictions), str(tmp_path / "again.zip"), task=None)
    assert (tmp_path / "again.zip").read_bytes() == out.read_bytes()


def test_every_problem_is_a_row_and_leaves_no_zip(
    cohort_folder: Path, predictions: Path, tmp_path: Path
) -> None:
    path = {n: predictions / f"BraTS20_Training_{n:03d}.nii.gz" for n in range(1, 6)}
    path[1].unlink()
    rewrite(path[2], lambda voxels: voxels[1:])
    rewrite(path[3], lambda voxels: np.where(voxels > 0, 3, 0))
    image = nib.load(path[4])
    moved = image.affine + np.eye(4)[:, [3, 3, 3, 3]] * 0
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), path[4])
    path[5].write_bytes(path[5].read_bytes()[:200])
    out = tmp_path / "out.zip"
    found = cohort.find(str(cohort_folder))
    summary = submit(found, str(predictions), str(out), task=None)
    assert not out.exists()
    assert summary.submission is None
    reasons = {row.case_id[-1]: row.reason for row in summary.failures}
    expected = {"1": "no prediction", "2": "shape", "3": "label 3", "4": "affine", "5": "truncated"}
    assert {n: text in reasons[n] for n, text in expected.items()} == dict.fromkeys(expected, True)
    assert all(row.file for row in summary.failures)


def test_a_mask_in_other_axes_is_handed_in_as_its_scan_is_stored(
    cohort_folder: Path, predictions: Path, tmp_path: Path
) -> None:
    path = predictions / "BraTS20_Training_002.nii.gz"
    plain = nib.load(path)
    expected = np.asarray(plain.dataobj)
    axes = nib.orientations.axcodes2ornt("SRA")
    turn = nib.orientations.ornt_transform(nib.io_orientation(plain.affine), axes)
    nib.save(plain.as_reoriented(turn), path)
    out = tmp_path / "out.zip"
    found = cohort.find(str(cohort_folder))
    assert submit(found, str(predictions), str(out), task=None).failures == []
    content = zipfile.ZipFile(out).read(path.name)
    written = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    assert np.array_equal(np.asarray(written.dataobj), expected)
    assert np.allclose(written.affine, plain.affine)


def test_names_are_the_releases(cohort_folder: Path, predictions: Path, tmp_path: Path) -> None:
    found = cohort.find(str(cohort_folder), task=tasks.TASKS["gli-2021"])
    summary = submit(
        found, str(predictions), str(tmp_path / "out.zip"), task=tasks.TASKS["gli-2021"]
    )
    assert len(summary.failures) == 5
    assert "gli-2021 has no case of this name" in summary.failures[0].reason


def test_what_cannot_be_a_submission_is_said_first(cohort_folder: Path, tmp_path: Path) -> None:
    found = cohort.find(str(cohort_folder))
    with pytest.raises(UsageError, match=r"\.zip"):
        submit(found, str(tmp_path), str(tmp_path / "out.tar"), task=None)
    with pytest.raises(UsageError, match="holds no <case_id>"):
        submit(found, str(tmp_path / "absent"), str(tmp_path / "out.zip"), task=None)
    cases = tuple(dataclasses.replace(case, task=None) for case in found.cases)
    unnamed = dataclasses.replace(found, cases=cases)
    with pytest.raises(UsageError, match="--task"):
        submit(unnamed, str(tmp_path), str(tmp_path / "out.zip"), task=None)


def test_a_zip_holds_no_clock() -> None:
    archive = zipfile.ZipFile(io.BytesIO(submission.zip_bytes({"b": b"2", "a": b"1"})))
    assert [(info.filename, info.date_time[0]) for info in archive.infolist()] == [
        ("a", 1980),
        ("b", 1980),
    ]


def test_a_zip_replaces_one_that_was_made_here_and_no_other(
    cohort_folder: Path, tmp_path: Path
) -> None:
    found, target = cohort.find(str(cohort_folder)), tmp_path / "out.zip"
    masks = tmp_path / "masks"
    masks.mkdir()
    for case in found.cases:
        shutil.copy(str(case.segmentation), masks / f"{case.case_id}.nii.gz")
    submit(found, str(masks), str(target), task=None)
    first = target.read_bytes()
    submit(found, str(masks), str(target), task=None)
    assert target.read_bytes() == first
    target.write_bytes(theirs := first[:-1] + b"!")
    with pytest.raises(UsageError, match="there is such a file already"):
        submit(found, str(masks), str(target), task=None)
    assert target.read_bytes() == theirs


def test_masks_by_other_names_enter_the_zip_as_the_challenge_wants_them(
    cohort_folder: Path, predictions: Path, tmp_path: Path
) -> None:
    ours = [predictions / f"BraTS20_Training_{n:03d}.nii.gz" for n in range(1, 6)]
    before = [np.asarray(nib.load(path).dataobj) for path in ours]
    nib.save(nib.load(ours[0]), predictions / "BraTS20_Training_001_seg.nii")
    ours[0].unlink()
    ours[1].rename(predictions / "BraTS20_Training_002-seg.nii.gz")
    out = tmp_path / "out.zip"
    summary = submit(cohort.find(str(cohort_folder)), str(predictions), str(out), task=None)
    assert summary.failures == []
    assert names(out) == [path.name for path in ours]
    for path, voxels in zip(ours, before, strict=True):
        content = gzip.decompress(zipfile.ZipFile(out).read(path.name))
        assert np.array_equal(nib.Nifti1Image.from_bytes(content).dataobj, voxels)


def test_tasks_without_names_of_their_own_take_any(
    cohort_folder: Path, predictions: Path, tmp_path: Path
) -> None:
    decathlon = tasks.TASKS["msd-task01"]
    for file in predictions.glob("*.nii.gz"):
        rewrite(file, lambda voxels: np.where(voxels == 4, 3, voxels))
    found = cohort.find(str(cohort_folder), task=decathlon)
    summary = submit(found, str(predictions), str(tmp_path / "out.zip"), task=decathlon)
    assert summary.failures == []
    assert summary.submission == str(tmp_path / "out.zip")
