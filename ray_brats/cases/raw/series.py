"""A series: one image of a study as NIfTI, and what its header and its sidecar say of it.

A sidecar is what dcm2niix writes beside an image, in the keys and units of BIDS: times in seconds.
Here they are in milliseconds, as people in hospitals have them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ray_brats.arrays import Shape, Spacing
from ray_brats.cases import nifti
from ray_brats.cases.geometry import Affine
from ray_brats.errors import CaseFailed
from ray_brats.files import storage

THREE_D = "3d"
_PLANES = ("sagittal", "coronal", "axial")
"""How slices lie whose normal is the world's first, second, third axis."""
_FINE_MM = 2.0
"""Slices that are no thicker can be looked at from any side."""
_ISOTROPIC = 1.5
"""The most that voxels of a 3-D acquisition are longer along one side than along another."""
_ENDING = re.compile(r"\.nii(\.gz)?\Z", re.IGNORECASE)
_NO_AGENT = re.compile(r"\W*(no|non|none|n|nil|without|0|false|no contrast)?\W*", re.IGNORECASE)
"""What is written where an agent could be named and none was given."""
_LONGEST = 256
"""Characters of a description that count: the standard has 64."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One image of a study."""

    path: Path
    """The NIfTI file."""
    name: str
    """How the study calls it: its description, else the file's name without its ending."""
    number: int | None = None
    """The scanner's number of the series."""
    shape_vox: Shape
    """Along the file's own axes."""
    spacing_mm: Spacing
    affine: Affine
    """Map of voxel indices to the world in mm, RAS as in NIfTI, row by row."""
    volumes: int = 1
    """Images behind one another along a fourth axis."""
    description: str = ""
    protocol: str = ""
    image_type: tuple[str, ...] = ()
    te_ms: float | None = None
    tr_ms: float | None = None
    ti_ms: float | None = None
    contrast: bool | None = None
    """Whether the header names a contrast agent; None where it says nothing."""
    sequence: str = ""
    """Scanning sequence, variant and name of the sequence, as the scanner has them."""
    sources: tuple[Path, ...] = ()
    """The DICOM files that it was made of, in order of their place and, of several echoes, those of
    all; none of a NIfTI file."""
    source: str = ""
    """What tells the DICOM series from every other one, as `dicoms.DicomSeries.source`."""
    missing_slices: int = 0
    """How many were filled in between others."""
    content: str = ""
    """What files of the same bytes share; "" where no other file of the study has its size."""
    warnings: tuple[str, ...] = ()
    """What is doubtful about it, a sentence each; never who was scanned."""

    @property
    def slice_axis(self) -> int:
        """Axis along which voxels are longest; of equal ones that with the fewest."""
        return max(range(3), key=lambda axis: (round(self.spacing_mm[axis], 3), -self._side(axis)))

    @property
    def slice_mm(self) -> float:
        """Distance of slices: the largest spacing."""
        return max(self.spacing_mm)

    @property
    def slices(self) -> int:
        """How many there are."""
        return self._side(self.slice_axis)

    @property
    def coverage_mm(self) -> Spacing:
        """Extent along each of the file's axes."""
        first, second, third = (
            side * mm for side, mm in zip(self.shape_vox, self.spacing_mm, strict=True)
        )
        return first, second, third

    @property
    def plane(self) -> str:
        """`axial`, `sagittal` or `coronal`, as its slices lie; `3d` where that does not matter."""
        if self.slice_mm <= max(_FINE_MM, _ISOTROPIC * min(self.spacing_mm)):
            return THREE_D
        others = [axis for axis in range(3) if axis != self.slice_axis]
        columns = np.array(self.affine)[:3, others]
        normal = np.cross(columns[:, 0], columns[:, 1])
        return _PLANES[int(np.abs(normal).argmax())]

    @property
    def label(self) -> str:
        """Name, number and grid, for people who choose between several."""
        number = "" if self.number is None else f"no. {self.number}, "
        grid = " × ".join(f"{mm:.3g}" for mm in self.spacing_mm)
        return f"{self.name} ({number}{grid} mm)"

    def _side(self, axis: int) -> int:
        return self.shape_vox[axis]


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """What lies in a study and is none of its series."""

    name: str
    """A file, or how the study calls a series. A file's name may tell who was scanned, so that this
    field is for the record, and for a remark where a modality is missing, and for no log."""
    reason: str
    """A sentence; equal ones are counted together."""
    path: Path | None = None
    """Where the first of its files lies."""
    files: int = 1
    study_uid: str = ""
    """Of DICOM objects, whose study they are of."""


def stem_of(path: Path) -> str:
    """The name of a NIfTI file without its ending."""
    return _ENDING.sub("", path.name)


def of_nifti(path: Path, *, name: str | None = None) -> Series:
    """The series of a NIfTI file of which its name alone tells something.

    Args:
        name: how the study calls it; the file's name without its ending where it has no other.

    Raises:
        CaseRejected: no NIfTI, damaged, or neither three nor four axes.
        CaseFailed: the file cannot be read, now.
    """
    try:
        head = storage.read_bytes(str(path), end=nifti.HEAD_BYTES)
    except OSError as error:
        raise CaseFailed(f"cannot be read: {error.strerror}", path.name) from error
    # A channel is named so that 4-D files are no error here: they are judged by their kind.
    header = nifti.read_header(head, path.name, channel=0)
    columns = np.linalg.norm(np.array(header.geometry.native_affine)[:3, :3], axis=0)
    first, second, third = (float(mm) for mm in columns)
    return Series(
        path=path,
        name=stem_of(path) if name is None else name,
        shape_vox=header.shape,
        spacing_mm=(first, second, third),
        affine=header.geometry.native_affine,
        volumes=header.channels,
    )


def of_sidecar(path: Path, sidecar: Mapping[str, Any]) -> Series:
    """The series of a NIfTI file with its sidecar; raises as `of_nifti`.

    What a sidecar holds in another type than BIDS asks for counts as not said.
    """
    bare = of_nifti(path)
    description = _text(sidecar.get("SeriesDescription"))
    number = _number(sidecar.get("SeriesNumber"))
    agent = sidecar.get("ContrastBolusAgent", sidecar.get("ContrastBolusIngredient"))
    sequence = ("ScanningSequence", "SequenceVariant", "SequenceName", "PulseSequenceName")
    return dataclasses.replace(
        bare,
        name=description or bare.name,
        number=None if number is None else int(number),
        description=description,
        protocol=_text(sidecar.get("ProtocolName")),
        image_type=tuple(_text(sidecar.get("ImageType")).upper().split()),
        te_ms=_ms(sidecar.get("EchoTime")),
        tr_ms=_ms(sidecar.get("RepetitionTime")),
        ti_ms=_ms(sidecar.get("InversionTime")),
        contrast=_names_agent(agent),
        sequence=" ".join(filter(None, (_text(sidecar.get(key)) for key in sequence))),
    )


def _names_agent(agent: Any) -> bool | None:
    text = _text(agent)
    return None if not text else _NO_AGENT.fullmatch(text) is None


def _text(value: Any) -> str:
    """A text, or a list of such, without what ends lines."""
    parts = value if isinstance(value, list | tuple) else [value]
    return " ".join(" ".join(str(part).split()) for part in parts if isinstance(part, str))[
        :_LONGEST
    ]


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e9 else None


def _ms(seconds: Any) -> float | None:
    """A time in milliseconds; what is not above 0 is not said."""
    number = _number(seconds)
    return 1000 * number if number is not None and number > 0 else None
