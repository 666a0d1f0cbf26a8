"""`evaluate`: predictions against references, one Ray Data task a case, and the report.

report/metrics.parquet, metrics.csv    a row per case and region
report/summary.json                    means, medians and intervals
report/report.html                     the same to read
report/evaluate.json                   what the files above depend on; written last
report/cases/<case_id>.json            the sidecar, which holds the case's rows
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ray_brats import (
    config,
    engine,
    figures,
    ledger,
    metrics,
    preprocess,
    report,
    storage,
    volume,
)
from ray_brats.cohort import Case, Cohort
from ray_brats.errors import CaseRejected, UsageError
from ray_brats.labels import LabelMap
from ray_brats.ledger import Row, Work

STAGE_VERSION = 1
TASK_MEMORY_BYTES = 1 << 30
PICTURED = 3
"""How many of the worst cases the report shows, beside the median one."""


def evaluate(
    predictions_uri: str,
    cohort: Cohort,
    report_uri: str,
    *,
    release: str | None = None,
    rules: str = "both",
    training: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Score the prediction of every case that has a reference, and write the report.

    Args:
        predictions_uri: holds `<case_id>.nii.gz`; nothing else there is needed.
        cohort: the selected cases.
        report_uri: where the report goes.
        release: whose labels masks carry, where the cohort's names do not tell.
        rules: `legacy`, `lesionwise` or `both`.
        training: lines of `metrics.jsonl`, for the report's curve.

    Returns:
        A summary: `report`, `picture`, `summary`, `counts`, `processed`, `skipped`, `failures`.
    """
    if rules not in metrics.RULES:
        raise UsageError(f"--rules {rules}: expected one of {', '.join(metrics.RULES)}")
    release = cohort.release_or(release)
    there = {
        storage.name_of(file.uri): file
        for file in storage.list_files(predictions_uri)
        if file.uri.endswith(".nii.gz")
    }
    if not there:
        raise UsageError(f"{predictions_uri} holds no <case_id>.nii.gz: expected masks by case")
    work = [_work(case, there, report_uri, release, rules) for case in cohort.cases]
    finished, todo = ledger.split_finished(work, report_uri)
    done = engine.map_cases(
        todo, measure, title="evaluate", options={"num_cpus": 1, "memory": TASK_MEMORY_BYTES}
    )
    statuses = ledger.in_order([*finished, *done, *cohort.rejected])
    scored = [row for row in statuses if row.get("regions")]
    rows = [{"case_id": row["case_id"], **region} for row in scored for region in row["regions"]]
    summary = metrics.summarise(rows, [row["original"] for row in scored if row["original"]])
    failures = [
        {key: row[key] for key in ("case_id", "status", "reason", "file")}
        for row in statuses
        if row["status"] != "ok"
    ]
    key = config.fingerprint([item.key for item in work], failures, list(training), STAGE_VERSION)
    marker = storage.join(report_uri, "evaluate.json")
    if done or (storage.read_json_or_none(marker) or {}).get("key") != key:
        storage.delete(marker)
        _write(report_uri, rows, summary)
        page = report.render_html(
            rows,
            summary,
            title="Segmentation report",
            statuses=failures,
            pictures=_pictures(cohort, there, scored, release),
            training=training,
            notes=_notes(release, rules, bool(cohort.rejected)),
        )
        storage.write_bytes(storage.join(report_uri, "report.html"), page.encode())
        storage.write_json(marker, {"key": key})
    return {
        "report": storage.join(report_uri, "report.html"),
        "summary": summary,
        "counts": ledger.counts(statuses),
        "processed": len(done),
        "skipped": len(finished),
        "failures": failures,
    }


def _work(
    case: Case, there: Mapping[str, Any], report_uri: str, release: str | None, rules: str
) -> Work:
    prediction = there.get(f"{case.case_id}.nii.gz")
    reference_etag = case.etags.get(case.segmentation or "", "")
    key = config.fingerprint(
        [prediction.etag if prediction else None, reference_etag, release, rules, STAGE_VERSION]
    )
    payload = {
        "case": case.as_row(),
        "prediction": prediction.uri if prediction else None,
        "release": release,
        "rules": rules,
    }
    sidecar = storage.join(report_uri, "cases", f"{case.case_id}.json")
    return Work(case_id=case.case_id, sidecar_uri=sidecar, key=key, payload=payload)


def measure(row: Mapping[str, str]) -> dict[str, str]:
    """The task: all metrics of one case."""
    payload = json.loads(row["payload"])
    result, files = engine.attempt(row["case_id"], lambda: (_measure(payload, row["case_id"]), []))
    ledger.finish(row["sidecar_uri"], row["key"], result, files)
    return {"row": json.dumps(result)}


def _measure(payload: Mapping[str, Any], case_id: str) -> Row:
    case = Case.from_row(payload["case"])
    if case.segmentation is None:
        raise CaseRejected("the case has no reference segmentation to score against")
    geometry = volume.read(case.segmentation).geometry
    reference = volume.read_mask(case.segmentation, payload["release"])
    spacing_mm, rules = geometry.spacing_mm, payload["rules"]
    row: Row = {"case_id": case_id, "status": "ok", "reason": "", "file": ""}
    try:
        prediction = _prediction(payload, geometry)
    except CaseRejected as error:
        row |= {"status": "rejected", "reason": error.reason, "file": error.file}
        regions = metrics.missing_prediction_metrics(reference, spacing_mm, rules=rules)
        return {**row, "regions": regions, "original": None}
    regions = metrics.case_metrics(reference, prediction, spacing_mm, rules=rules)
    original = metrics.original_figures(reference, prediction)
    return {**row, "regions": regions, "original": original}


def _prediction(payload: Mapping[str, Any], reference: volume.Geometry) -> LabelMap:
    uri = payload["prediction"]
    if uri is None:
        raise CaseRejected("no prediction for this case: it counts with Dice 0")
    return volume.read_mask(uri, payload["release"], grid=reference)


def _write(report_uri: str, rows: Sequence[Row], summary: Mapping[str, Any]) -> None:
    columns = {"case_id": pa.string(), "region": pa.string()}
    columns |= {name: pa.float64() for name in metrics.SCORE_COLUMNS}
    ledger.write_table(storage.join(report_uri, "metrics.parquet"), rows, columns)
    text = report.metrics_csv(rows)
    storage.write_bytes(storage.join(report_uri, "metrics.csv"), text.encode())
    storage.write_json(storage.join(report_uri, "summary.json"), summary)


def _notes(release: str | None, rules: str, rejected: bool) -> list[str]:
    notes = [f"Labels read as {release}.", f"Rules: {rules}."]
    if release == "brats2024":
        notes.append("The resection cavity (label 4) belongs to no region here.")
    if rejected:
        notes.append("Cases that could not be used are listed and not scored.")
    return notes


def _pictures(
    cohort: Cohort, there: Mapping[str, Any], scored: Sequence[Row], release: str | None
) -> list[report.Picture]:
    """The worst cases by mean Dice, and the median one."""

    def mean_dice(row: Row) -> float:
        return float(np.mean([region["dice"] or 0.0 for region in row["regions"]]))

    usable = sorted((row for row in scored if row["original"]), key=mean_dice)
    if not usable or usable[0]["regions"][0]["dice"] is None:
        return []
    median = usable[len(usable) // 2]
    chosen = [*usable[:PICTURED], *([median] if median not in usable[:PICTURED] else [])]
    cases = {case.case_id: case for case in cohort.cases}
    return [
        _picture(cases[row["case_id"]], there, release, mean_dice(row), row is median)
        for row in chosen
    ]


def _picture(
    case: Case, there: Mapping[str, Any], release: str | None, dice: float, is_median: bool
) -> report.Picture:
    assert case.segmentation is not None
    reference = volume.read_mask(case.segmentation, release)
    prediction = volume.read_mask(there[f"{case.case_id}.nii.gz"].uri, release)
    name = next(kind for kind in ("flair", "t2", "t1ce", "t1") if kind in case.images)
    image = volume.read(case.images[name])
    start, stop = preprocess.brain_box([image.voxels_HWD])
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    kind = "median case" if is_median else "among the worst cases"
    title = f"{case.case_id}: mean Dice {dice:.3f}, {kind}"
    figure = figures.draw_planes(
        image.voxels_HWD[box],
        reference[box],
        prediction[box],
        title=title,
        spacing_mm=image.geometry.spacing_mm,
    )
    alt = f"Three planes through the tumour of {case.case_id}: reference and prediction outlines"
    return report.Picture(title=title, alt=alt, png=figures.png_bytes(figure))
