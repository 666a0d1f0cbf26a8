"""`prepare.json`: what was done to a patient's series, and so the way back to each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from ray_brats.arrays import Floats
from ray_brats.cases import geometry as geometries
from ray_brats.cases.geometry import Affine, Geometry
from ray_brats.cases.raw.placed import Grid
from ray_brats.errors import ArtefactError

NAME: Final = "prepare.json"
COHORT_NAME: Final = "prepared.json"
"""What a whole cohort has where it was prepared from raw studies; written last."""
FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True)
class SeriesRecord:
    """One series of a case."""

    name: str
    """How the study calls it."""
    reason: str
    """Why it was taken."""
    geometry: Geometry
    """Its own grid."""
    motion: Affine
    """Map from the world of the case to that of the series, mm, 4 × 4 row by row."""
    similarity: float | None = None
    """Mutual information with the reference, nats; None of the reference itself."""
    covered: float = 1.0
    """Share of the brain that it shows."""
    scale: float = 1.0
    """What its values were multiplied by."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Times in ms, contrast agent, plane, as far as they are known."""


@dataclass(frozen=True, kw_only=True)
class Home:
    """The grid of a series, and the way to it."""

    geometry: Geometry
    """Of the series' own file."""
    motion: Floats
    """Map from the world of the case to that of the series, 4 × 4."""
    source: str = ""
    """Which DICOM series it is, as `dicoms.DicomSeries.source`; "" of NIfTI."""
    sources: tuple[Path, ...] = ()
    """Its files, where a DICOM Segmentation is to be made of the mask."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; `home_from_json` is the inverse."""
        return {
            "geometry": self.geometry.as_json(),
            "motion": self.motion.tolist(),
            "source": self.source,
            "sources": list(map(str, self.sources)),
        }


def home_from_json(values: Mapping[str, Any]) -> Home:
    """The home that `as_json` gave."""
    return Home(
        geometry=geometries.from_json(values["geometry"]),
        motion=np.array(values["motion"], np.float64),
        source=values["source"],
        sources=tuple(map(Path, values["sources"])),
    )


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was done to one patient's series."""

    case_id: str
    space: str
    grid: Geometry
    reference: str
    """Modality that the others were brought to."""
    series: Mapping[str, SeriesRecord]
    """By modality."""
    brain: str
    """What outlined the brain."""
    brain_ml: float | None
    options: Mapping[str, Any] = field(default_factory=dict)
    """What was asked of the preparation, as JSON; none in records of earlier versions."""
    warnings: Sequence[str] = ()
    ignored: Sequence[tuple[str, str]] = ()
    """Other series of the study, and why they were not taken."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that had a part in it."""

    @property
    def home_modality(self) -> str:
        """The series whose grid masks are brought home to: T1CE, else the reference."""
        return "t1ce" if "t1ce" in self.series else self.reference

    @property
    def home(self) -> Home:
        """The grid of that series, and the way to it."""
        item = self.series[self.home_modality]
        return Home(
            geometry=item.geometry,
            motion=np.array(item.motion, np.float64),
            source=item.facts.get("source", ""),
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        series = {
            name: {**dataclasses.asdict(item), "geometry": item.geometry.as_json()}
            for name, item in self.series.items()
        }
        plain = {"grid": self.grid.as_json(), "series": series, "ignored": list(self.ignored)}
        return {"format": FORMAT, **values, **plain, "warnings": list(self.warnings)}


def from_json(values: Mapping[str, Any], uri: str) -> Record:
    """The record in a `prepare.json`.

    Raises:
        ArtefactError: it is none, or of another version.
    """
    number = values.get("format") if isinstance(values, Mapping) else None
    if number != FORMAT:
        raise ArtefactError(
            f"{uri} has the format {number}, and this version reads {FORMAT}: "
            "prepare the case again"
        )
    try:
        series = {name: _series_of(item) for name, item in values["series"].items()}
        if values["reference"] not in series:
            raise ValueError(f"no series is {values['reference']}")
        rest = {key: values[key] for key in ("case_id", "space", "reference", "brain", "brain_ml")}
        return Record(
            **rest,
            grid=geometries.from_json(values["grid"]),
            series=series,
            warnings=tuple(values["warnings"]),
            ignored=tuple((name, why) for name, why in values["ignored"]),
            versions=values["versions"],
            options=dict(values.get("options", {})),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{uri} is damaged ({error}): prepare the case again") from error


def _series_of(values: Mapping[str, Any]) -> SeriesRecord:
    motion = np.array(values["motion"], np.float64)
    if motion.shape != (4, 4) or not np.isfinite(motion).all():
        raise ValueError(f"a motion of {values['motion']}")
    own = {"geometry": geometries.from_json(values["geometry"])}
    return SeriesRecord(**{**values, **own, "motion": geometries.affine_of(motion)})


def grid_of(geometry: Geometry) -> Grid:
    """The grid of a geometry's whole file, in canonical axes."""
    return Grid(shape_vox=geometry.canonical_shape, affine=geometry.canonical_affine)


def geometry_of(grid: Grid) -> Geometry:
    """The geometry of a file on a grid."""
    affine: Floats = grid.affine
    return geometries.of_file(grid.shape_vox, affine, qform_code=1, sform_code=1)
