"""What the header of one DICOM file says: an MR image with its place, or why it is none of use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ray_brats.cases.raw import elements
from ray_brats.cases.raw.elements import Elements, Vector
from ray_brats.errors import CaseRejected

_MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"
_ENHANCED_CLASSES = (f"{_MR_CLASS}.1", f"{_MR_CLASS}.4")
"""Enhanced MR Image, and the one that was converted to it."""
_UNCOMPRESSED = {
    "1.2.840.10008.1.2": 8,
    "1.2.840.10008.1.2.1": 12,
    "1.2.840.10008.1.2.2": 12,
}
"""Transfer syntax whose voxels lie one behind the other to the bytes of tag and length before."""
_CLASSES = {
    "1.2.840.10008.1.3.10": "a list of files (DICOMDIR), no image",
    "1.2.840.10008.5.1.4.1.1.4.2": "spectroscopy, no image",
    "1.2.840.10008.5.1.4.1.1.7": "a secondary capture, no scan",
    "1.2.840.10008.5.1.4.1.1.11": "a presentation state, no image",
    "1.2.840.10008.5.1.4.1.1.66": "a registration, a segmentation or raw data, no scan",
    "1.2.840.10008.5.1.4.1.1.88": "a structured report, no image",
    "1.2.840.10008.5.1.4.1.1.104": "an encapsulated document, no image",
    "1.2.840.10008.5.1.4.1.1.481": "an object of radiotherapy, no scan",
}
"""What an object is whose class is this, or begins so."""
_SEQUENCE = ("ScanningSequence", "SequenceVariant", "SequenceName")
_KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"),
    *("StudyDate", "StudyTime", "Modality", "SeriesDescription", "ProtocolName", "ImageType"),
    *("SeriesNumber", "InstanceNumber", "ContrastBolusAgent", "EchoTime", "RepetitionTime"),
    *("InversionTime", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SamplesPerPixel", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", *_SEQUENCE),
)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What one MR image says of itself."""

    path: Path
    patient_id: str
    """Who was scanned: of no other field, sentence or name."""
    study_uid: str
    study_time: str
    """Date and time of the study, as text that sorts."""
    series_uid: str
    instance_uid: str
    description: str
    protocol: str
    series_number: int | None
    instance_number: int | None
    image_type: tuple[str, ...]
    position: Vector | None
    """Of the first voxel, LPS in mm; None of an image of several frames."""
    orientation: Vector | None
    """Direction of rows, then of columns."""
    pixel_spacing_mm: Vector
    """Between rows, then between columns."""
    rows: int
    columns: int
    frames: int
    voxel_bytes: int
    """Of all voxels, uncompressed."""
    agent: str
    """The contrast agent that is named."""
    sequence: tuple[str, ...]
    """Scanning sequence, variant, and name."""
    te_ms: float | None
    tr_ms: float | None
    ti_ms: float | None
    is_enhanced: bool
    """Whether its frames have their places in sequences that are not read here."""


@dataclass(frozen=True, kw_only=True)
class Other:
    """A file that is no MR image, and why."""

    path: Path
    reason: str
    name: str = ""
    """How the scanner calls the series that it is of."""
    study_uid: str = ""
    series_uid: str = ""


def read(path: Path) -> Header | Other:
    """The header of a file of any name."""
    try:
        found = elements.read(path, _KEYWORDS)
    except CaseRejected as error:
        return Other(path=path, reason=error.reason)
    header = _header(path, found)
    reason = _problem_of_class(found) or _problem_of_image(header, found)
    if reason is None:
        return header
    return Other(
        path=path,
        reason=reason,
        name=header.description or found.text("Modality"),
        study_uid=header.study_uid,
        series_uid=header.series_uid,
    )


def _problem_of_class(found: Elements) -> str | None:
    """Why an object is of another kind than an MR image."""
    sop_class = found.text("SOPClassUID")
    if sop_class in (_MR_CLASS, *_ENHANCED_CLASSES):
        return None
    known = (what for root, what in _CLASSES.items() if f"{sop_class}.".startswith(f"{root}."))
    modality = re.sub(r"[^A-Z]", "", found.text("Modality"))[:8]
    of_modality = f"of modality {modality}: expected MR" if modality not in ("", "MR") else ""
    return next(known, of_modality or "a DICOM object that is no MR image")


def _problem_of_image(header: Header, found: Elements) -> str | None:
    """Why an MR image cannot be used."""
    if not (header.study_uid and header.series_uid):
        return "an image that names no study or no series"
    if found.number("SamplesPerPixel") not in (None, 1.0):
        return "an image in colours, no scan"
    if not header.voxel_bytes:
        return "no image in the file, or the file is truncated before it"
    if not header.is_enhanced and (header.position is None or header.orientation is None):
        return "an image that does not say where it lies"
    before = _UNCOMPRESSED.get(found.text("TransferSyntaxUID"))
    size = header.path.stat().st_size
    if before is not None and size < found.length + before + header.voxel_bytes:
        return "truncated: the file holds fewer voxels than its header promises"
    return None


def _header(path: Path, found: Elements) -> Header:
    rows, columns, frames, bits = (
        max(0, found.integer(name) or 0)
        for name in ("Rows", "Columns", "NumberOfFrames", "BitsAllocated")
    )
    return Header(
        path=path,
        patient_id=found.text("PatientID"),
        study_uid=found.text("StudyInstanceUID"),
        study_time=f"{found.text('StudyDate')} {found.text('StudyTime')}",
        series_uid=found.text("SeriesInstanceUID"),
        instance_uid=found.text("SOPInstanceUID"),
        description=found.text("SeriesDescription"),
        protocol=found.text("ProtocolName"),
        series_number=found.integer("SeriesNumber"),
        instance_number=found.integer("InstanceNumber"),
        image_type=tuple(filter(None, found.values["ImageType"])),
        position=found.vector("ImagePositionPatient", 3),
        orientation=found.vector("ImageOrientationPatient", 6),
        pixel_spacing_mm=found.vector("PixelSpacing", 2) or (0.0, 0.0),
        rows=rows,
        columns=columns,
        frames=max(1, frames),
        voxel_bytes=rows * columns * max(1, frames) * bits // 8,
        agent=found.text("ContrastBolusAgent"),
        sequence=tuple(found.text(name) for name in _SEQUENCE),
        te_ms=found.number("EchoTime"),
        tr_ms=found.number("RepetitionTime"),
        ti_ms=found.number("InversionTime"),
        is_enhanced=frames > 1 or found.text("SOPClassUID") in _ENHANCED_CLASSES,
    )
