"""Files of any names sorted into patients, studies and series."""

from __future__ import annotations

import dataclasses
import random
import shutil
from pathlib import Path

import dicoms as make
import numpy as np
import pytest

from ray_brats.cases.raw import dicoms
from ray_brats.cases.raw.dicoms import DicomSeries, Inventory

pytest.importorskip("pydicom")

VOXELS = make.voxels_of((20, 24, 12))
SECRETS = ("SECRET", "Doe", "Jane", "20200102")


def inventory(folder: Path) -> Inventory:
    """What lies below a folder; nothing that is said is of a patient."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    random.Random(0).shuffle(paths)
    found = dicoms.inventory(paths)
    said = [text for one in found.series for text in (*one.warnings, str(one.sidecar))]
    said += [f"{one.reason} {one.name}" for one in found.ignored]
    assert not any(secret in text for text in said for secret in SECRETS)
    return found


def only(folder: Path) -> DicomSeries:
    found = inventory(folder)
    assert found.ignored == ()
    (series,) = found.series
    return series


def test_a_study_in_one_folder_is_its_series(tmp_path: Path) -> None:
    for tags in make.STUDY.values():
        make.write(tmp_path, VOXELS, make.AXIAL_5MM, dataclasses.replace(tags, patient="SECRET"))
    found = inventory(tmp_path)
    assert [one.number for one in found.series] == [2, 3, 4, 6]
    assert {one.patient_id for one in found.series} == {"SECRET"}
    assert len({one.study_uid for one in found.series}) == 1
    for one in found.series:
        assert [path.name[-4:] for path in one.paths] == [f"{k:04d}" for k in range(12)]
        assert (one.slice_mm, one.volumes, one.warnings) == (pytest.approx(5), 1, ())
        assert one.modality == "MR"
    flair, enhanced = found.series[2:]
    assert flair.sidecar["InversionTime"] == pytest.approx(2.5)
    assert enhanced.sidecar["ContrastBolusAgent"] == "Gadovist"


def test_slices_are_in_order_of_their_place_whatever_their_numbers(tmp_path: Path) -> None:
    affine = np.diag([0.9, 0.9, -5, 1])
    series = only(make.write(tmp_path, VOXELS, affine, make.T1)[0].parent)
    assert [path.name[-4:] for path in series.paths] == [f"{k:04d}" for k in reversed(range(12))]
    assert series.origin_mm == pytest.approx((0, 0, -55))


def test_mixed_patients_and_studies_come_apart(tmp_path: Path) -> None:
    one = dataclasses.replace(make.T1, patient="SECRET-1", date="20210101")
    later = dataclasses.replace(one, study="2", date="20220101")
    earlier = dataclasses.replace(one, study="3", date="20200101")
    other = dataclasses.replace(one, patient="SECRET-2")
    for number, tags in enumerate((later, other, one, earlier)):
        make.write(tmp_path / f"{number}", VOXELS, make.AXIAL_5MM, tags)
    found = inventory(tmp_path)
    assert [(series.patient_id, series.study_time[:8]) for series in found.series] == [
        ("SECRET-1", "20200101"),
        ("SECRET-1", "20210101"),
        ("SECRET-1", "20220101"),
        ("SECRET-2", "20210101"),
    ]


def test_images_that_are_there_twice_count_once(tmp_path: Path) -> None:
    paths = make.write(tmp_path / "a", VOXELS, make.AXIAL_5MM, make.T1)
    (tmp_path / "b").mkdir()
    for path in paths[:3]:
        shutil.copy(path, tmp_path / "b")
    series = only(tmp_path)
    assert series.paths == tuple(paths)
    assert series.warnings == ("3 of its images are there more than once: one of each is taken",)


def test_missing_slices_are_told(tmp_path: Path) -> None:
    there = [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]
    make.write(tmp_path, VOXELS, make.AXIAL_5MM, make.T1, slices=there)
    series = only(tmp_path)
    assert series.places == tuple(there)
    assert series.missing_slices == 2
    assert series.warnings == ("2 of 12 slices are missing between others",)


def test_a_truncated_slice_is_a_gap(tmp_path: Path) -> None:
    paths = make.write(tmp_path, VOXELS, make.AXIAL_5MM, make.T1)
    paths[4].write_bytes(paths[4].read_bytes()[:-100])
    found = inventory(tmp_path)
    assert found.series[0].missing_slices == 1
    (ignored,) = found.ignored
    assert ignored.reason.startswith("truncated")


def test_two_orientations_are_two_series(tmp_path: Path) -> None:
    make.write(tmp_path / "a", VOXELS, make.AXIAL_5MM, make.T1)
    affine = np.array(make.AXIAL_5MM)
    affine[:3, :3] = affine[:3, [1, 2, 0]]
    make.write(tmp_path / "b", VOXELS, affine, make.T1, uid="b")
    found = inventory(tmp_path)
    assert [len(series.paths) for series in found.series] == [12, 12]
    for series in found.series:
        assert series.warnings == (
            "its images lie on 2 grids (direction, size or spacing): each is a series",
        )


def test_a_localiser_is_its_three_planes(tmp_path: Path) -> None:
    make.localiser(tmp_path)
    assert [len(series.paths) for series in inventory(tmp_path).series] == [2, 2, 2]


def test_a_series_in_all_directions_is_no_stack(tmp_path: Path) -> None:
    for number in range(40):
        turn = np.deg2rad(4 * number)
        affine = np.eye(4)
        affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        make.write(tmp_path, VOXELS, affine, make.T1, slices=[0], uid=f"{number}")
        (tmp_path / "IM0020000").rename(tmp_path / f"{number}")
    found = inventory(tmp_path)
    assert found.series == ()
    (ignored,) = found.ignored
    assert ignored.reason == "its images lie on 17 grids or more: no stack of slices"
    assert ignored.files == 40


def test_an_enhanced_image_is_a_series_of_one_file(tmp_path: Path) -> None:
    make.enhanced(tmp_path, VOXELS, make.AXIAL_5MM, make.FLAIR)
    series = only(tmp_path)
    assert (len(series.paths), series.volumes, series.orientation) == (1, None, None)
    assert series.voxel_bytes == VOXELS.nbytes


def test_what_is_no_scan_is_counted_by_its_reason(tmp_path: Path) -> None:
    for number in range(3):
        make.secondary_capture(tmp_path / f"{number}")
    (tmp_path / "notes.txt").write_text("hello")
    found = inventory(tmp_path)
    assert found.series == ()
    ignored = {one.name: (one.reason, one.files) for one in found.ignored}
    assert ignored == {
        "Screenshot": ("a secondary capture, no scan", 3),
        "notes.txt": ("neither a DICOM nor a NIfTI file", 1),
    }


def test_every_file_that_pydicom_ships_is_a_series_or_a_sentence() -> None:
    import pydicom.data.data_manager

    folder = Path(pydicom.data.data_manager.DATA_ROOT, "test_files")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    found = dicoms.inventory(paths)
    counted = sum(len(one.paths) for one in found.series) + sum(one.files for one in found.ignored)
    twins = sum(
        int(note.split()[0]) for one in found.series for note in one.warnings if "more than" in note
    )
    assert counted + twins == len(paths) > 60
    assert any("MR_small" in path.name for one in found.series for path in one.paths)
    assert all(one.reason for one in found.ignored)
