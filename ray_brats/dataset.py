"""`preprocess`: a cohort to a dataset, one Ray Data task a case.

dataset/dataset.json                    what it is; written last
dataset/cases.parquet                   one row a case
dataset/cases/<case_id>/image.npy       (H, W, D, C)
dataset/cases/<case_id>/label.npy       (H, W, D) class indices; absent without a mask
dataset/cases/<case_id>/case.json       the geometry that takes a mask back
dataset/cases/<case_id>/done.json       the sidecar
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import ray_brats
from ray_brats import config, engine, ledger, storage
from ray_brats.cohort import Case, Cohort
from ray_brats.config import PreprocessConfig, Recipe
from ray_brats.ledger import Row, Work
from ray_brats.preprocess import STAGE_VERSION, preprocess_case

TASK_MEMORY_BYTES = 1 << 30
COLUMNS = {
    "case_id": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "file": pa.string(),
    "patient_id": pa.string(),
    "grade": pa.string(),
    "split": pa.string(),
    "shape_vox": pa.list_(pa.int32()),
    "labelled_vox": pa.int64(),
    "image_sha256": pa.string(),
    "label_sha256": pa.string(),
}


def preprocess(
    cohort: Cohort,
    cases: Sequence[Case],
    dataset_uri: str,
    recipe: Recipe,
    *,
    keep_filtered: bool = False,
) -> dict[str, Any]:
    """Prepare every case that is not prepared yet.

    Args:
        cohort: what was found; its rejected rows enter the ledger.
        cases: its cases, with their splits.
        dataset_uri: where the dataset is or will be.
        recipe: whose preprocessing is applied.
        keep_filtered: do not apply the recipe's rule on the labelled share.

    Returns:
        A summary: `dataset`, `counts` by status, `processed`, `skipped`, `failures`.
    """
    work = [_work(case, dataset_uri, recipe.preprocess, keep_filtered) for case in cases]
    finished, todo = ledger.split_finished(work, dataset_uri)
    done = engine.map_cases(
        todo,
        prepare,
        title="preprocess",
        options={"num_cpus": 1, "memory": TASK_MEMORY_BYTES},
    )
    facts = {case.case_id: case for case in cases}
    rows = ledger.in_order(
        [_with_facts(row, facts[row["case_id"]]) for row in [*finished, *done]]
        + list(cohort.rejected)
    )
    description = {
        "recipe": recipe.name,
        "preprocess": config.as_json(recipe.preprocess),
        "modalities": list(recipe.preprocess.modalities),
        "release": cohort.release_or(None),
        "stage_version": STAGE_VERSION,
        "versions": {"ray_brats": ray_brats.__version__},
        "counts": ledger.counts(rows),
        "notes": list(cohort.notes),
        "fingerprint": _content_fingerprint(rows, recipe.preprocess),
    }
    ledger.write_table(storage.join(dataset_uri, "cases.parquet"), rows, COLUMNS)
    storage.write_json(storage.join(dataset_uri, "dataset.json"), description)
    return {
        "dataset": dataset_uri,
        "counts": description["counts"],
        "processed": len(done),
        "skipped": len(finished),
        "failures": [row for row in rows if row["status"] in ("rejected", "error")],
        "filtered": [row for row in rows if row["status"] == "filtered"],
    }


def _work(case: Case, dataset_uri: str, options: PreprocessConfig, keep_filtered: bool) -> Work:
    key = config.fingerprint(
        case.inputs(options.modalities),
        {"release": case.release, "keep_filtered": keep_filtered, "stage": STAGE_VERSION},
        options,
    )
    payload = {
        "case": case.as_row(),
        "preprocess": config.as_json(options),
        "keep_filtered": keep_filtered,
    }
    sidecar = storage.join(dataset_uri, "cases", case.case_id, "done.json")
    return Work(case_id=case.case_id, sidecar_uri=sidecar, key=key, payload=payload)


def prepare(row: Mapping[str, str]) -> dict[str, str]:
    """The task: read, compute, write the case's artefacts, return its status row."""
    payload = json.loads(row["payload"])
    folder = row["sidecar_uri"].rsplit("/", 1)[0]
    result, files = engine.attempt(
        row["case_id"], lambda: _prepare(payload, row["case_id"], folder)
    )
    if not files:
        _discard(folder)
    ledger.finish(row["sidecar_uri"], row["key"], result, files)
    return {"row": json.dumps(result)}


def _prepare(payload: Mapping[str, Any], case_id: str, folder: str) -> tuple[Row, list[str]]:
    options = config.from_json(PreprocessConfig, payload["preprocess"])
    prepared = preprocess_case(
        Case.from_row(payload["case"]), options, keep_filtered=payload["keep_filtered"]
    )
    row: Row = {"case_id": case_id, "status": "ok", "reason": "", "file": ""}
    row["shape_vox"] = list(prepared.image_HWDC.shape[:3])
    row["image_sha256"] = _save(prepared.image_HWDC, storage.join(folder, "image.npy"))
    files = ["image.npy", "case.json"]
    if prepared.label_HWD is not None:
        row["label_sha256"] = _save(prepared.label_HWD, storage.join(folder, "label.npy"))
        row["labelled_vox"] = int(np.count_nonzero(prepared.label_HWD))
        files.append("label.npy")
    geometry = dataclasses.asdict(prepared.geometry)
    storage.write_json(storage.join(folder, "case.json"), {"case_id": case_id, **geometry})
    return row, files


def _discard(folder: str) -> None:
    """Remove what an earlier version of the case left: it no longer matches its files."""
    for name in ("image.npy", "label.npy", "case.json"):
        storage.delete(storage.join(folder, name))


def _save(array: npt.NDArray[Any], uri: str) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    storage.write_bytes(uri, content)
    return hashlib.sha256(content).hexdigest()


def _with_facts(row: Row, case: Case) -> Row:
    """The split and the patient are the cohort's business: they may change without new voxels."""
    return {**row, "patient_id": case.patient_id, "grade": case.grade, "split": case.split}


def _content_fingerprint(rows: Sequence[Row], options: PreprocessConfig) -> str:
    named = ("case_id", "status", "split", "image_sha256", "label_sha256")
    return config.fingerprint([[row.get(name) for name in named] for row in rows], options)
