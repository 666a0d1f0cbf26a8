"""DICOM files of any names, sorted into patients, studies and series by their headers alone.

A series of ours lies on one grid: what a scanner calls one and lies on several, as the three planes
of a localiser, becomes several. Its slices are in order of their place; what is wrong with them is
said. Who was scanned stands in `patient_id`, and in no sentence.

The headers of 50,000 files take about a minute on one core, whatever is in them: each is read to
its first pixel, and no more than `elements.HEADER_BYTES` of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ray_brats.cases.raw import headers
from ray_brats.cases.raw.extra import imported
from ray_brats.cases.raw.headers import Header, Other
from ray_brats.cases.raw.series import Ignored
from ray_brats.cases.raw.stacks import Stack, stack

_SAME_DIRECTION = 0.01
"""How far directions of one grid, which are of length 1, may be apart."""
_SAME_SPACING_MM = 0.01
_MOST_GRIDS = 16
"""A series on more grids than that is no stack of slices."""


@dataclass(frozen=True, kw_only=True)
class DicomSeries:
    """The images of one series that lie on one grid."""

    patient_id: str
    """Who was scanned: for no log, sentence or name."""
    study_uid: str
    study_time: str
    """Date and time of the study, as text that sorts: for no name."""
    series_uid: str
    number: int | None
    description: str
    modality: str = "MR"
    paths: tuple[Path, ...]
    """A file a slice in order of their place; or one of several frames."""
    orientation: tuple[float, ...] | None = None
    """Direction of rows, then of columns, LPS; None of several frames."""
    places: tuple[int, ...] = ()
    """Of a stack of single slices with gaps: which slice each file is, from 0. Empty without."""
    origin_mm: tuple[float, ...] | None = None
    """Place of the first voxel of the first slice, LPS."""
    slice_mm: float | None = None
    """Distance of neighbouring slices; None where it is not known here."""
    volumes: int | None = 1
    """Images at each place; None of several frames."""
    voxel_bytes: int
    """Of all of its voxels, uncompressed."""
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    """What its header says, in the keys and units of BIDS."""
    warnings: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """What tells it from every other series, and nobody where it came from."""
        told = (self.series_uid, self.origin_mm, self.orientation, len(self.paths))
        return hashlib.sha256(repr(told).encode()).hexdigest()[:32]

    @property
    def missing_slices(self) -> int:
        """How many are not there between others."""
        return self.places[-1] + 1 - len(self.places) if self.places else 0


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What some files are."""

    series: tuple[DicomSeries, ...]
    """By patient, time of the study, number and place."""
    ignored: tuple[Ignored, ...]


def inventory(paths: Iterable[Path]) -> Inventory:
    """Sort files into series; what is no image of MR is ignored with a reason.

    Raises:
        UsageError: pydicom is not installed.
    """
    imported("pydicom")
    found: dict[tuple[str, str, str], list[Header]] = defaultdict(list)
    others: dict[tuple[str, ...], list[Other]] = defaultdict(list)
    for path in paths:
        item = headers.read(path)
        if isinstance(item, Header):
            found[item.patient_id, item.study_uid, item.series_uid].append(item)
        else:
            # Files that belong to no series are each their own.
            key = (item.series_uid, item.reason) if item.series_uid else (str(path),)
            others[key].append(item)
    sorted_ = [_series_of(images) for images in found.values()]
    series = [one for part in sorted_ for one in part if isinstance(one, DicomSeries)]
    ignored = [one for part in sorted_ for one in part if isinstance(one, Ignored)]
    return Inventory(
        series=tuple(sorted(series, key=_order)),
        ignored=(*ignored, *(_ignored(items) for items in others.values())),
    )


def _order(series: DicomSeries) -> tuple[Any, ...]:
    number = series.number if series.number is not None else -1
    return series.patient_id, series.study_time, series.study_uid, number, series.paths


def _ignored(items: Sequence[Other]) -> Ignored:
    first = items[0]
    return Ignored(
        name=first.name or first.path.name,
        reason=first.reason,
        path=first.path,
        files=len(items),
        study_uid=first.study_uid,
    )


def _series_of(images: Sequence[Header]) -> list[DicomSeries | Ignored]:
    """The stacks that the images of one series make."""
    images, twice = _without_twins(sorted(images, key=_by_number))
    notes = []
    if twice:
        notes.append(f"{twice} of its images are there more than once: one of each is taken")
    grids = _grids(images)
    if len(grids) > _MOST_GRIDS:
        reason = f"its images lie on {len(grids)} grids or more: no stack of slices"
        return [_left_out(images, reason)]
    if len(grids) > 1:
        notes.append(
            f"its images lie on {len(grids)} grids (direction, size or spacing): each is a series"
        )
    return [_stacked(group, notes) for group in grids]


def _by_number(image: Header) -> tuple[int, str]:
    return image.instance_number or 0, str(image.path)


def _without_twins(images: Sequence[Header]) -> tuple[list[Header], int]:
    """Each image once, and how many are there again."""
    once = {image.instance_uid or str(image.path): image for image in reversed(images)}
    return list(reversed(once.values())), len(images) - len(once)


def _left_out(images: Sequence[Header], reason: str) -> Ignored:
    first = images[0]
    return Ignored(
        name=first.description or "MR",
        reason=reason,
        path=first.path,
        files=len(images),
        study_uid=first.study_uid,
    )


def _grids(images: Sequence[Header]) -> list[list[Header]]:
    """Images by the grid that they lie on; files of several frames are one each."""
    grids: list[list[Header]] = []
    for image in images:
        fitting = (grid for grid in grids if _is_same_grid(grid[0], image))
        grid = next(fitting, None)
        if grid is not None:
            grid.append(image)
        elif len(grids) <= _MOST_GRIDS:
            grids.append([image])
    return grids


def _is_same_grid(one: Header, other: Header) -> bool:
    if one.is_enhanced or other.is_enhanced or one.orientation is None or other.orientation is None:
        return False
    if (one.rows, one.columns) != (other.rows, other.columns):
        return False
    turned = max(abs(a - b) for a, b in zip(one.orientation, other.orientation, strict=True))
    pairs = zip(one.pixel_spacing_mm, other.pixel_spacing_mm, strict=True)
    return turned <= _SAME_DIRECTION and all(abs(a - b) <= _SAME_SPACING_MM for a, b in pairs)


def _stacked(images: Sequence[Header], notes: Sequence[str]) -> DicomSeries | Ignored:
    """The series of images on one grid, or why they are none."""
    first = images[0]
    if first.is_enhanced or first.orientation is None:
        return _series(images, Stack(order=(0,), notes=tuple(notes)))
    found = stack(np.array([image.position for image in images]), first.orientation)
    if isinstance(found, str):
        return _left_out(images, found)
    return _series(images, dataclasses.replace(found, notes=(*notes, *found.notes)))


def _series(images: Sequence[Header], of: Stack) -> DicomSeries:
    images = [images[number] for number in of.order]
    first = images[0]
    return DicomSeries(
        patient_id=first.patient_id,
        study_uid=first.study_uid,
        study_time=first.study_time,
        series_uid=first.series_uid,
        number=first.series_number,
        description=first.description,
        paths=tuple(image.path for image in images),
        orientation=first.orientation,
        places=of.places,
        origin_mm=first.position,
        slice_mm=of.slice_mm,
        volumes=None if first.is_enhanced else of.volumes,
        voxel_bytes=sum(image.voxel_bytes for image in images),
        sidecar=_sidecar(images),
        warnings=of.notes,
    )


def _sidecar(images: Sequence[Header]) -> dict[str, Any]:
    """What all headers of a series say alike, as dcm2niix would write it."""
    first = images[0]
    scanning, variant, name = first.sequence
    echoes = {image.te_ms for image in images}
    values = {
        "SeriesDescription": first.description,
        "ProtocolName": first.protocol,
        "SeriesNumber": first.series_number,
        "ImageType": list(first.image_type),
        "ContrastBolusAgent": first.agent,
        "ScanningSequence": scanning,
        "SequenceVariant": variant,
        "SequenceName": name,
        "EchoTime": _seconds(first.te_ms) if len(echoes) == 1 else None,
        "RepetitionTime": _seconds(first.tr_ms),
        "InversionTime": _seconds(first.ti_ms),
    }
    return {key: value for key, value in values.items() if value not in (None, "", [])}


def _seconds(ms: float | None) -> float | None:
    return ms / 1000 if ms else None
