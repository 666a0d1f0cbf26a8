"""A mask on a series' own grid as a DICOM Segmentation that refers to the series' images.

The number of a segment is the index of its class. Every class has its segment, also one of which
there is no voxel, so that numbers mean the same in every case: that it was looked for and not found
is a finding. Frames are there where a class is; of a mask of background alone there are all.

Slices that no image shows, since they were missing and are filled in, have their frames like all
others, at their place, and refer to no image.

highdicom is told nothing of the patient, which it would log: what identifies is copied afterwards.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import ray_brats
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.raw import inherited, planes, segmentcodes
from ray_brats.cases.raw.extra import imported
from ray_brats.cases.raw.headers import Header
from ray_brats.cases.raw.inherited import Identity
from ray_brats.cases.raw.planes import Plane, PlaneStack
from ray_brats.cases.raw.segmentcodes import Code
from ray_brats.errors import CaseRejected
from ray_brats.labels import LabelMap, Targets

_SOFTWARE: Final = "ray-brats"
_DESCRIPTION: Final = "Automatic segmentation, for research: no medical device"
_ALGORITHM: Final[Code] = ("123110", "DCM", "Artificial Intelligence")
_DERIVATION: Final[Code] = ("113076", "DCM", "Segmentation")
_PURPOSE: Final[Code] = ("121322", "DCM", "Source image for image processing operation")
_WANTED: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)
"""What highdicom asks every image for, and is told nothing about."""
_TEXT_LENGTH: Final = 64
_SERIES_NUMBER: Final = 1000
"""Added to the number of the series."""


def encode(
    index_native: LabelMap,
    geometry: Geometry,
    targets: Targets,
    sources: Sequence[Path],
    *,
    made_by: str,
) -> bytes:
    """A DICOM Segmentation, as the bytes of a file; equal arguments and files give equal bytes.

    Args:
        index_native: class indices on the file's own grid and axes.
        geometry: of the NIfTI file that dcm2niix made of the sources.
        targets: what indices mean.
        sources: the DICOM files of the series, in any order.
        made_by: the model, for people.

    Raises:
        CaseRejected: no DICOM source, one of several frames, or not those of the file.
        UsageError: pydicom or highdicom is not installed.
        ValueError: no class indices of the targets on the file's whole grid.
    """
    imported("pydicom")
    highdicom = imported("highdicom")
    if index_native.shape != geometry.native_shape or index_native.max() >= targets.class_count:
        raise ValueError("expected class indices of the targets on the whole grid of the file")
    stack = planes.stack_of(geometry, planes.images_of(sources))
    _check_uids(stack.images)
    first = stack.images[0]
    with inherited.silent():
        whose = inherited.read(first.path)
        pixels_PRC = np.ascontiguousarray(stack.pixels(index_native))
        digest = _digest(pixels_PRC.tobytes(), stack, [*targets.class_names, made_by])
        uid = functools.partial(_uid, first.series_uid, digest)
        found = highdicom.seg.Segmentation(
            source_images=[_bare(image, stack, whose) for image in stack.images],
            pixel_array=pixels_PRC,
            segmentation_type="BINARY",
            segment_descriptions=_segments(highdicom, targets),
            plane_positions=[_position(highdicom, plane) for plane in stack.planes],
            series_instance_uid=uid("series"),
            series_number=_SERIES_NUMBER + max(0, first.series_number or 0),
            sop_instance_uid=uid("instance"),
            instance_number=1,
            manufacturer=_SOFTWARE,
            manufacturer_model_name=_text(made_by) or _SOFTWARE,
            software_versions=_text(ray_brats.__version__),
            device_serial_number=_text(ray_brats.__version__),
            content_label="SEGMENTATION",
            content_description=_DESCRIPTION,
            content_creator_name="",
            series_description=f"{_SOFTWARE} segmentation",
        )
        _without_clock(found, uid("dimensions"))
        _refer(found, stack)
        whose.give(found)
        return _bytes(found)


def _uid(series_uid: str, digest: str, purpose: str) -> str:
    """A UID that follows from what a segmentation is made of."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=[f"{_SOFTWARE} {purpose} {series_uid} {digest}"]))


def _digest(pixels: bytes, stack: PlaneStack, names: Sequence[str]) -> str:
    """Of everything that a segmentation holds but its patient, whom nobody shall guess by it."""
    places = [(p.position_mm, [image.instance_uid for image in p.images]) for p in stack.planes]
    more = (ray_brats.__version__, stack.turned.canonical_shape, places, [*names])
    return hashlib.sha256(pixels + repr(more).encode()).hexdigest()


def _segments(highdicom: Any, targets: Targets) -> list[Any]:
    """The description of each class, in order of indices."""
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_SOFTWARE,
        family=highdicom.sr.CodedConcept(*_ALGORITHM),
        version=_text(ray_brats.__version__),
        source=_SOFTWARE,
    )
    segments = []
    for index, item in enumerate(targets.classes, start=1):
        codes = segmentcodes.codes_of(item.name)
        category, kind = (highdicom.sr.CodedConcept(*code) for code in codes)
        segments.append(
            highdicom.seg.SegmentDescription(
                segment_number=index,
                segment_label=_text(item.name),
                segmented_property_category=category,
                segmented_property_type=kind,
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
                display_color=highdicom.color.CIELabColor.from_string(item.colour),
            )
        )
    return segments


def _text(text: str) -> str:
    """A text as DICOM takes it: on one line, of so many characters, with no mark of several."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.replace("\\", "/").split())[:_TEXT_LENGTH].strip()


# --- the images that it refers to -----------------------------------------------------------


def _check_uids(images: Sequence[Header]) -> None:
    first = images[0]
    of_images = (image.instance_uid for image in images)
    if not all(map(inherited.is_uid, (first.study_uid, first.series_uid, *of_images))):
        raise CaseRejected(
            "its DICOM files have UIDs that are none: expected numbers with dots between them"
        )


def _bare(image: Header, stack: PlaneStack, whose: Identity) -> Any:
    """An image as highdicom has to know it."""
    from pydicom.dataset import Dataset
    from pydicom.uid import MRImageStorage
    from pydicom.valuerep import DS

    first, slice_mm = stack.images[0], stack.turned.spacing_mm[0]
    bare = Dataset()
    for keyword in _WANTED:
        setattr(bare, keyword, "")
    bare.SOPClassUID, bare.SOPInstanceUID = MRImageStorage, image.instance_uid
    bare.StudyInstanceUID, bare.SeriesInstanceUID = first.study_uid, first.series_uid
    # An image has one by the standard, but not in every archive.
    bare.FrameOfReferenceUID = whose.frame_uid or _uid(first.series_uid, "", "frame")
    bare.Modality, bare.Rows, bare.Columns = "MR", first.rows, first.columns
    measures = {
        "ImagePositionPatient": image.position,
        "ImageOrientationPatient": first.orientation,
        "PixelSpacing": first.pixel_spacing_mm,
        "SliceThickness": [whose.thickness_mm or slice_mm],
        "SpacingBetweenSlices": [slice_mm],
    }
    for keyword, values in measures.items():
        setattr(bare, keyword, [DS(value, auto_format=True) for value in values or ()])
    return bare


def _position(highdicom: Any, plane: Plane) -> Any:
    return highdicom.PlanePositionSequence("PATIENT", plane.position_mm)


def _refer(found: Any, stack: PlaneStack) -> None:
    """Refer each frame to the images of its slice: highdicom does so for all frames or for none."""
    places_mm = np.array([plane.position_mm for plane in stack.planes])
    for frame in found.PerFrameFunctionalGroupsSequence:
        place_mm = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, np.float64)
        plane = stack.planes[int(np.abs(places_mm - place_mm).sum(axis=1).argmin())]
        if "DerivationImageSequence" in frame:
            del frame.DerivationImageSequence
        if plane.images:
            frame.DerivationImageSequence = [_derivation(plane)]


def _derivation(plane: Plane) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.uid import MRImageStorage

    derivation = Dataset()
    derivation.DerivationCodeSequence = [_coded(_DERIVATION)]
    derivation.SourceImageSequence = []
    for image in plane.images:
        source = Dataset()
        source.ReferencedSOPClassUID = MRImageStorage
        source.ReferencedSOPInstanceUID = image.instance_uid
        source.PurposeOfReferenceCodeSequence = [_coded(_PURPOSE)]
        source.SpatialLocationsPreserved = "YES"
        derivation.SourceImageSequence.append(source)
    return derivation


def _coded(code: Code) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


# --- bytes ----------------------------------------------------------------------------------


def _without_clock(found: Any, dimensions_uid: str) -> None:
    """Take out what highdicom makes of the time and of chance."""
    del found.InstanceCreationDate, found.InstanceCreationTime
    for item in found.ContributingEquipmentSequence:
        if "ContributionDateTime" in item:
            del item.ContributionDateTime
    for item in (*found.DimensionOrganizationSequence, *found.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions_uid


def _bytes(found: Any) -> bytes:
    stream = io.BytesIO()
    found.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
