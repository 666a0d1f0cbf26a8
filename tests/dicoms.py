"""DICOM studies out of arrays: classic single-frame MR with its geometry, and what lies beside it.

Arrays are `(I, J, K)`: `I` columns, `J` rows, `K` slices. Affines map voxel indices to the world in
mm, in LPS as DICOM has it; `lps_of` makes one of NIfTI's RAS. UIDs follow from what is asked for,
so that equal calls write equal files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
AXIAL_5MM = np.diag([0.9, 0.9, 5.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Tags:
    """What the headers of one series say."""

    patient: str = "PATIENT-1"
    study: str = "1"
    date: str = "20200102"
    number: int = 1
    description: str = "t1_tse_tra"
    protocol: str | None = None
    """None: as the description."""
    te_ms: float = 12.0
    tr_ms: float = 600.0
    ti_ms: float | None = None
    agent: str | None = None
    sequence: Sequence[str] = ("SE",)
    variant: Sequence[str] = ("SK",)
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "M", "ND")
    name: str = "Doe^Jane"
    others: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword to value, of anything else."""


T1 = Tags(number=2)
T1CE = Tags(number=6, description="t1_tse_tra_KM", agent="Gadovist")
T2 = Tags(number=3, description="t2_tse_tra", te_ms=98.0, tr_ms=4500.0)
FLAIR = Tags(
    number=4,
    description="t2_tirm_tra_dark-fluid",
    te_ms=95.0,
    tr_ms=9000.0,
    ti_ms=2500.0,
    sequence=("SE", "IR"),
)
STUDY = {"t1": T1, "t1ce": T1CE, "t2": T2, "flair": FLAIR}


def lps_of(affine_ras: np.ndarray) -> np.ndarray:
    """An affine to NIfTI's world as one to DICOM's, or the other way round."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_ras


def voxels_of(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Something to be told apart from its mirror images."""
    noise = np.random.default_rng(seed).integers(0, 50, shape)
    ramp = sum(np.indices(shape)[axis] * weight for axis, weight in enumerate((1, 3, 20)))
    return (noise + ramp).astype(np.uint16)


def write(
    folder: Path,
    voxels_IJK: np.ndarray,
    affine_lps: np.ndarray,
    tags: Tags,
    *,
    slices: Sequence[int] | None = None,
    rle: bool = False,
    uid: str = "",
) -> list[Path]:
    """A file a slice, named without an ending.

    Args:
        slices: those that are there; all of them without.
        rle: compressed by run lengths.
        uid: what makes other images of slices that are there already, as a second echo.
    """
    from pydicom.uid import RLELossless

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(voxels_IJK.shape[2]) if slices is None else slices:
        dataset = _dataset(MR, tags, k, uid)
        _place(dataset, voxels_IJK.shape, affine_lps, k)
        _fill(dataset, voxels_IJK[:, :, k].T)
        if rle:
            dataset.compress(RLELossless, generate_instance_uid=False)
        paths.append(folder / f"IM{tags.number:03d}{k:04d}")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def localiser(folder: Path, tags: Tags = Tags(number=1, description="localizer")) -> list[Path]:
    """Three planes of two slices each, all of one series."""
    voxels = voxels_of((32, 32, 2))
    planes = ([0, 1, 2], [0, 2, 1], [1, 2, 0])
    paths = []
    for number, axes in enumerate(planes):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, axes] * [8, 8, 30]
        for k in range(2):
            dataset = _dataset(MR, tags, 10 * number + k)
            _place(dataset, voxels.shape, affine, k)
            _fill(dataset, voxels[:, :, k].T)
            folder.mkdir(parents=True, exist_ok=True)
            paths.append(folder / f"LOC{tags.number:03d}{number}{k}")
            dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def secondary_capture(folder: Path, tags: Tags = Tags(number=99, description="Screenshot")) -> Path:
    """A picture in colours, as PACS stations save it."""
    dataset = _dataset(SECONDARY_CAPTURE, tags, 0)
    _fill(dataset, np.zeros((16, 16, 3), np.uint8))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"SC{tags.number:03d}"
    dataset.save_as(path, enforce_file_format=True)
    return path


def enhanced(folder: Path, voxels_IJK: np.ndarray, affine_lps: np.ndarray, tags: Tags) -> Path:
    """All slices as frames of one file."""
    from pydicom.dataset import Dataset

    dataset = _dataset(ENHANCED_MR, tags, 0)
    dataset.NumberOfFrames = voxels_IJK.shape[2]
    dataset.SharedFunctionalGroupsSequence = [Dataset()]
    dataset.PerFrameFunctionalGroupsSequence = []
    for k in range(voxels_IJK.shape[2]):
        whole = Dataset()
        _place(whole, voxels_IJK.shape, affine_lps, k)
        frame, content = Dataset(), Dataset()
        content.InStackPositionNumber = k + 1
        content.StackID = "1"
        content.DimensionIndexValues = [1, k + 1]
        frame.FrameContentSequence = [content]
        frame.PlanePositionSequence = [_some(whole, "ImagePositionPatient")]
        frame.PlaneOrientationSequence = [_some(whole, "ImageOrientationPatient")]
        measures = _some(whole, "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
        frame.PixelMeasuresSequence = [measures]
        echo = Dataset()
        echo.EffectiveEchoTime = tags.te_ms
        frame.MREchoSequence = [echo]
        dataset.PerFrameFunctionalGroupsSequence.append(frame)
    _fill(dataset, np.moveaxis(voxels_IJK, (0, 1, 2), (2, 1, 0)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"EN{tags.number:03d}"
    dataset.save_as(path, enforce_file_format=True)
    return path


def _some(dataset: Any, *names: str) -> Any:
    from pydicom.dataset import Dataset

    part = Dataset()
    for name in names:
        setattr(part, name, getattr(dataset, name))
    return part


def _dataset(sop_class: str, tags: Tags, number: int, more: str = "") -> Any:
    """A header without an image."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    def uid(*parts: object) -> str:
        return str(generate_uid(entropy_srcs=[repr(parts)]))

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    of_series = (tags.patient, tags.study, tags.number)
    dataset.file_meta.MediaStorageSOPInstanceUID = uid(*of_series, sop_class, number, more)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = uid(tags.patient, tags.study)
    dataset.SeriesInstanceUID = uid(*of_series)
    dataset.FrameOfReferenceUID = uid(tags.patient, tags.study, "frame")
    dataset.PatientName, dataset.PatientID = tags.name, tags.patient
    dataset.StudyDate, dataset.StudyTime, dataset.Modality = tags.date, "101500", "MR"
    dataset.Manufacturer = "SIEMENS"
    dataset.SeriesDescription = tags.description
    dataset.ProtocolName = tags.description if tags.protocol is None else tags.protocol
    dataset.SeriesNumber, dataset.InstanceNumber = tags.number, number + 1
    dataset.AcquisitionNumber = 1
    dataset.ImageType = list(tags.image_type)
    dataset.ScanningSequence, dataset.SequenceVariant = list(tags.sequence), list(tags.variant)
    dataset.EchoTime, dataset.RepetitionTime = tags.te_ms, tags.tr_ms
    if tags.ti_ms is not None:
        dataset.InversionTime = tags.ti_ms
    if tags.agent is not None:
        dataset.ContrastBolusAgent = tags.agent
    for name, value in tags.others.items():
        setattr(dataset, name, value)
    return dataset


def _place(dataset: Any, shape: Sequence[int], affine_lps: np.ndarray, k: int) -> None:
    """Where slice `k` lies."""
    columns = affine_lps[:3, :3]
    column_mm, row_mm, slice_mm = np.linalg.norm(columns, axis=0)
    position = affine_lps @ [0, 0, k, 1]
    along = [*(columns[:, 0] / column_mm), *(columns[:, 1] / row_mm)]
    dataset.ImagePositionPatient = [f"{value:.6f}" for value in position[:3]]
    dataset.ImageOrientationPatient = [f"{value:.6f}" for value in along]
    dataset.PixelSpacing = [f"{row_mm:.6f}", f"{column_mm:.6f}"]
    dataset.SliceThickness = dataset.SpacingBetweenSlices = f"{slice_mm:.6f}"
    dataset.Columns, dataset.Rows = shape[:2]


def _fill(dataset: Any, pixels: np.ndarray) -> None:
    """Voxels, `(rows, columns)`, with frames before them or colours behind."""
    is_colour = pixels.dtype == np.uint8
    bits = 8 * pixels.dtype.itemsize
    dataset.Rows, dataset.Columns = pixels.shape[:2] if is_colour else pixels.shape[-2:]
    dataset.SamplesPerPixel = 3 if is_colour else 1
    dataset.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
