"""One study from its files to a case: converted, chosen, prepared, and put on record."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ray_brats
from ray_brats.cases import volume
from ray_brats.cases.geometry import Geometry, affine_of
from ray_brats.cases.raw import brain, choice, doubts, preparation, record, space, studies
from ray_brats.cases.raw.choice import Choice
from ray_brats.cases.raw.placed import Placed
from ray_brats.cases.raw.preparation import PreparationOptions, Prepared
from ray_brats.cases.raw.record import Record, SeriesRecord
from ray_brats.cases.raw.series import Ignored, Series
from ray_brats.cases.raw.studies import Study
from ray_brats.cases.volume import Volume
from ray_brats.errors import CaseError, CaseRejected
from ray_brats.recipes import jsonform

MASK: Final = "a mask of somebody else's"
NOBODY: Final = "nobody: the skull was kept"
PACKAGES: Final = ("SimpleITK", "deepbet", "torch", "dcm2niix", "pydicom", "nilearn")
"""Those that have a part in it, whose versions stand on record: highdicom writes masks alone."""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A case that was prepared, in memory."""

    prepared: Prepared
    record: Record
    sources: Mapping[str, tuple[Path, ...]]
    """Modality to the DICOM files of its series, none of NIfTI."""
    scan: Volume
    """The series that masks go home to, as it left the scanner."""


def prepare(
    case_id: str,
    study: Study,
    options: PreparationOptions,
    asked: Mapping[str, str] | None = None,
    mask_uri: str | None = None,
    needed: Sequence[str] = (),
) -> Patient:
    """Bring one study to a case.

    Args:
        case_id: what the case is called.
        study: its files.
        options: where to, and how.
        asked: modality to the series that somebody wants, by name or number.
        mask_uri: an outline of the brain.
        needed: modalities without which nobody wants the case; judged before it is prepared.

    Raises:
        CaseRejected: a modality is missing that is needed, or what `studies.series_of`,
            `choice.choose`, `volume.read` and `preparation.prepare` reject.
        UsageError: a package of the extra is missing.
    """
    with tempfile.TemporaryDirectory(prefix="ray-brats-raw-") as workspace:
        found, ignored = studies.series_of(study, Path(workspace), asked=(asked or {}).values())
        chosen = choice.choose(found, asked)
        left = [*((item.name, why) for item, why in chosen.ignored), *map(_told, ignored)]
        absent = doubts.of_missing(chosen, left)
        _check_needed(needed, chosen, absent)
        volumes = {name: _read(name, str(item.path)) for name, item in chosen.chosen.items()}
    mask = None if mask_uri is None else placed_of(_read("the mask of its brain", mask_uri))
    placed = {name: placed_of(item) for name, item in volumes.items()}
    prepared = preparation.prepare(placed, options, mask)
    place = options.space if options.space in space.NAMES else space.ATLAS
    outliner = MASK if mask_uri else brain.METHOD
    done = Record(
        case_id=case_id,
        space=place,
        grid=record.geometry_of(prepared.grid),
        reference=prepared.alignment.reference,
        series={
            name: _record(name, item, chosen, volumes[name].geometry, prepared)
            for name, item in chosen.chosen.items()
        },
        brain=NOBODY if prepared.brain is None else outliner,
        brain_ml=None if prepared.brain_ml is None else round(prepared.brain_ml, 3),
        # It counts by what it is, wherever it lies.
        options=jsonform.as_json(dataclasses.replace(options, space=place)),
        warnings=(*absent, *_doubts(chosen, volumes, prepared, needed)),
        ignored=tuple(left),
        versions=versions(),
    )
    return Patient(
        prepared=prepared,
        sources={name: item.sources for name, item in chosen.chosen.items()},
        scan=volumes[done.home_modality],
        record=done,
    )


def _check_needed(needed: Sequence[str], chosen: Choice, absent: Sequence[str]) -> None:
    """`CaseRejected` where a modality is missing, with what looks as if it were there."""
    if problem := volume.missing_modality(needed, chosen.chosen):
        raise CaseRejected("; ".join((problem[0], *absent)), problem[1])


def _doubts(
    chosen: Choice, volumes: Mapping[str, Volume], prepared: Prepared, needed: Sequence[str]
) -> Iterator[str]:
    """What somebody should look at, but for what is missing and looks as if it were there."""
    # Who needs some modalities has them by now, and does not ask for the usual ones.
    if not needed:
        yield from doubts.of_absent(chosen)
    yield from doubts.of_choice(chosen)
    reference = prepared.alignment.reference
    yield from doubts.of_stripped(reference, volumes[reference].voxels_HWD)
    yield from prepared.warnings


def _told(item: Ignored) -> tuple[str, str]:
    """The name of what is ignored, and why; with its number of files where there are several."""
    return item.name, f"{item.reason} ({item.files} files)" if item.files > 1 else item.reason


def _read(what: str, uri: str) -> Volume:
    """An image; errors say which it is, since its file may be one that is gone by then."""
    try:
        return volume.read(uri)
    except CaseError as error:
        raise type(error)(f"{what}: {error.reason}", error.file) from error.__cause__


def placed_of(image: Volume) -> Placed:
    """An image with its place, from a file that was read."""
    return Placed(voxels=image.voxels_HWD, grid=record.grid_of(image.geometry))


def _record(
    modality: str, item: Series, chosen: Choice, geometry: Geometry, prepared: Prepared
) -> SeriesRecord:
    image = prepared.images[modality]
    similarity = prepared.alignment.similarities.get(modality)
    facts = {
        "number": item.number,
        "plane": item.plane,
        "te_ms": item.te_ms,
        "tr_ms": item.tr_ms,
        "ti_ms": item.ti_ms,
        "contrast": item.contrast,
        "missing_slices": item.missing_slices or None,
        "source": item.source or None,
    }
    return SeriesRecord(
        name=item.name,
        reason=chosen.reasons[modality],
        geometry=geometry,
        motion=affine_of(image.motion),
        similarity=None if similarity is None else round(similarity, 4),
        covered=round(image.covered, 4),
        scale=image.scale,
        facts={name: value for name, value in facts.items() if value is not None},
    )


@functools.cache
def versions() -> Mapping[str, str]:
    """Of this package and of those of the extra that are here."""
    found = {"ray_brats": ray_brats.__version__}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
