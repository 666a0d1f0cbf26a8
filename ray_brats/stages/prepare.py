"""`prepare`: raw studies to a cohort, one Ray Data task a patient.

cohort/<case_id>/<case_id>_{t1,t1ce,t2,flair}.nii.gz   the scans, on one grid
                 prepare.json                          what was done (`cases/raw/record`)
                 prepare.jpg                           what people look at
                 done.json                             the sidecar
cohort/prepare.parquet                                 one row a study
cohort/prepare.html                                    the pictures, doubtful cases first
cohort/prepared.json                                   counts and options; written last
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

import ray_brats
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.naming import MODALITIES
from ray_brats.cases.raw import patient, record, space, studies
from ray_brats.cases.raw.patient import Patient
from ray_brats.cases.raw.preparation import PreparationOptions
from ray_brats.cases.raw.record import Record, SeriesRecord
from ray_brats.cases.volume import encode
from ray_brats.engine import mapping
from ray_brats.errors import CaseError, CaseFailed
from ray_brats.files import ledger, ownership, storage
from ray_brats.files.ledger import CaseRow, Summary, Work
from ray_brats.files.local import FileInfo
from ray_brats.progress import say
from ray_brats.recipes import jsonform
from ray_brats.report import aligned
from ray_brats.report.aligned import AlignedCase

TASK_MEMORY_BYTES = 4 << 30
TASK_CPUS = 1
LIMIT_SECONDS = 900.0
STAGE_VERSION = 2
SIDECAR, PICTURE = "done.json", "prepare.jpg"
TABLE, PAGE, DESCRIPTION = "prepare.parquet", "prepare.html", record.COHORT_NAME
_SHOWN = 3
COLUMNS = {
    "case_id": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "modalities": pa.string(),
    "reference": pa.string(),
    "brain_ml": pa.float64(),
    "remarks": pa.string(),
}


@dataclass(frozen=True, kw_only=True)
class Raw:
    """One study that is to become a case."""

    case_id: str
    study: studies.Study
    asked: Mapping[str, str] = field(default_factory=dict)
    """Modality to the series that somebody wants."""
    mask: FileInfo | None = None
    """An outline of the brain."""
    etag: str = ""
    """Of all the study's files."""


@dataclass(frozen=True, kw_only=True)
class PrepareSummary(Summary):
    """What preparing raw studies did."""

    cohort: str = field(metadata=ledger.PLACE)
    page: str = field(metadata=ledger.PLACE)
    processed: int
    skipped: int
    notes: Sequence[str]


def prepare(
    raw: Sequence[Raw],
    cohort_uri: str,
    options: PreparationOptions,
    *,
    inputs: Sequence[str],
    rejected: Sequence[CaseRow] = (),
    limit_seconds: float = LIMIT_SECONDS,
) -> PrepareSummary:
    """Prepare every study that is not prepared yet.

    Args:
        raw: the studies, and what they will be called.
        cohort_uri: where the cohort is or will be.
        options: what is done with each.
        inputs: URIs of what the call reads, which it must not write over.
        rejected: rows of studies that cannot be read at all.
        limit_seconds: the longest that one may take.
    """
    atlas = storage.file_infos({options.space} - {*space.NAMES})
    # It counts by what it is, wherever it lies.
    told = dataclasses.replace(options, space=space.ATLAS) if atlas else options
    etag = "".join(file.etag for file in atlas.values())
    key = jsonform.fingerprint({"stage": STAGE_VERSION, "atlas": etag}, told)
    work = [_work(item, cohort_uri, options, key) for item in raw]
    output = ledger.Output(
        uri=cohort_uri, description=DESCRIPTION, tables=[TABLE, PAGE], inputs=[*inputs, *atlas]
    )
    finished, todo = ledger.split_finished(work, output)
    how = mapping.Tasks(
        task=prepare_one, options={"num_cpus": TASK_CPUS, "memory": TASK_MEMORY_BYTES}
    )
    done = mapping.map_cases(todo, how, title="prepare", limit_seconds=limit_seconds)
    rows = ledger.in_order(finished, done, rejected)
    ledger.write_table(storage.join(cohort_uri, TABLE), rows, COLUMNS)
    page_uri = storage.join(cohort_uri, PAGE)
    storage.write_if_changed(page_uri, _page(rows, cohort_uri).encode())
    description = {
        "options": jsonform.as_json(told),
        "stage_version": STAGE_VERSION,
        "versions": {"ray_brats": ray_brats.__version__},
        "counts": ledger.counts(rows),
    }
    storage.write_json(storage.join(cohort_uri, DESCRIPTION), description)
    ownership.end(cohort_uri)
    _say_others(cohort_uri, rows)
    return PrepareSummary(
        cohort=cohort_uri,
        page=page_uri,
        counts=ledger.counts(rows),
        processed=len(done),
        skipped=len(finished),
        notes=ledger.remark_lines(rows),
        failures=[row for row in rows if row.is_failure],
    )


def _say_others(cohort_uri: str, rows: Sequence[CaseRow]) -> None:
    """Warn of cases of earlier calls that are of no study of this one; one listing."""
    known = {row.case_id for row in rows}
    depth = None if storage.is_remote(cohort_uri) else 2
    uris = (file.uri for file in storage.list_files(cohort_uri, depth=depth))
    found = (storage.parent_of(uri) for uri in uris if storage.name_of(uri) == record.NAME)
    others = sorted(
        storage.name_of(folder)
        for folder in found
        if storage.parent_of(folder) == cohort_uri.rstrip("/")
        and storage.name_of(folder) not in known
    )
    if others:
        shown = ", ".join(others[:_SHOWN]) + (" …" if others[_SHOWN:] else "")
        say(
            f"warning: {cohort_uri} holds {len(others)} other case(s) ({shown}): they are of no "
            "study in RAW: remove them, or use a new COHORT"
        )


def _work(item: Raw, cohort_uri: str, options: PreparationOptions, how: str) -> Work:
    """The work of a study; `how` changes with what is done with all of them."""
    inputs = {"files": item.etag, "mask": item.mask and item.mask.etag, "asked": dict(item.asked)}
    names = [image_name(item.case_id, modality) for modality in MODALITIES]
    return Work(
        case_id=item.case_id,
        sidecar_uri=storage.join(cohort_uri, item.case_id, SIDECAR),
        key=jsonform.fingerprint(inputs, how),
        payload={
            "study": item.study.as_row(),
            "asked": dict(item.asked),
            "mask_uri": item.mask.uri if item.mask else None,
            "options": jsonform.as_json(options),
        },
        outputs=(*names, record.NAME, PICTURE),
    )


def image_name(case_id: str, modality: str) -> str:
    """File name of a prepared scan."""
    return f"{case_id}_{modality}.nii.gz"


def prepare_one(item: Work) -> tuple[CaseRow, list[str]]:
    """The task: read, prepare and write one study."""
    values = item.payload
    try:
        ready = patient.prepare(
            item.case_id,
            studies.Study.from_row(values["study"]),
            jsonform.from_json(PreparationOptions, values["options"]),
            values["asked"],
            values["mask_uri"],
        )
    except CaseError as error:
        # Names of files may tell who was scanned.
        raise type(error)(error.reason) from error.__cause__
    except OSError as error:
        raise CaseFailed(f"{type(error).__name__}: {error.strerror}") from error
    geometry: Geometry = ready.record.grid
    files = []
    for modality, image in ready.prepared.images.items():
        name = image_name(item.case_id, modality)
        storage.write_bytes(
            storage.join(item.folder, name), encode(image.voxels, geometry), synced=False
        )
        files.append(name)
    picture = storage.join(item.folder, PICTURE)
    storage.write_bytes(picture, picture_of(ready), synced=False)
    storage.write_json(storage.join(item.folder, record.NAME), ready.record.as_json(), synced=False)
    return _row(ready), [*files, PICTURE, record.NAME]


def picture_of(ready: Patient) -> bytes:
    """What people look at, as JPEG: the reference first."""
    prepared = ready.prepared
    heads = {name: prepared.images[name].head for name in _columns(ready.record)}
    return aligned.picture(heads, prepared.brain, prepared.grid.spacing_mm)


def _columns(told: Record) -> list[str]:
    """Modalities as the picture has them: the reference first."""
    return sorted(told.series, key=lambda name: (name != told.reference, name))


def _called(series: SeriesRecord) -> str:
    """Number and name of a series, as the study has them."""
    return " ".join(str(part) for part in (series.facts.get("number"), series.name) if part)


def _row(ready: Patient) -> CaseRow:
    told = ready.record
    facts: dict[str, Any] = {
        "modalities": ",".join(name for name in MODALITIES if name in told.series),
        "reference": told.reference,
        "brain_ml": told.brain_ml,
        **ledger.remarked(told.warnings),
    }
    return CaseRow(case_id=told.case_id, facts=facts)


def _page(rows: Sequence[CaseRow], cohort_uri: str) -> str:
    """The page over all that is prepared, from what each case left."""
    cases = []
    for row in rows:
        if row.status != "ok":
            continue
        jpeg = storage.read_bytes(storage.join(cohort_uri, row.case_id, PICTURE))
        uri = storage.join(cohort_uri, row.case_id, record.NAME)
        told = record.from_json(storage.read_json(uri), uri)
        facts = {"series": row.get("modalities"), "reference": row.get("reference")}
        if row.get("brain_ml"):
            facts["brain"] = f"{row.get('brain_ml'):.0f} ml"
        if told.ignored:
            facts["ignored"] = f"{len(told.ignored)}, as prepare.json tells"
        warnings = [row.get("remarks")] if row.get("remarks") else []
        words = f"Cuts through {row.case_id}: {facts['series']}"
        cases.append(
            AlignedCase(
                case_id=row.case_id,
                facts=facts,
                series={name: _called(told.series[name]) for name in _columns(told)},
                warnings=warnings,
                jpeg=jpeg,
                words=words,
            )
        )
    failures = [row.as_json() for row in rows if row.is_failure]
    return aligned.rendered("Prepared scans", cases, failures)
