"""Hostile files of DICOM cost little, raise sentences, and tell no log of anybody."""

from __future__ import annotations

import logging
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import dicoms as make
import pytest

from ray_brats.cases.raw import elements
from ray_brats.cases.raw.elements import Elements
from ray_brats.errors import CaseRejected

pytest.importorskip("pydicom")

KEYWORDS = ("PatientID", "SeriesDescription", "SOPClassUID", "ImagePositionPatient", "EchoTime")


def image(folder: Path) -> Path:
    """A file of some 2 kB."""
    voxels = make.voxels_of((20, 24, 2))
    return make.write(folder, voxels, make.AXIAL_5MM, make.T1, slices=[1])[0]


def read(path: Path) -> Elements:
    return elements.read(path, KEYWORDS)


def reason_of(path: Path) -> str:
    with pytest.raises(CaseRejected) as caught:
        read(path)
    assert caught.value.file == ""
    return caught.value.reason


def test_what_is_asked_for_is_text_or_numbers(tmp_path: Path) -> None:
    path = image(tmp_path)
    found = read(path)
    assert found.text("PatientID") == "PATIENT-1"
    assert found.text("SOPClassUID") == make.MR
    assert found.text("TransferSyntaxUID") == "1.2.840.10008.1.2.1"
    assert found.vector("ImagePositionPatient", 3) == (0, 0, 5)
    assert found.vector("ImagePositionPatient", 2) is None
    assert (found.number("EchoTime"), found.integer("EchoTime")) == (12.0, 12)
    assert (found.number("PatientID"), found.integer("PatientID")) == (None, None)
    assert found.length + 12 + 20 * 24 * 2 == path.stat().st_size


def test_a_file_without_the_mark_is_no_dicom(tmp_path: Path) -> None:
    path = image(tmp_path)
    assert elements.is_dicom(path)
    for content in (b"", b"DICM", bytes(128) + b"DIC", path.read_bytes()[132:]):
        path.write_bytes(content)
        assert not elements.is_dicom(path)
        assert reason_of(path) == elements.NOT_DICOM
    assert not elements.is_dicom(tmp_path / "absent")


def test_values_that_are_wrong_reach_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = image(tmp_path)
    path.write_bytes(
        path.read_bytes().replace(b"PATIENT-1", b"DOE\\\x9b\x00^^").replace(b"1.2.8", b"D^E.8")
    )
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        read(path)
    assert caplog.records == []
    from pydicom import config

    assert config.settings.reading_validation_mode != config.IGNORE
    assert not config.logger.disabled


def element(tag: tuple[int, int], vr: bytes, length: int) -> bytes:
    """The beginning of an element with a length of four bytes."""
    return struct.pack("<HH2sHL", *tag, vr, 0, length)


GIB = 1 << 30
ENDLESS = 0xFFFFFFFF
ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, ENDLESS)
PASSED_OVER = [element((9, 0x1010), b"OB", GIB), element((9, 0x1010), b"UN", GIB)]
REFUSED = [
    element((9, 0x1010), b"SQ", ENDLESS) + ITEM + element((9, 0x1011), b"OB", GIB),
    element((9, 0x1010), b"UN", ENDLESS) + ITEM + element((9, 0x1011), b"OB", GIB),
    element((9, 0x1010), b"OB", ENDLESS),
    element((8, 0x103E), b"UT", GIB),
]


def with_huge(path: Path, start: bytes) -> Path:
    """A file with an element of 1 GiB, of which nothing is on the disk."""
    plain = path.read_bytes()
    # Before the first element of the patient; what comes there is not asked for, or is.
    at = plain.index(struct.pack("<HH", 0x0010, 0x0010))
    with path.open("wb") as file:
        file.write(plain[:at] + start)
        file.seek(GIB, 1)
        file.write(plain[at:])
    return path


@pytest.mark.parametrize("start", [*PASSED_OVER, *REFUSED])
def test_an_element_of_a_gibibyte_is_never_held(tmp_path: Path, start: bytes) -> None:
    path = with_huge(image(tmp_path), start)
    tracemalloc.start()
    try:
        if start in REFUSED:
            assert reason_of(path) == elements.TOO_LONG
        else:
            assert read(path).text("PatientID") == "PATIENT-1"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (2 * elements.HEADER_BYTES if start in REFUSED else 1 << 20)


def test_a_huge_element_before_the_header_is_refused(tmp_path: Path) -> None:
    path = image(tmp_path)
    plain = path.read_bytes()
    at = plain.index(struct.pack("<HH", 8, 8))
    path.write_bytes(plain[:at] + element((2, 0x0102), b"OB", GIB) + plain[at:])
    assert reason_of(path) in (elements.TOO_LONG, elements.DAMAGED)


def test_what_is_deflated_is_not_inflated(tmp_path: Path) -> None:
    path = image(tmp_path)
    plain = path.read_bytes()
    at = plain.index(struct.pack("<HH", 8, 8))
    meta = plain[:at].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0\0")
    meta = meta.replace(b"UI\x14\x001.2.840.10008.1.2.1.99", b"UI\x18\x001.2.840.10008.1.2.1.99")
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    path.write_bytes(meta + bomb.compress(plain[at:] + bytes(64 << 20)) + bomb.flush())
    assert reason_of(path) == elements.TOO_LONG


def test_sequences_without_end_in_one_another_are_a_sentence(tmp_path: Path) -> None:
    path = image(tmp_path)
    plain = path.read_bytes()
    at = plain.index(struct.pack("<HH", 0x0010, 0x0010))
    nested = (element((9, 0x1010), b"SQ", ENDLESS) + ITEM) * 5000
    path.write_bytes(plain[:at] + nested + plain[at:])
    assert reason_of(path) in (elements.DAMAGED, elements.TOO_LONG)
