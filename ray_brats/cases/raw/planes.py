"""The planes of a DICOM series, and how the array of the NIfTI file that it became lies on them.

An image of DICOM is a plane: its rows lie below each other along one direction, its columns beside
each other along another. Which axis of the array is which, and which of them run the other way,
follows from affines alone; which image shows which slice, from its place. Places are in mm, LPS.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ray_brats.arrays import Array, Floats
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.raw import headers
from ray_brats.cases.raw.elements import Vector
from ray_brats.cases.raw.headers import Header, Other
from ray_brats.errors import CaseRejected

_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From NIfTI's world to DICOM's."""
_ALONG: Final = 0.99
"""Cosine of directions that are the same: slices may be shifted a little against each other."""
_ASIDE_MM: Final = 1.0
"""How far an image may lie from where the array has it within its plane, as `stacks` allows."""
_SAME_PLACE_MM: Final = 0.1
"""How near to one another images of one place are."""
_MASK_STAYS: Final = "its mask in NIfTI has all that there is to know"


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One slice of the array."""

    position_mm: Vector
    """Of its first pixel."""
    images: tuple[Header, ...]
    """Those that show it: none where a slice is missing, each of several echoes."""


@dataclass(frozen=True, kw_only=True)
class PlaneStack:
    """The slices of an array as planes of DICOM, along the normal of the planes."""

    turned: Geometry
    """The file's, whose canonical axes are planes, rows and columns here."""
    planes: tuple[Plane, ...]

    @property
    def images(self) -> tuple[Header, ...]:
        """Every image, in order of place."""
        return tuple(image for plane in self.planes for image in plane.images)

    def pixels(self, native: Array) -> Array:
        """An array in the file's own axes as `(planes, rows, columns)`."""
        return self.turned.canonical(native)


def images_of(paths: Iterable[Path]) -> list[Header]:
    """The headers of the images of one series, to which others can refer.

    Raises:
        CaseRejected: there are none, or not one of each plane, or of several series.
        UsageError: pydicom is not installed.
    """
    images = [_image_of(path) for path in paths]
    if not images:
        raise CaseRejected(
            "its series was given as NIfTI: a DICOM segmentation refers to the DICOM files of its "
            f"series; {_MASK_STAYS}"
        )
    if len({(image.study_uid, image.series_uid) for image in images}) > 1:
        raise CaseRejected("its DICOM files are of several series: expected those of one")
    return images


def _image_of(path: Path) -> Header:
    image = headers.read(path)
    if isinstance(image, Other):
        raise CaseRejected(f"one of its DICOM files is of no use: {image.reason}")
    if image.is_enhanced:
        raise CaseRejected(
            "its series is a file of several frames (enhanced MR): a DICOM segmentation is written "
            f"of series with a file for each slice; {_MASK_STAYS}"
        )
    if not image.instance_uid:
        raise CaseRejected("one of its DICOM files has no SOP instance UID to refer to")
    return image


def stack_of(geometry: Geometry, images: Sequence[Header]) -> PlaneStack:
    """How an array lies on the planes of the images that it was made of.

    Args:
        geometry: of the NIfTI file.
        images: in any order, one at least; of missing slices none.

    Raises:
        CaseRejected: they do not lie on its grid.
    """
    turned = _turned(geometry, images[0])
    to_mm = _TO_LPS @ turned.canonical_affine
    to_index: Floats = np.linalg.inv(to_mm).astype(np.float64)
    shown: dict[int, list[Header]] = defaultdict(list)
    for image in images:
        shown[_place_of(image, turned, to_index)].append(image)
    planes = [_plane(k, to_mm, shown[k]) for k in range(turned.canonical_shape[0])]
    return PlaneStack(turned=turned, planes=tuple(planes))


def _turned(geometry: Geometry, image: Header) -> Geometry:
    """The geometry with planes, rows and columns for its canonical axes."""
    right, down = np.reshape(np.array(image.orientation), (2, 3))
    wanted = np.stack([np.cross(right, down), down, right])
    columns = (_TO_LPS @ np.array(geometry.native_affine))[:3, :3]
    cosines = wanted @ (columns / np.linalg.norm(columns, axis=0))
    first, second, third = (int(axis) for axis in np.abs(cosines).argmax(axis=1))
    along = cosines[range(3), (first, second, third)]
    if len({first, second, third}) < 3 or np.abs(along).min() < _ALONG:
        raise _elsewhere("its axes are not those of the images")
    one, other, last = (bool(cosine < 0) for cosine in along)
    return dataclasses.replace(geometry, axes=(first, second, third), flips=(one, other, last))


def _place_of(image: Header, turned: Geometry, to_index: Floats) -> int:
    """Which slice of the array an image shows."""
    planes, rows, columns = turned.canonical_shape
    if (image.rows, image.columns) != (rows, columns):
        raise _elsewhere(
            f"its slices have {rows} × {columns} voxels, and an image {image.rows} × "
            f"{image.columns}"
        )
    corners = _corners_mm(image) @ to_index[:3, :3].T + to_index[:3, 3]
    place = round(float(corners[0, 0]))
    expected = np.array([[place, 0, 0], [place, rows - 1, 0], [place, 0, columns - 1]])
    between = np.abs(corners - expected)
    aside_mm = float((between[:, 1:] * turned.spacing_mm[1:]).max())
    if not 0 <= place < planes or between[:, 0].max() > 0.5 or aside_mm > _ASIDE_MM:
        raise _elsewhere("an image lies on none of its slices")
    return place


def _corners_mm(image: Header) -> Floats:
    """Places of the first pixel, of the first of the last row, and of the last of the first row."""
    first = np.array(image.position, np.float64)
    right, down = np.reshape(np.array(image.orientation), (2, 3))
    row_mm, column_mm = image.pixel_spacing_mm
    below, beside = down * row_mm * (image.rows - 1), right * column_mm * (image.columns - 1)
    return np.stack([first, first + below, first + beside])


def _plane(place: int, to_mm: Floats, images: Sequence[Header]) -> Plane:
    """A slice where its images say that it lies; where none does, where the array has it."""
    if not images:
        x, y, z = (float(mm) for mm in (to_mm @ [place, 0, 0, 1])[:3])
        return Plane(position_mm=(x, y, z), images=())
    positions = np.array([image.position for image in images])
    if np.abs(positions - positions[0]).max() > _SAME_PLACE_MM:
        raise _elsewhere("several of its images lie nearest to one slice")
    ordered = sorted(images, key=lambda image: image.instance_uid)
    return Plane(position_mm=tuple(ordered[0].position or ()), images=tuple(ordered))


def _elsewhere(difference: str) -> CaseRejected:
    return CaseRejected(
        f"the mask is not on the grid of its DICOM images: {difference}; expected a mask on the "
        "grid of the NIfTI file that was made of them"
    )
