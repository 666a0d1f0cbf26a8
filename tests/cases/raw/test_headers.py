"""Headers of DICOM files: what they say, and that hostile ones cost little and raise nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import dicoms as make
import numpy as np
import pytest

from ray_brats.cases.raw import elements, headers
from ray_brats.cases.raw.headers import Header, Other

pytest.importorskip("pydicom")

VOXELS = make.voxels_of((20, 24, 2))
SECRETS = dataclasses.replace(make.T1CE, patient="SECRET-1", name="Doe^Jane")


def image(folder: Path, tags: make.Tags = SECRETS) -> Path:
    return make.write(folder, VOXELS, make.AXIAL_5MM, tags, slices=[1])[0]


def test_a_header_says_what_series_need(tmp_path: Path) -> None:
    found = headers.read(image(tmp_path))
    assert isinstance(found, Header)
    assert (found.patient_id, found.study_time) == ("SECRET-1", "20200102 101500")
    assert (found.description, found.series_number, found.instance_number) == (
        "t1_tse_tra_KM",
        6,
        2,
    )
    assert found.position == pytest.approx((0, 0, 5))
    assert found.orientation == pytest.approx((1, 0, 0, 0, 1, 0))
    assert (found.rows, found.columns, found.frames) == (24, 20, 1)
    assert found.voxel_bytes == 24 * 20 * 2
    assert (found.te_ms, found.tr_ms, found.ti_ms, found.agent) == (12, 600, None, "Gadovist")
    assert not found.is_enhanced


def reason_of(path: Path) -> str:
    found = headers.read(path)
    assert isinstance(found, Other), found
    assert not any(secret in f"{found.reason} {found.name}" for secret in ("SECRET", "Doe"))
    return found.reason


def test_other_objects_are_called_what_they_are(tmp_path: Path) -> None:
    assert reason_of(make.secondary_capture(tmp_path)) == "a secondary capture, no scan"
    path = image(tmp_path)
    plain = path.read_bytes()
    for sop_class, reason in (
        ("1.2.840.10008.5.1.4.1.1.66.4", "a registration, a segmentation or raw data, no scan"),
        ("1.2.840.10008.5.1.4.1.1.88.11", "a structured report, no image"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "a presentation state, no image"),
        ("1.2.840.10008.5.1.4.1.1.4.2", "spectroscopy, no image"),
        ("1.2.3", "a DICOM object that is no MR image"),
    ):
        tags = dataclasses.replace(SECRETS, others={"SOPClassUID": sop_class})
        assert reason_of(image(tmp_path, tags)) == reason
    tags = dataclasses.replace(
        SECRETS, others={"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}
    )
    assert reason_of(image(tmp_path, tags)) == "of modality CT: expected MR"
    path.write_bytes(plain[132:])
    assert reason_of(path) == elements.NOT_DICOM
    path.write_bytes(b"")
    assert reason_of(path) == elements.NOT_DICOM


def test_an_image_in_colours_is_no_scan(tmp_path: Path) -> None:
    path = make.secondary_capture(tmp_path)
    sop_classes = (make.SECONDARY_CAPTURE.encode() + b"\0", make.MR.encode() + b"\0")
    path.write_bytes(path.read_bytes().replace(*sop_classes))
    assert reason_of(path) == "an image in colours, no scan"


@pytest.mark.parametrize(
    ("without", "reason"),
    [
        ("StudyInstanceUID", "names no study or no series"),
        ("SeriesInstanceUID", "names no study or no series"),
        ("Rows", "no image in the file"),
        ("ImagePositionPatient", "does not say where it lies"),
        ("ImageOrientationPatient", "does not say where it lies"),
    ],
)
def test_what_an_image_must_say_is_told(tmp_path: Path, without: str, reason: str) -> None:
    import pydicom

    path = image(tmp_path)
    dataset = pydicom.dcmread(path)
    delattr(dataset, without)
    dataset.save_as(path)
    assert reason in reason_of(path)


def test_a_position_that_is_no_place_is_none(tmp_path: Path) -> None:
    path = image(tmp_path)
    plain = path.read_bytes()
    at = plain.index(b"0.000000\\0.000000\\5.000000")
    for text in (b"1e300   ", b"nan     ", b"0.0\\    ", b"Doe     "):
        path.write_bytes(plain[:at] + text + plain[at + 8 :])
        assert "does not say where it lies" in reason_of(path)


def test_a_file_that_breaks_off_is_a_sentence_wherever_it_does(tmp_path: Path) -> None:
    path = image(tmp_path)
    whole = path.read_bytes()
    for length in [*range(0, len(whole) - 960, 7), *range(len(whole) - 960, len(whole), 50)]:
        path.write_bytes(whole[:length])
        reason_of(path)
    path.write_bytes(whole[:-1])
    assert reason_of(path) == "truncated: the file holds fewer voxels than its header promises"


def test_damaged_bytes_raise_nothing(tmp_path: Path) -> None:
    path = image(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(128, len(whole) - 900, rng.integers(1, 9)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        found = headers.read(path)
        assert isinstance(found, Header | Other)
