"""Whose an image is, of which study and when, for a DICOM object that is derived from it.

What identifies a patient is copied letter by letter, so that an archive files the object with its
source. It is in no error and no log.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ray_brats.cases.raw import elements
from ray_brats.cases.raw.elements import Elements

PATIENT: Final = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("PatientAge", "PatientIdentityRemoved", "DeidentificationMethod"),
    "DeidentificationMethodCodeSequence",
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName"),
    *("ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID"),
)
STUDY: Final = (
    *("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription"),
    "ReferringPhysicianName",
)
_LOSSY: Final = "LossyImageCompression"
_IMAGE: Final = ("PositionReferenceIndicator", _LOSSY, f"{_LOSSY}Ratio", f"{_LOSSY}Method")
_COPIED: Final = (*PATIENT, *STUDY, *_IMAGE)
_OCCASIONS: Final = ("Content", "Acquisition", "Series", "Study")
"""Whose date and time are taken: those of the first that has any."""
_TOLD: Final = (
    *("FrameOfReferenceUID", "SliceThickness"),
    *(f"{occasion}{kind}" for occasion in _OCCASIONS for kind in ("Date", "Time")),
)
_DATE: Final = re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_TIME: Final = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
_NO_DATE, _NO_TIME = "19000101", "000000"
"""Where a header has none: the standard wants one, and a clock would change bytes."""
_UTF8: Final = "ISO_IR 192"
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
_UID_LENGTH: Final = 64


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What the header of one image says of whom and when it shows."""

    copied: Any
    """A pydicom data set of what is copied as it is there: for no log."""
    told: Elements
    """The same and more, as texts."""

    @property
    def frame_uid(self) -> str:
        """Of the frame of reference; "" where it is none."""
        uid = self.told.text("FrameOfReferenceUID")
        return uid if is_uid(uid) else ""

    @property
    def thickness_mm(self) -> float | None:
        """Of its slice."""
        thickness_mm = self.told.number("SliceThickness")
        return thickness_mm if thickness_mm is not None and thickness_mm > 0 else None

    @property
    def time(self) -> tuple[str, str]:
        """A date and a time of the image, as DICOM has them."""
        for occasion in _OCCASIONS:
            date, time = self.told.text(f"{occasion}Date"), self.told.text(f"{occasion}Time")
            if _DATE.fullmatch(date):
                return date, time if _TIME.fullmatch(time) else _NO_TIME
        return _NO_DATE, _NO_TIME

    def give(self, derived: Any) -> None:
        """Copy it into a data set."""
        # Names are decoded by now, whatever their letters were written in.
        derived.SpecificCharacterSet = _UTF8
        for item in self.copied:
            if not item.keyword.startswith(_LOSSY) or self.copied.get(_LOSSY) == "01":
                derived[item.keyword] = item
        derived.ContentDate, derived.ContentTime = self.time


def is_uid(text: str) -> bool:
    """Whether a text is a UID."""
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


def read(path: Path) -> Identity:
    """What the header of an image says; values that are none of the standard's are left out.

    Call it, and whatever uses `copied`, inside `silent`.

    Raises:
        CaseRejected: no DICOM, or a damaged file.
    """
    import pydicom
    from pydicom.datadict import dictionary_VR

    # Judged first: after that it can be read without harm.
    told = elements.read(path, [*_TOLD, *_COPIED])
    whole = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_COPIED])
    copied = pydicom.Dataset()
    for keyword in filter(told.values.get, _COPIED):
        item = whole[keyword]
        if dictionary_VR(keyword) == item.VR:
            copied[keyword] = item
    return Identity(copied=copied, told=told)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """pydicom and highdicom neither warn nor log inside: they quote what is of patients."""
    from pydicom import config

    # The loggers of highdicom's modules follow that of the package.
    others = logging.getLogger("highdicom")
    before = config.logger.disabled, others.level
    config.logger.disabled = True
    others.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.logger.disabled = before[0]
        others.setLevel(before[1])
