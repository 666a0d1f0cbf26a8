"""`preprocess`: a cohort to a dataset (`training.data`), one Ray Data task a case."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import ray_brats
from ray_brats.cases.case import Case, Cohort
from ray_brats.cases.preprocess import STAGE_VERSION, preprocess_case
from ray_brats.engine import mapping
from ray_brats.files import ledger, ownership, storage
from ray_brats.files.ledger import CaseRow, Summary, Work
from ray_brats.files.packed import Table
from ray_brats.recipes import jsonform, tasks
from ray_brats.recipes.config import PreprocessConfig, Recipe
from ray_brats.training.data import (
    DISTANCE,
    GEOMETRY,
    IMAGE,
    LABEL,
    LABELLED,
    SIDECAR,
    case_uri,
    description_uri,
    kept_of,
    table_uri,
)

TASK_MEMORY_BYTES = 1 << 30
LIMIT_SECONDS = 600.0
BRATS_SHAPE_VOX = (240, 240, 155)
SEEN = ("train", "val")
"""Splits that training sees; of `val` the scores, or by folds the cases."""
OUTPUTS = (IMAGE, LABEL, LABELLED, DISTANCE, GEOMETRY)
COLUMNS = {
    "case_id": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "file": pa.string(),
    "patient_id": pa.string(),
    "grade": pa.string(),
    "split": pa.string(),
    "native_shape_vox": pa.list_(pa.int32()),
    "shape_vox": pa.list_(pa.int32()),
    "spacing_mm": pa.list_(pa.float64()),
    "remarks": pa.string(),
    "labelled_vox": pa.int64(),
    "image_sha256": pa.string(),
    "label_sha256": pa.string(),
}


@dataclass(frozen=True, kw_only=True)
class PreprocessSummary(Summary):
    """What preparing a cohort did."""

    dataset: str = field(metadata=ledger.PLACE)
    processed: int
    skipped: int
    notes: Sequence[str]
    filtered: Sequence[CaseRow]


def preprocess(
    cohort: Cohort,
    cases: Sequence[Case],
    dataset_uri: str,
    recipe: Recipe,
    *,
    keep_filtered: bool = False,
    limit_seconds: float = LIMIT_SECONDS,
) -> PreprocessSummary:
    """Prepare every case that is not prepared yet.

    Args:
        cohort: what was found; its rejected rows enter the ledger.
        cases: its cases, with their splits.
        dataset_uri: where the dataset is or will be.
        recipe: whose preprocessing is applied.
        keep_filtered: do not apply the recipe's rule on the labelled share.
        limit_seconds: the longest that a case may take.
    """
    task = cohort.task_or(None)
    options = jsonform.as_json(recipe.preprocess)
    work = (_work(case, dataset_uri, options, keep_filtered) for case in cases)
    output = ledger.Output(
        uri=dataset_uri,
        description=storage.name_of(description_uri(dataset_uri)),
        tables=[storage.name_of(table_uri(dataset_uri))],
        inputs=cohort.files(),
    )
    finished, todo = ledger.split_finished(work, output)
    how = mapping.Tasks(task=prepare, options={"num_cpus": 1, "memory": TASK_MEMORY_BYTES})
    done = mapping.map_cases(todo, how, title="preprocess", limit_seconds=limit_seconds)
    rows = ledger.in_order(_with_facts(ledger.in_order(finished, done), cases), cohort.rejected)
    counts = ledger.counts(rows)
    remarks = ledger.remark_lines(rows)
    notes = [*cohort.notes, *_size_notes(rows, recipe.preprocess), *remarks]
    description = {
        "recipe": recipe.name,
        "preprocess": options,
        "modalities": list(recipe.preprocess.modalities),
        **tasks.described(task),
        "stage_version": STAGE_VERSION,
        "versions": {"ray_brats": ray_brats.__version__},
        "counts": counts,
        "notes": notes,
        "fingerprint": _content_fingerprint(rows, recipe.preprocess),
    }
    ledger.write_table(table_uri(dataset_uri), rows, COLUMNS)
    storage.write_json(description_uri(dataset_uri), description)
    ownership.end(dataset_uri)
    return PreprocessSummary(
        dataset=dataset_uri,
        counts=counts,
        processed=len(done),
        skipped=len(finished),
        notes=notes,
        failures=[row for row in rows if row.is_failure],
        filtered=[row for row in rows if row.status == "filtered"],
    )


def _work(case: Case, dataset_uri: str, options: Mapping[str, Any], keep_filtered: bool) -> Work:
    key = jsonform.fingerprint(
        case.inputs(options["modalities"]),
        {**tasks.key_of(case.task), "keep_filtered": keep_filtered, "stage": STAGE_VERSION},
        options,
    )
    payload = {
        "case": case.as_row(),
        "preprocess": options,
        "keep_filtered": keep_filtered,
    }
    sidecar = storage.join(case_uri(dataset_uri, case.case_id), SIDECAR)
    return Work(
        case_id=case.case_id, sidecar_uri=sidecar, key=key, payload=payload, outputs=OUTPUTS
    )


def prepare(item: Work) -> tuple[CaseRow, list[str]]:
    """The task: read, compute and write the artefacts of one case."""
    options = jsonform.from_json(PreprocessConfig, item.payload["preprocess"])
    prepared = preprocess_case(
        Case.from_row(item.payload["case"]), options, keep_filtered=item.payload["keep_filtered"]
    )
    facts: dict[str, Any] = {
        "native_shape_vox": list(prepared.geometry.canonical_shape),
        "shape_vox": list(prepared.image_HWDC.shape[:3]),
        "spacing_mm": [round(side, 4) for side in prepared.geometry.spacing_mm],
        **ledger.remarked(prepared.remarks),
    }
    facts["image_sha256"] = _save(prepared.image_HWDC, storage.join(item.folder, IMAGE))
    files = [IMAGE, GEOMETRY]
    if prepared.label_HWD is not None:
        facts["label_sha256"] = _save(prepared.label_HWD, storage.join(item.folder, LABEL))
        facts["labelled_vox"] = int(np.count_nonzero(prepared.label_HWD))
        files.append(LABEL)
        for name, array in kept_of(prepared.label_HWD).items():
            _save(array, storage.join(item.folder, name))
            files.append(name)
    description = {"case_id": item.case_id, **prepared.geometry.as_json()}
    storage.write_json(storage.join(item.folder, GEOMETRY), description, synced=False)
    return CaseRow(case_id=item.case_id, facts=facts), files


def _save(array: npt.NDArray[Any], uri: str) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getbuffer()
    storage.write_bytes(uri, content, synced=False)
    return hashlib.sha256(content).hexdigest()


def _size_notes(rows: Sequence[CaseRow], options: PreprocessConfig) -> list[str]:
    """Says where a fixed crop is not the original's, since the scans have another size."""
    shapes = Counter(
        tuple(row.facts["native_shape_vox"]) for row in rows if row.get("native_shape_vox")
    )
    others = [shape for shape in shapes if shape != BRATS_SHAPE_VOX]
    if options.crop != "centre" or not others:
        return []
    count = shapes.total()
    size, expected, example = (
        "×".join(map(str, shape or ()))
        for shape in (options.crop_size_vox, BRATS_SHAPE_VOX, others[0])
    )
    return [
        f"{count - shapes[BRATS_SHAPE_VOX]} of {count} scans are not {expected} voxels (one is "
        f"{example}): their {size} crop is centred, and padded with zeros where they are smaller"
    ]


def _with_facts(rows: Iterable[CaseRow], cases: Iterable[Case]) -> Iterator[CaseRow]:
    """Sorted rows with what is the cohort's business: it may change without new voxels."""
    known = Table(
        (case.case_id, {"patient_id": case.patient_id, "grade": case.grade, "split": case.split})
        for case in cases
    )
    for row in rows:
        yield dataclasses.replace(row, facts={**row.facts, **known[row.case_id]})


def _content_fingerprint(rows: Sequence[CaseRow], options: PreprocessConfig) -> str:
    """A hash of what training sees: other cases may come, go or be mended without a new run."""
    named = ("case_id", "split", "patient_id", "grade", "image_sha256", "label_sha256")
    seen = (row for row in rows if row.get("label_sha256") and row.get("split") in SEEN)
    return jsonform.fingerprint(([row.get(name) for name in named] for row in seen), options)
