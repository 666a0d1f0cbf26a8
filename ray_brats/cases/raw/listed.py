"""A CSV of raw studies: a row a study, by its folder or by a series for each modality."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ray_brats.cases import manifest, naming
from ray_brats.cases.naming import MODALITIES
from ray_brats.cases.raw import dicoms, studies, walk
from ray_brats.cases.raw.dicoms import DicomSeries
from ray_brats.cases.raw.studies import Study
from ray_brats.errors import UsageError
from ray_brats.files import storage

_STUDY: Final = "study"
_CASE: Final = "case_id"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A study of a CSV."""

    case_id: str
    study: Study
    asked: Mapping[str, str] = field(default_factory=dict)
    """Modality to its series, where the CSV says so."""


def read(uri: str) -> list[Listed]:
    """The studies of a CSV: `case_id`, and `study` or some of `t1`, `t1ce`, `t2`, `flair`.

    `study` is a folder that holds one; a modality is a NIfTI file, or a folder or a file of one
    DICOM series. Places are relative to the CSV.

    Raises:
        UsageError: other columns, no row, or a row that does not say one study; with its number.
    """
    if storage.is_remote(uri):
        raise UsageError(f"{uri}: expected a CSV of this machine, as the files that it names are")
    rows = manifest.read(storage.absolute(uri), required=(_CASE,), is_exact=True)
    columns = set(rows[0]) if rows else set()
    wanted = {_STUDY} if _STUDY in columns else columns & set(MODALITIES)
    if not wanted or columns - wanted - {_CASE}:
        raise UsageError(
            f"{uri}: expected rows below the columns case_id and study, or case_id and some of "
            f"{', '.join(MODALITIES)}"
        )
    counts = Counter(row[_CASE] for row in rows)
    above = Path(storage.absolute(uri)).parent
    return [
        _listed(row, above, f"{uri}: row {number}", counts) for number, row in enumerate(rows, 1)
    ]


def _listed(row: Mapping[str, str], above: Path, where: str, counts: Mapping[str, int]) -> Listed:
    name = row[_CASE]
    problem = naming.problem_of_name(name)
    if problem or counts[name] > 1:
        why = problem[0] if problem else f"{name} stands {counts[name]} times"
        raise UsageError(f"{where}: case_id: {why}")
    case_id = naming.id_of_name(name)
    places = {key: above / text for key, text in row.items() if text and key != _CASE}
    if lacking := [key for key, place in places.items() if not place.exists()]:
        raise UsageError(f"{where}: {lacking[0]}: {places[lacking[0]]} is not there")
    if not places:
        raise UsageError(f"{where}: no place of a study or of a series")
    if _STUDY in places:
        return Listed(case_id=case_id, study=_one_study(places[_STUDY], where))
    return _of_series(case_id, places, where)


def _one_study(folder: Path, where: str) -> Study:
    found = studies.find(folder)
    if len(found) > 1:
        raise UsageError(f"{where}: {folder} holds {len(found)} studies: expected one")
    return found[0]


def _of_series(case_id: str, places: Mapping[str, Path], where: str) -> Listed:
    """A study of a series for each modality."""
    nifti: dict[str, Path] = {}
    series: dict[str, DicomSeries] = {}
    for modality, place in places.items():
        if naming.image_format(place.name) == "nifti":
            nifti[modality] = place.resolve()
        else:
            series[modality] = _one_series(place, f"{where}: {modality}")
    files = [*nifti.values(), *(path for one in series.values() for path in one.paths)]
    asked = {modality: str(path) for modality, path in nifti.items()}
    asked |= {
        modality: one.description if one.number is None else str(one.number)
        for modality, one in series.items()
    }
    if len(set(asked.values())) < len(asked):
        raise UsageError(f"{where}: one series, or one number of a series, for two modalities")
    study = Study(
        name=case_id,
        patient=case_id,
        folder=Path(os.path.commonpath([path.parent for path in files])),
        nifti=tuple(nifti.values()),
        dicom=tuple(series.values()),
    )
    return Listed(case_id=case_id, study=study, asked=asked)


def _one_series(place: Path, where: str) -> DicomSeries:
    place = place.resolve()
    files = walk.files_below(place).dicom if place.is_dir() else (place,)
    found = dicoms.inventory(files).series if files else ()
    if len(found) != 1:
        raise UsageError(
            f"{where}: {place} holds {len(found)} series of DICOM: expected one, or a NIfTI file"
        )
    return found[0]
