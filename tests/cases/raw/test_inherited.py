"""What is copied of a header, and what is not said of it."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import dicoms as make
import pytest

from ray_brats.cases.raw import inherited

pydicom = pytest.importorskip("pydicom")

VOXELS = make.voxels_of((4, 5, 1))


def given(folder: Path, **values: Any) -> Any:
    """What a derived object has of an image with such a header."""
    (path,) = make.write(folder, VOXELS, make.AXIAL_5MM, make.T1)
    with inherited.silent():
        image = pydicom.dcmread(path)
        for keyword, value in values.items():
            setattr(image, keyword, value)
        image.save_as(path)
        derived = pydicom.Dataset()
        inherited.read(path).give(derived)
    return derived


@pytest.mark.parametrize(
    ("letters", "name"),
    [
        (None, "Doe^Jane"),
        ("ISO_IR 100", "Müller^Jürgen"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 192", "Łukasz^Ж"),
        (None, "A" * 300),
    ],
)
def test_names_are_copied_whatever_their_letters_were_written_in(
    tmp_path: Path, letters: Any, name: str
) -> None:
    derived = given(tmp_path, SpecificCharacterSet=letters, PatientName=name)
    derived.save_as(tmp_path / "derived", implicit_vr=False, little_endian=True)
    with inherited.silent():
        found = pydicom.dcmread(tmp_path / "derived", force=True)
        assert (found.SpecificCharacterSet, str(found.PatientName)) == ("ISO_IR 192", name)


def test_what_identifies_is_copied_letter_by_letter(tmp_path: Path) -> None:
    odd = {"PatientID": "A  B", "PatientSex": "Female", "PatientBirthDate": "about 1950"}
    derived = given(tmp_path, **odd)
    assert {keyword: derived[keyword].value for keyword in odd} == odd
    assert "StudyDescription" not in derived


def test_how_it_was_made_anonymous_is_copied(tmp_path: Path) -> None:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "113100", "DCM", "Basic"
    derived = given(
        tmp_path, PatientIdentityRemoved="YES", DeidentificationMethodCodeSequence=[item]
    )
    assert derived.PatientIdentityRemoved == "YES"
    assert derived.DeidentificationMethodCodeSequence[0].CodeValue == "113100"


def test_what_is_no_text_is_no_name(tmp_path: Path) -> None:
    (path,) = make.write(tmp_path, VOXELS, make.AXIAL_5MM, make.T1)
    image = pydicom.dcmread(path)
    image[0x00100010] = pydicom.DataElement(0x00100010, "US", 5)
    image.save_as(path)
    with inherited.silent():
        assert "PatientName" not in inherited.read(path).copied


def test_a_lossy_image_is_said_to_be_one(tmp_path: Path) -> None:
    values = {"LossyImageCompressionRatio": 10, "LossyImageCompressionMethod": "ISO_10918_1"}
    derived = given(tmp_path, LossyImageCompression="01", **values)
    assert (derived.LossyImageCompression, derived.LossyImageCompressionRatio) == ("01", 10)
    derived = given(tmp_path, LossyImageCompression="00", **values)
    assert "LossyImageCompressionRatio" not in derived


@pytest.mark.parametrize(
    ("values", "time"),
    [
        ({}, ("20200102", "101500")),
        ({"ContentDate": "20200103", "ContentTime": "0930"}, ("20200103", "0930")),
        ({"SeriesDate": "20200104", "SeriesTime": "25"}, ("20200104", "000000")),
        ({"SeriesDate": "2020.01.04"}, ("20200102", "101500")),
        ({"StudyDate": "20201302", "StudyTime": ""}, ("19000101", "000000")),
        ({"StudyDate": ""}, ("19000101", "000000")),
    ],
)
def test_the_date_is_that_of_the_image(
    tmp_path: Path, values: dict[str, str], time: tuple[str, str]
) -> None:
    derived = given(tmp_path, **values)
    assert (derived.ContentDate, derived.ContentTime) == time


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("1.2.840", True), ("1", False), ("1..2", False), ("1." + "2" * 63, False), ("1.a", False)],
)
def test_uids_are_numbers_with_dots(text: str, is_one: bool) -> None:
    assert inherited.is_uid(text) is is_one


def test_inside_nothing_is_logged_and_afterwards_it_is_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom.base")]
    with caplog.at_level(logging.DEBUG), inherited.silent(), warnings.catch_warnings(record=True):
        for logger in loggers:
            logger.critical("inside")
        pydicom.DataElement(0x00100040, "CS", "SECRET")
    assert caplog.text == ""
    with caplog.at_level(logging.DEBUG):
        for logger in loggers:
            logger.warning("after")
    assert len(caplog.records) == 2
