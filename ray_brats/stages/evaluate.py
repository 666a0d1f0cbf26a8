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

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ray_brats.cases import anatomy, volume
from ray_brats.cases.case import Case, Cohort
from ray_brats.cases.geometry import Geometry
from ray_brats.engine import mapping
from ray_brats.errors import CaseRejected, UsageError
from ray_brats.files import ledger, ownership, retry, storage
from ray_brats.files.ledger import CaseRow, Row, Summary, Work
from ray_brats.files.local import FileInfo
from ray_brats.labels import LabelMap, Targets, Task
from ray_brats.metrics import comparison, scores, summary
from ray_brats.metrics.original import original_figures
from ray_brats.model import predictions
from ray_brats.model.predictions import Masks
from ray_brats.recipes import jsonform, tasks
from ray_brats.report import page as report
from ray_brats.report import worst_cases

STAGE_VERSION = 3
MARKER = "evaluate.json"
FILES = (
    *(f"{name}.{form}" for name in ("metrics", "labels") for form in ("parquet", "csv")),
    "summary.json",
    "report.html",
    "comparison.json",
)
"""What a report is besides, right in its folder."""
TASK_MEMORY_BYTES = 1 << 30
OUTLINES = {name: f"{name}_outline" for name in ("references", "predictions")}
"""What a case has two of, to the fact of its row that holds how it lies."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How masks are read, and what is measured."""

    task: Task | None = None
    """Whose labels masks carry, where the cohort's names do not tell."""
    rules: str = "both"
    """One of `scores.RULES`."""
    raw_3_is_enhancing: bool = False
    """Whether references have it so; see `labels.to_class_index`."""
    made_for: Task | None = None
    """What the predictions hold, where their integers are others than the references'."""
    small_mm3: float | None = None
    """Below which volume instances count by detection alone, by the rules of 2026."""

    def __post_init__(self) -> None:
        if self.rules not in scores.RULES:
            raise UsageError(f"--rules {self.rules}: expected one of {', '.join(scores.RULES)}")
        # One key for what is the same.
        object.__setattr__(self, "rules", scores.resolve(self.rules))
        scores.check_small(self.rules, self.small_mm3)

    def of(self, cohort: Cohort) -> Options:
        """The same for the task of a cohort; raises `UsageError` where nothing tells it."""
        task = self.task or cohort.task_or(None)
        small_mm3 = self.small_mm3
        if task and self.rules == scores.CHALLENGE and small_mm3 is None:
            small_mm3 = task.small_lesion_mm3
        return dataclasses.replace(self, task=task, small_mm3=small_mm3)

    @property
    def targets(self) -> Targets:
        """What is scored."""
        return (self.task or tasks.DEFAULT).targets

    @property
    def columns(self) -> tuple[str, ...]:
        """What is measured of a region or label, in order."""
        return scores.score_columns(self.rules, small=self.small_mm3 is not None)


@dataclass(frozen=True, kw_only=True)
class EvaluateSummary(Summary):
    """What comparing masks with references found."""

    report: str = field(metadata=ledger.PLACE)
    processed: int
    skipped: int
    notes: Sequence[str]
    """What to say of masks that are not read, and of those that look like no glioma's."""


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """What the task needs: a case and its prediction."""

    case: Case
    prediction_uri: str | None
    options: Options

    def as_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse."""
        task, made_for = self.options.task, self.options.made_for
        return {
            "case": self.case.as_row(),
            "prediction": self.prediction_uri,
            "rules": self.options.rules,
            "raw_3_is_enhancing": self.options.raw_3_is_enhancing,
            "small_mm3": self.options.small_mm3,
            "task": json.dumps(tasks.as_json(task)) if task else None,
            "made_for": json.dumps(tasks.as_json(made_for)) if made_for else None,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> _Pair:
        """The pair of a task."""
        rest = dict(values)
        case, prediction_uri = Case.from_row(rest.pop("case")), rest.pop("prediction")
        for name in ("task", "made_for"):
            if rest[name] is not None:
                rest[name] = tasks.from_json(json.loads(rest[name]))
        return _Pair(case=case, prediction_uri=prediction_uri, options=Options(**rest))


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """One set of predictions, scored."""

    masks: Masks
    keys: Sequence[str]
    cases: Sequence[CaseRow]
    """Their facts are `regions`, `labels`, `original` and outlines where there is a reference."""
    processed: int

    def rows(self, kind: str) -> list[Row]:
        """The rows of all cases; `kind` is `regions` or `labels`."""
        return [
            {"case_id": row.case_id, **item} for row in self.cases for item in row.get(kind) or ()
        ]

    def with_prediction(self) -> list[CaseRow]:
        """The cases that were scored on a mask, not for the want of one."""
        return [row for row in self.cases if row.get("original")]

    def warnings(self, of: str, task: Task | None) -> list[str]:
        """What looks like no tumour of the task in the masks of `OUTLINES`."""
        if task is None:
            return []
        return anatomy.warnings(anatomy.of_rows(self.cases, OUTLINES[of]), of, task)

    def failures(self) -> list[CaseRow]:
        """The cases that are not as they should be, without scores."""
        failed = (row for row in self.cases if row.status != "ok")
        return [dataclasses.replace(row, facts={}) for row in failed]


def evaluate(
    predictions_uri: str,
    cohort: Cohort,
    report_uri: str,
    *,
    options: Options = Options(),
    against: Sequence[str] = (),
    training: Sequence[Mapping[str, Any]] = (),
) -> EvaluateSummary:
    """Score the prediction of every case that has a reference, and write the report.

    Args:
        predictions_uri: holds `<case_id>.nii.gz`; nothing else there is needed.
        cohort: the selected cases.
        report_uri: where the report goes.
        options: how masks are read, and what is measured.
        against: other folders of predictions for the same cases, to compare with.
        training: lines of `metrics.jsonl`, for the report's curves.
    """
    options = options.of(cohort)
    uris = [predictions_uri, *against]
    names = comparison.short_names(uris)
    # All of them are there, and of this task, before any is scored.
    masks = [predictions.find_masks(uri, cohort) for uri in uris]
    check_made_for(uris, options.task)
    folders = [report_uri] + [
        storage.join(report_uri, "against", str(number)) for number in range(1, len(uris))
    ]
    sets = {
        name: _score(files, cohort, folder, options, main=folder == report_uri)
        for name, files, folder in zip(names, masks, folders, strict=True)
    }
    main = sets[names[0]]
    rows = {name: item.rows("regions") for name, item in sets.items()}
    originals = [row.facts["original"] for row in main.with_prediction()]
    result = EvaluateSummary(
        report=storage.join(report_uri, "report.html"),
        summary=summary.summarise(rows[names[0]], originals, options.columns, options.targets),
        counts=ledger.counts(main.cases),
        processed=sum(item.processed for item in sets.values()),
        skipped=sum(len(item.keys) - item.processed for item in sets.values()),
        failures=_failures(sets, cohort),
        comparison=comparison.compare(rows, options.rules) if against else None,
        notes=_notes(sets, options.task),
    )
    if _is_outdated(report_uri, sets, result, training):
        # It vouches for the old files until the new ones are whole.
        marker, key = storage.join(report_uri, MARKER), _key(sets, result, training)
        storage.write_json(marker, {"key": None})
        _write_tables(report_uri, main, result, options.columns)
        page = _page(main, result, cohort, options, training)
        storage.write_bytes(result.report, page.encode())
        storage.write_json(marker, {"key": key})
    for folder in folders:
        ownership.end(folder)
    return result


def _key(
    sets: Mapping[str, _Scored], result: EvaluateSummary, training: Sequence[Mapping[str, Any]]
) -> str:
    """Hash of all that a report depends on."""
    keys = [item.keys for item in sets.values()]
    failures = [row.as_json() for row in result.failures]
    return jsonform.fingerprint(keys, list(sets), failures, list(training), STAGE_VERSION)


def _is_outdated(
    report_uri: str,
    sets: Mapping[str, _Scored],
    result: EvaluateSummary,
    training: Sequence[Mapping[str, Any]],
) -> bool:
    """Whether a report is to be written."""
    marker = storage.read_json_or_none(storage.join(report_uri, MARKER)) or {}
    current = marker.get("key") == _key(sets, result, training)
    return bool(result.processed) or not current or not _is_whole(report_uri, result)


def check_made_for(uris: Sequence[str], task: Task | None) -> None:
    """`UsageError` for folders of masks that say they are of other classes or regions."""
    for uri in uris:
        made = predictions.made_for(uri)
        if made and task and made.targets != task.targets:
            raise UsageError(
                f"{uri} holds masks of the task {made.name} "
                f"({', '.join(made.targets.class_names[1:])}), the references are of {task.name} "
                f"({', '.join(task.targets.class_names[1:])}): expected masks of {task.name}; "
                "numbers between the two would mean nothing"
            )


def _score(
    masks: Masks,
    cohort: Cohort,
    folder_uri: str,
    options: Options,
    *,
    main: bool,
) -> _Scored:
    """Score one set of predictions; what is finished in `folder_uri` is not done again."""
    files, options = masks.of_case, dataclasses.replace(options, made_for=masks.made_for)
    work = [_work(case, files.get(case.case_id), folder_uri, options) for case in cohort.cases]
    output = ledger.Output(
        uri=folder_uri,
        description=MARKER,
        tables=FILES if main else (),
        inputs=[*cohort.files(), *masks.uris()],
    )
    finished, todo = ledger.split_finished(work, output)
    how = mapping.Tasks(task=measure, options={"num_cpus": 1, "memory": TASK_MEMORY_BYTES})
    done = mapping.map_cases(todo, how, title="evaluate")
    return _Scored(
        masks=masks,
        keys=[item.key for item in work],
        cases=ledger.in_order(finished, done, cohort.rejected),
        processed=len(done),
    )


def _notes(sets: Mapping[str, _Scored], task: Task | None) -> list[str]:
    """What to say of the references, and of the masks of each set, by name where there are two."""
    # Every set is compared with the same references.
    notes = next(iter(sets.values())).warnings("references", task)
    for name, item in sets.items():
        prefix = f"{name}: " if len(sets) > 1 else ""
        own = [*item.masks.notes(), *item.warnings("predictions", task)]
        notes += [prefix + note for note in own]
    return notes


def _failures(sets: Mapping[str, _Scored], cohort: Cohort) -> list[CaseRow]:
    """Failures of the first set; of the others, by name, those that are not the cohort's own."""
    main, *others = sets.items()
    failures = main[1].failures()
    unusable = {row.case_id for row in cohort.rejected}
    for name, item in others:
        own = (row for row in item.failures() if row.case_id not in unusable)
        failures += [dataclasses.replace(row, reason=f"{name}: {row.reason}") for row in own]
    return failures


def _work(case: Case, mask: FileInfo | None, folder_uri: str, options: Options) -> Work:
    files = [mask.etag if mask else None, case.etags.get(case.segmentation or "", "")]
    task = next(iter(tasks.key_of(options.task).values()))
    how: list[Any] = [task, options.rules, options.raw_3_is_enhancing]
    # Where it is not asked for, what was measured before it existed is still right.
    how += [] if options.small_mm3 is None else [options.small_mm3]
    made_for = options.made_for
    if made_for and options.task and not made_for.means_as(options.task):
        how.append(tasks.as_json(made_for))
    pair = _Pair(case=case, prediction_uri=mask.uri if mask else None, options=options)
    return Work(
        case_id=case.case_id,
        sidecar_uri=storage.join(folder_uri, "cases", f"{case.case_id}.json"),
        key=jsonform.fingerprint([*files, *how, STAGE_VERSION]),
        payload=pair.as_json(),
    )


def measure(item: Work) -> tuple[CaseRow, list[str]]:
    """The task: all metrics of one case."""
    pair = _Pair.from_json(item.payload)
    case, options = pair.case, pair.options
    if case.segmentation is None:
        raise CaseRejected("the case has no reference segmentation to score against")
    geometry = volume.read_header(case.segmentation).geometry
    reference = volume.read_mask(
        case.segmentation, options.task, raw_3_is_enhancing=options.raw_3_is_enhancing
    )
    targets = options.targets
    facts: dict[str, Any] = {OUTLINES["references"]: anatomy.outline(reference, targets).as_json()}
    how: dict[str, Any] = {
        "targets": targets,
        "spacing_mm": geometry.spacing_mm,
        "rules": options.rules,
        "small_mm3": options.small_mm3,
    }
    try:
        prediction = _prediction(pair, geometry)
    except CaseRejected as error:
        facts |= {
            "regions": scores.missing_prediction_metrics(reference, **how),
            "labels": scores.missing_prediction_label_metrics(reference, **how),
            "original": None,
        }
        return dataclasses.replace(retry.failed_row(item.case_id, error), facts=facts), []
    regions, by_label = scores.all_metrics(reference, prediction, **how)
    original = original_figures(reference, prediction, targets.class_count)
    facts |= {"regions": regions, "labels": by_label, "original": original}
    facts[OUTLINES["predictions"]] = anatomy.outline(prediction, targets).as_json()
    return CaseRow(case_id=item.case_id, facts=facts), []


def _prediction(pair: _Pair, reference: Geometry) -> LabelMap:
    if pair.prediction_uri is None:
        raise CaseRejected("no prediction for this case: it counts with Dice 0")
    return volume.read_mask(
        pair.prediction_uri, pair.options.made_for or pair.options.task, grid=reference
    )


def _is_whole(report_uri: str, result: EvaluateSummary) -> bool:
    """Whether nobody has removed a part of the report."""
    names = [name for name in FILES if result.comparison or name != "comparison.json"]
    return all(storage.exists(storage.join(report_uri, name)) for name in names)


def _write_tables(
    report_uri: str, main: _Scored, result: EvaluateSummary, measured: Sequence[str]
) -> None:
    for table, kind, key in (("metrics", "regions", "region"), ("labels", "labels", "label")):
        rows = main.rows(kind)
        columns = {"case_id": pa.string(), key: pa.string()}
        columns |= {name: pa.float64() for name in measured}
        ledger.write_table(storage.join(report_uri, f"{table}.parquet"), rows, columns)
        text = report.metrics_csv(rows, key, measured)
        storage.write_bytes(storage.join(report_uri, f"{table}.csv"), text.encode())
    storage.write_json(storage.join(report_uri, "summary.json"), result.summary)
    compared = storage.join(report_uri, "comparison.json")
    if result.comparison:
        storage.write_json(compared, result.comparison)
    else:
        storage.delete(compared)


def _page(
    main: _Scored,
    result: EvaluateSummary,
    cohort: Cohort,
    options: Options,
    training: Sequence[Mapping[str, Any]],
) -> str:
    pictures = worst_cases.pictures(
        [row.as_json() for row in main.with_prediction()],
        {case.case_id: case for case in cohort.cases},
        {case_id: file.uri for case_id, file in main.masks.of_case.items()},
        options.task,
        made_for=main.masks.made_for,
        raw_3_is_enhancing=options.raw_3_is_enhancing,
    )
    return report.render_html(
        report.Report(
            title="Segmentation report",
            targets=options.targets,
            rows=main.rows("regions"),
            columns=options.columns,
            summary=result.summary or {},
            statuses=[row.as_json() for row in result.failures],
            pictures=pictures,
            training=training,
            labels=summary.summarise_labels(main.rows("labels"), options.columns, options.targets),
            comparison=result.comparison or {},
            notes=report.notes(options.task, options.rules, bool(cohort.rejected)),
        )
    )
