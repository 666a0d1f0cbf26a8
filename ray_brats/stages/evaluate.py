"""`evaluate`: predictions against references, one Ray Data task a case, and the report.

report/metrics.parquet, metrics.csv    a row per case and region
report/labels.parquet, labels.csv      a row per case and label
report/summary.json                    means, medians and intervals
report/comparison.json                 ranking and tests, where sets are compared
report/report.html                     the same to read
report/evaluate.json                   what the files above depend on; written last
report/cases/<case_id>.json            the sidecar, which holds the case's rows
report/against/<n>/cases/              the same for each further set of predictions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_brats.cases import volume
from ray_brats.cases.case import Case, Cohort
from ray_brats.cases.geometry import Geometry
from ray_brats.engine import mapping
from ray_brats.errors import CaseRejected, UsageError
from ray_brats.files import ledger, storage
from ray_brats.files.ledger import Row, Work
from ray_brats.files.local import FileInfo
from ray_brats.labels import LabelMap
from ray_brats.metrics import comparison, scores, summary
from ray_brats.metrics.original import original_figures
from ray_brats.model import predictions
from ray_brats.recipes import jsonform
from ray_brats.report import page as report
from ray_brats.report import worst_cases

STAGE_VERSION = 2
TASK_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """One set of predictions, scored."""

    masks: Mapping[str, FileInfo]
    """By `case_id`; also masks that no selected case asks for."""
    keys: Sequence[str]
    statuses: Sequence[Row]
    """A row a case; with `regions`, `labels` and `original` where there is a reference."""
    processed: int

    def rows(self, kind: str) -> list[Row]:
        """The rows of all cases; `kind` is `regions` or `labels`."""
        return [
            {"case_id": row["case_id"], **item}
            for row in self.statuses
            for item in row.get(kind) or ()
        ]

    def with_prediction(self) -> list[Row]:
        """The cases that were scored on a mask, not for the want of one."""
        return [row for row in self.statuses if row.get("original")]

    def failures(self) -> list[Row]:
        """The cases that are not as they should be, without scores."""
        keys = ("case_id", "status", "reason", "file")
        failed = (row for row in self.statuses if row["status"] != "ok")
        return [{key: row[key] for key in keys} for row in failed]


def evaluate(
    predictions_uri: str,
    cohort: Cohort,
    report_uri: str,
    *,
    release: str | None = None,
    rules: str = "both",
    against: Sequence[str] = (),
    training: Sequence[Mapping[str, Any]] = (),
    raw_3_is_enhancing: bool = False,
) -> dict[str, Any]:
    """Score the prediction of every case that has a reference, and write the report.

    Args:
        predictions_uri: holds `<case_id>.nii.gz`; nothing else there is needed.
        cohort: the selected cases.
        report_uri: where the report goes.
        release: whose labels masks carry, where the cohort's names do not tell.
        rules: `legacy`, `lesionwise` or `both`.
        against: other folders of predictions for the same cases, to compare with.
        training: lines of `scores.jsonl`, for the report's curves.
        raw_3_is_enhancing: of the references; see `labels.to_class_index`.

    Returns:
        A summary: `report`, `summary`, `counts`, `processed`, `skipped`, `failures`, and
        `comparison` where there is one.
    """
    if rules not in scores.RULES:
        raise UsageError(f"--rules {rules}: expected one of {', '.join(scores.RULES)}")
    release = cohort.release_or(release)
    uris = [predictions_uri, *against]
    names = comparison.short_names(uris)
    # All of them are there before any is scored.
    masks = [predictions.find_masks(uri) for uri in uris]
    folders = [report_uri] + [
        storage.join(report_uri, "against", str(number)) for number in range(1, len(uris))
    ]
    sets = {
        name: _score(found, cohort, folder, release, rules, raw_3_is_enhancing)
        for name, found, folder in zip(names, masks, folders, strict=True)
    }
    main = sets[names[0]]
    rows = {name: item.rows("regions") for name, item in sets.items()}
    result: dict[str, Any] = {
        "report": storage.join(report_uri, "report.html"),
        "summary": summary.summarise(
            rows[names[0]], [row["original"] for row in main.with_prediction()]
        ),
        "counts": ledger.counts(main.statuses),
        "processed": sum(item.processed for item in sets.values()),
        "skipped": sum(len(item.keys) - item.processed for item in sets.values()),
        "failures": _failures(sets, cohort),
    }
    if against:
        result["comparison"] = comparison.compare(rows)
    keys = [item.keys for item in sets.values()]
    key = jsonform.fingerprint(keys, names, result["failures"], list(training), STAGE_VERSION)
    marker = storage.join(report_uri, "evaluate.json")
    current = (storage.read_json_or_none(marker) or {}).get("key") == key
    if result["processed"] or not current or not _is_whole(report_uri, result):
        storage.delete(marker)
        _write_tables(report_uri, main, result)
        notes = report.notes(release, rules, bool(cohort.rejected))
        page = _page(main, result, cohort, release, training, notes, raw_3_is_enhancing)
        storage.write_bytes(result["report"], page.encode())
        storage.write_json(marker, {"key": key})
    return result


def _score(
    masks: Mapping[str, FileInfo],
    cohort: Cohort,
    folder_uri: str,
    release: str | None,
    rules: str,
    raw_3_is_enhancing: bool,
) -> _Scored:
    """Score one set of predictions; what is finished in `folder_uri` is not done again."""
    work = [
        _work(case, masks, folder_uri, release, rules, raw_3_is_enhancing) for case in cohort.cases
    ]
    finished, todo = ledger.split_finished(work, folder_uri)
    done = mapping.map_cases(
        todo, measure, title="evaluate", options={"num_cpus": 1, "memory": TASK_MEMORY_BYTES}
    )
    return _Scored(
        masks=masks,
        keys=[item.key for item in work],
        statuses=ledger.in_order([*finished, *done, *cohort.rejected]),
        processed=len(done),
    )


def _failures(sets: Mapping[str, _Scored], cohort: Cohort) -> list[Row]:
    """Of the first set; of the others, by name, only what is not the cohort's own fault."""
    main, *others = sets.items()
    failures = main[1].failures()
    unusable = {row["case_id"] for row in cohort.rejected}
    for name, item in others:
        own = (row for row in item.failures() if row["case_id"] not in unusable)
        failures += [{**row, "reason": f"{name}: {row['reason']}"} for row in own]
    return failures


def _work(
    case: Case,
    masks: Mapping[str, FileInfo],
    folder_uri: str,
    release: str | None,
    rules: str,
    raw_3_is_enhancing: bool,
) -> Work:
    prediction = masks.get(case.case_id)
    reference_etag = case.etags.get(case.segmentation or "", "")
    files = [prediction.etag if prediction else None, reference_etag]
    key = jsonform.fingerprint([*files, release, rules, raw_3_is_enhancing, STAGE_VERSION])
    payload = {
        "case": case.as_row(),
        "prediction": prediction.uri if prediction else None,
        "release": release,
        "rules": rules,
        "raw_3_is_enhancing": raw_3_is_enhancing,
    }
    sidecar = storage.join(folder_uri, "cases", f"{case.case_id}.json")
    return Work(case_id=case.case_id, sidecar_uri=sidecar, key=key, payload=payload)


def measure(item: Work) -> tuple[Row, list[str]]:
    """The task: all metrics of one case."""
    case, rules = Case.from_row(item.payload["case"]), item.payload["rules"]
    if case.segmentation is None:
        raise CaseRejected("the case has no reference segmentation to score against")
    geometry = volume.read_header(case.segmentation).geometry
    reference = volume.read_mask(
        case.segmentation,
        item.payload["release"],
        raw_3_is_enhancing=item.payload["raw_3_is_enhancing"],
    )
    spacing_mm = geometry.spacing_mm
    try:
        prediction = _prediction(item.payload, geometry)
    except CaseRejected as error:
        regions = scores.missing_prediction_metrics(reference, spacing_mm, rules=rules)
        by_label = scores.missing_prediction_label_metrics(reference, spacing_mm, rules=rules)
        found = {"status": "rejected", "reason": error.reason, "file": error.file}
        return {**found, "regions": regions, "labels": by_label, "original": None}, []
    regions, by_label = scores.all_metrics(reference, prediction, spacing_mm, rules=rules)
    original = original_figures(reference, prediction)
    return {"regions": regions, "labels": by_label, "original": original}, []


def _prediction(payload: Mapping[str, Any], reference: Geometry) -> LabelMap:
    uri = payload["prediction"]
    if uri is None:
        raise CaseRejected("no prediction for this case: it counts with Dice 0")
    return volume.read_mask(uri, payload["release"], grid=reference)


def _is_whole(report_uri: str, result: Mapping[str, Any]) -> bool:
    """Whether nobody has removed a part of the report."""
    tables = (f"{name}.{form}" for name in ("metrics", "labels") for form in ("parquet", "csv"))
    names = [*tables, "summary.json", "report.html"]
    names += ["comparison.json"] if "comparison" in result else []
    return all(storage.exists(storage.join(report_uri, name)) for name in names)


def _write_tables(report_uri: str, main: _Scored, result: Mapping[str, Any]) -> None:
    for table, kind, key in (("metrics", "regions", "region"), ("labels", "labels", "label")):
        rows = main.rows(kind)
        columns = {"case_id": pa.string(), key: pa.string()}
        columns |= {name: pa.float64() for name in scores.SCORE_COLUMNS}
        ledger.write_table(storage.join(report_uri, f"{table}.parquet"), rows, columns)
        text = report.metrics_csv(rows, key)
        storage.write_bytes(storage.join(report_uri, f"{table}.csv"), text.encode())
    storage.write_json(storage.join(report_uri, "summary.json"), result["summary"])
    compared = storage.join(report_uri, "comparison.json")
    if "comparison" in result:
        storage.write_json(compared, result["comparison"])
    else:
        storage.delete(compared)


def _page(
    main: _Scored,
    result: Mapping[str, Any],
    cohort: Cohort,
    release: str | None,
    training: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    raw_3_is_enhancing: bool,
) -> str:
    pictures = worst_cases.pictures(
        main.with_prediction(),
        {case.case_id: case for case in cohort.cases},
        {case_id: file.uri for case_id, file in main.masks.items()},
        release,
        raw_3_is_enhancing=raw_3_is_enhancing,
    )
    return report.render_html(
        report.Report(
            title="Segmentation report",
            rows=main.rows("regions"),
            summary=result["summary"],
            statuses=result["failures"],
            pictures=pictures,
            training=training,
            labels=summary.summarise_labels(main.rows("labels")),
            comparison=result.get("comparison", {}),
            notes=notes,
        )
    )
