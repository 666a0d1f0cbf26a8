"""The folder of predictions: what lies in it, how that is called, and what determines it.

predictions/<case_id>.nii.gz    uint8, the input's shape and affine, the task's labels
predictions/<case_id>.json      the sidecar
predictions/scores.parquet      the ledger: one row a case
predictions/score.json          what made them; written last
predictions/begun.json          what is about to be written, and of which task; until then

Whoever fills it (actors, a service, a job of that service) leaves the same files, so that each
goes on where another ended.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

import ray_brats
from ray_brats import labels
from ray_brats.cases import naming
from ray_brats.cases.case import Case, Cohort
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.raw import record
from ray_brats.cases.raw.record import Home
from ray_brats.cases.volume import encode
from ray_brats.errors import CaseError, UsageError
from ray_brats.files import ledger, local, ownership, packed, storage
from ray_brats.files.ledger import CaseRow, Summary, Work
from ray_brats.files.local import FileInfo
from ray_brats.labels import LabelMap, Targets, Task
from ray_brats.model.predict import STAGE_VERSION, Prediction
from ray_brats.recipes import jsonform, tasks
from ray_brats.recipes.config import PreprocessConfig

SUFFIX = ".nii.gz"
_NATIVE = "_native"
_MADE_BY = "ray-brats score"
_SHOWN = 3
_MASK = re.compile(r"(?P<stem>[^.].*)\.nii(\.gz)?", re.IGNORECASE | re.DOTALL)
TABLE = "scores.parquet"
DESCRIPTION = "score.json"
_COLUMNS = {
    "case_id": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "file": pa.string(),
    "attempts": pa.int64(),
    "seconds": pa.float64(),
    "remarks": pa.string(),
}


def volume_column(region: str) -> str:
    """The ledger's column of a region's volume."""
    return f"{region.lower()}_ml"


def native_column(region: str) -> str:
    """The ledger's column of a region's volume on the scanner's own grid."""
    return f"{region.lower()}_native_ml"


def columns_of(targets: Targets, *, native: bool = False) -> dict[str, pa.DataType]:
    """The ledger's columns, with their types; `native` with those of the scanner's own grid."""
    names = [volume_column, native_column] if native else [volume_column]
    volumes = {name(region): pa.float64() for name in names for region in targets.region_names}
    return {**_COLUMNS, **volumes}


@dataclass(frozen=True, kw_only=True)
class ScoreSummary(Summary):
    """What scoring a cohort did."""

    predictions: str = field(metadata=ledger.PLACE)
    task: str
    """Its name."""
    processed: int
    skipped: int
    notes: Sequence[str] = ()
    """What was not as usual in its scans."""
    remarked: Sequence[str] = ()
    """The cases whose scans these are."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """A folder of predictions, and all that its masks depend on besides the cases."""

    uri: str
    identity: Mapping[str, Any]
    """What makes the masks: bundles by sha256, options."""
    preprocessing: PreprocessConfig
    task: Task
    """Whose labels the masks carry."""
    homes: Mapping[str, Home] = field(default_factory=dict)
    """Case to the series that its mask is also brought home to."""

    @functools.cached_property
    def _task_as_text(self) -> str:
        return json.dumps(tasks.as_json(self.task))

    @functools.cached_property
    def _shared(self) -> tuple[jsonform.Written, ...]:
        """What the keys of all cases have in common: the stage and the preprocessing."""
        stage = {**tasks.key_of(self.task), "stage": STAGE_VERSION}
        return jsonform.Written.of(stage), jsonform.Written.of(self.preprocessing)

    def work_of(self, case: Case) -> Work:
        """One case, and the key of all that its mask depends on."""
        inputs = case.inputs(self.preprocessing.modalities)
        inputs.pop("seg", None)
        identity, payload = dict(self.identity), {"case": case.as_row(), "task": self._task_as_text}
        outputs = [mask_name(case.case_id)]
        if home := self.homes.get(case.case_id):
            payload["home"] = json.dumps(home.as_json())
            # Where the series lies now has no part in its mask.
            moved = dataclasses.replace(home, sources=())
            identity |= {"native": moved.as_json(), "seg": bool(home.sources)}
            outputs.append(native_name(case.case_id))
            if home.sources:
                outputs.append(seg_name(case.case_id))
        return Work(
            case_id=case.case_id,
            sidecar_uri=storage.join(self.uri, f"{case.case_id}.json"),
            key=jsonform.fingerprint(inputs, identity, *self._shared),
            payload=payload,
            outputs=tuple(outputs),
        )

    def split_finished(self, cohort: Cohort) -> tuple[Sequence[CaseRow], Sequence[Work]]:
        """Rows of the cases that have their mask, and the work left to do.

        Raises:
            UsageError: as `check_replaced` and `ledger.split_finished`, or one name for two masks.
        """
        natives = {native_name(case_id) for case_id in self.homes}
        twice = natives and natives & {mask_name(case_id) for case_id in cohort.case_ids()}
        if twice:
            raise UsageError(
                f"{min(twice)} would be the name of two masks, of a case and of another one's on "
                "the scanner's own grid: expected other names of cases"
            )
        check_replaced(self.uri, self.task, cohort, natives)
        # Until the last mask is made anew, those of before may be there.
        told = _distinct([*_told_tasks(self.uri), self.task])
        output = ledger.Output(
            uri=self.uri,
            description=DESCRIPTION,
            tables=[TABLE],
            inputs=cohort.files(),
            told={"tasks": [tasks.as_json(task) for task in told]},
        )
        return ledger.split_finished(map(self.work_of, cohort.cases), output)

    @packed.uncollected()
    def conclude(
        self, cohort: Cohort, finished: Sequence[CaseRow], done: Sequence[CaseRow]
    ) -> ScoreSummary:
        """Write the ledger and then `score.json`.

        Args:
            cohort: whose rejected rows enter the ledger.
            finished: rows of the cases that were done before.
            done: rows of those that were done now.
        """
        rows = ledger.in_order(finished, done, cohort.rejected)
        # Of 200,000 rows few have anything to tell.
        telling = [row for row in rows if row.status != "ok" or row.get("remarks")]
        columns = columns_of(self.task.targets, native=bool(self.homes))
        ledger.write_table(storage.join(self.uri, TABLE), rows, columns)
        counts = ledger.counts(rows)
        description = {
            "identity": dict(self.identity),
            **tasks.described(self.task),
            "counts": counts,
            "versions": {"ray_brats": ray_brats.__version__},
        }
        storage.write_json(storage.join(self.uri, DESCRIPTION), description)
        ownership.end(self.uri)
        return ScoreSummary(
            predictions=self.uri,
            task=self.task.name,
            counts=counts,
            processed=len(done),
            skipped=len(finished),
            notes=ledger.remark_lines(telling),
            remarked=[row.case_id for row in telling if row.get("remarks")],
            failures=[row for row in telling if row.status != "ok"],
        )


def mask_name(case_id: str) -> str:
    """File name of a case's mask."""
    return f"{case_id}{SUFFIX}"


def native_name(case_id: str) -> str:
    """File name of a case's mask on the scanner's own grid."""
    return f"{case_id}{_NATIVE}{SUFFIX}"


def seg_name(case_id: str) -> str:
    """File name of a case's mask as a DICOM Segmentation."""
    return f"{case_id}{_NATIVE}.dcm"


@dataclass(frozen=True, kw_only=True)
class Masks:
    """The masks right in a folder."""

    of_case: Mapping[str, FileInfo]
    """By `case_id`."""
    of_no_case: Sequence[FileInfo]
    several: Sequence[str]
    """Cases that have another mask than the one called as ours are."""
    made_for: Task | None = None
    """The task that the folder says of itself."""

    def notes(self) -> list[str]:
        """What to say of masks that are not read."""
        notes = []
        if several := self.several:
            notes.append(
                f"{len(several)} case(s) have several masks, {several[0]} among them: "
                f"{mask_name(several[0])} is taken"
            )
        names = sorted(local.readable(storage.name_of(file.uri)) for file in self.of_no_case)
        if names:
            shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
            notes.append(
                f"{len(names)} mask(s) of no case that is asked for were left out: {shown}"
            )
        return notes

    def uris(self) -> list[str]:
        """Every one of them."""
        return [file.uri for file in (*self.of_case.values(), *self.of_no_case)]


def find_masks(predictions_uri: str, cohort: Cohort) -> Masks:
    """The masks right in a folder: `<case>.nii.gz`, or as `.nii`, with `_seg` or `-seg`.

    Args:
        predictions_uri: the folder; where it is the cohort's own, a reference `<case>_seg.nii.gz`
            is no prediction.
        cohort: whose cases are asked for; files may also bear their original names.

    Raises:
        UsageError: there is no mask of any case, or a case has several, none of which is
            `<case>.nii.gz`.
    """
    case_ids = cohort.case_ids()
    ours, natives = (
        {storage.join(predictions_uri, name_of(case_id)) for case_id in case_ids}
        for name_of in (mask_name, native_name)
    )
    theirs = (natives | set(cohort.files())) - ours
    # A place that is a file itself lists that file, which lies in no folder of its name.
    files = [
        file
        for file in storage.list_files(predictions_uri, depth=1)
        if _MASK.fullmatch(name := storage.name_of(file.uri))
        and file.uri == storage.join(predictions_uri, name)
        and file.uri not in theirs
    ]
    if not files:
        there = "holds no" if storage.exists(predictions_uri) else "is not there, and so holds no"
        raise UsageError(
            f"{predictions_uri} {there} <case_id>{SUFFIX}: expected masks by case, as "
            "`ray-brats score` leaves them"
        )
    found: dict[str | None, list[FileInfo]] = defaultdict(list)
    for file in files:
        found[_case_of_mask(storage.name_of(file.uri), case_ids)].append(file)
    strangers = found.pop(None, [])
    if not found and case_ids:
        some = min(storage.name_of(file.uri) for file in strangers)
        raise UsageError(
            f"{predictions_uri} holds {len(strangers)} mask(s), {local.readable(some)} among them, "
            f"and none of a case of {cohort.uri}, as {mask_name(min(case_ids))}"
        )
    of_case = {case_id: _chosen(case_id, masks) for case_id, masks in found.items() if case_id}
    several = sorted(case_id for case_id in of_case if len(found[case_id]) > 1)
    return Masks(
        of_case=of_case,
        of_no_case=strangers,
        several=several,
        made_for=made_for(predictions_uri),
    )


def made_for(predictions_uri: str) -> Task | None:
    """The task that a folder of masks says of itself, also before all are there; or None.

    Raises:
        UsageError: it says what nobody knows, or holds masks of two tasks: those of the one are
            being replaced, or the call that did so was killed.
    """
    told = _distinct(_told_tasks(predictions_uri))
    if len(told) > 1:
        raise UsageError(
            f"{predictions_uri} holds masks of the task {told[0].name} that were to be replaced by "
            f"masks of {told[-1].name}, and not all have been: score once more, to the end"
        )
    return told[0] if told else None


def _told_tasks(predictions_uri: str) -> list[Task]:
    """What a folder tells of its masks: `score.json` one task, `begun.json` all that may be."""
    uri = storage.join(predictions_uri, DESCRIPTION)
    begun_uri = storage.join(predictions_uri, ownership.BEGUN)
    described = [(uri, storage.read_json_or_none(uri) or {})]
    begun = storage.read_json_or_none(begun_uri) or {}
    if isinstance(begun.get("tasks"), list):
        described += [(begun_uri, {"task": value}) for value in begun["tasks"]]
    told = []
    for source, values in described:
        try:
            told.append(tasks.told_by(values))
        except UsageError as error:
            # Other programs too call a file `score.json`, and none the other.
            if source == begun_uri or "versions" in values:
                raise UsageError(f"{source}: {error}") from error
    return [task for task in told if task is not None]


def _distinct(told: Sequence[Task]) -> list[Task]:
    """The first task of each meaning."""
    return [
        task
        for number, task in enumerate(told)
        if not any(task.means_as(other) for other in told[:number])
    ]


def check_place(folder: str, task: Task) -> None:
    """`UsageError` where a mask would lie among those of a folder that says otherwise of itself.

    Whoever reads it there would read its integers as theirs.
    """
    made = made_for(folder)
    if made and not made.means_as(task):
        raise UsageError(f"{_others(folder, made, task)}: expected another folder")


def check_replaced(
    folder: str, task: Task | None, cohort: Cohort, natives: Collection[str] = ()
) -> None:
    """`UsageError` where masks of other integers would stay beside those of a cohort.

    Those of its own cases are made anew, and so are `natives`, names of masks at home.
    """
    others = [made for made in _told_tasks(folder) if task and not made.means_as(task)]
    if not others or task is None:
        return
    replaced = {*natives, *(mask_name(case.case_id) for case in cohort.cases)}
    names = sorted(
        local.readable(name)
        for file in storage.list_files(folder, depth=1)
        if _MASK.fullmatch(name := storage.name_of(file.uri)) and name not in replaced
    )
    if names:
        more = f" and {len(names) - 1} more" if names[1:] else ""
        raise UsageError(
            f"{_others(folder, others[0], task)}: {names[0]}{more} would stay beside; "
            "expected another folder, or all its cases in one call"
        )


def _others(folder: str, made: Task, task: Task) -> str:
    return (
        f"{folder} holds masks of the task {made.name} ({_in_words(made)}), and labels of "
        f"{task.name} are {_in_words(task)}"
    )


def _in_words(task: Task) -> str:
    classes = zip(task.integers, task.targets.class_names[1:], strict=True)
    return ", ".join(f"{integer} {name}" for integer, name in classes)


def _case_of_mask(name: str, case_ids: Collection[str]) -> str | None:
    """Whose mask a file is by its name; a case's own name may end in what masks' names do."""
    match = _MASK.fullmatch(name)
    stem = match["stem"] if match else name
    plain = re.sub(r"[_-]seg$", "", stem, flags=re.IGNORECASE)
    return naming.find_id(stem, case_ids) or naming.find_id(plain, case_ids)


def _chosen(case_id: str, masks: Sequence[FileInfo]) -> FileInfo:
    """The mask that is called as ours are, or the only one."""
    ours = [file for file in masks if storage.name_of(file.uri) == mask_name(case_id)]
    if ours or len(masks) == 1:
        return (ours or masks)[0]
    names = " and ".join(storage.name_of(file.uri) for file in masks)
    raise UsageError(
        f"{storage.parent_of(masks[0].uri)} holds several masks of {case_id}, {names}: keep one, "
        f"or call the right one {mask_name(case_id)}"
    )


# --- a worker's side: the mask of one case ---------------------------------------------


def case_of(item: Work) -> Case:
    """The case of a work."""
    return Case.from_row(item.payload["case"])


def task_of(item: Work) -> Task:
    """Whose labels the mask of a work carries."""
    return tasks.from_json(json.loads(item.payload["task"]))


def home_of(item: Work) -> Home | None:
    """The series that the mask of a work is also brought home to."""
    text = item.payload.get("home")
    return record.home_from_json(json.loads(text)) if text else None


def save(
    item: Work,
    index: LabelMap,
    geometry: Geometry,
    remarks: Sequence[str] = (),
    native: LabelMap | None = None,
) -> tuple[CaseRow, list[str]]:
    """Write the mask of class indices on the crop of a geometry; what `put` returns.

    `native` is the mask on the grid of `home_of(item)`, where that is asked for.
    """
    task = task_of(item)
    prediction = Prediction(
        mask_native=geometry.to_native(index), geometry=geometry, targets=task.targets
    )
    row, files = put(item, _encoded(prediction, task), prediction.region_ml(), remarks)
    home = home_of(item)
    if native is None or home is None:
        return row, files
    there = Prediction(mask_native=native, geometry=home.geometry, targets=task.targets)
    name = native_name(item.case_id)
    storage.write_bytes(storage.join(item.folder, name), _encoded(there, task), synced=False)
    volumes = {native_column(region): round(ml, 6) for region, ml in there.region_ml().items()}
    row, files = dataclasses.replace(row, facts={**row.facts, **volumes}), [*files, name]
    return _with_seg(item, row, files, there, home) if home.sources else (row, files)


def _with_seg(
    item: Work, row: CaseRow, files: Sequence[str], there: Prediction, home: Home
) -> tuple[CaseRow, list[str]]:
    """The row and files with the DICOM Segmentation, or with why there is none: masks stay."""
    from ray_brats.cases.raw import dicomseg

    try:
        content = dicomseg.encode(
            there.mask_native, home.geometry, there.targets, home.sources, made_by=_MADE_BY
        )
    except CaseError as error:
        told = [*filter(None, [row.get("remarks")]), f"no DICOM Segmentation: {error.reason}"]
        return dataclasses.replace(row, facts={**row.facts, **ledger.remarked(told)}), [*files]
    name = seg_name(item.case_id)
    storage.write_bytes(storage.join(item.folder, name), content, synced=False)
    return row, [*files, name]


def _encoded(prediction: Prediction, task: Task) -> bytes:
    return encode(labels.from_class_index(prediction.mask_native, task), prediction.geometry)


def put(
    item: Work, content: bytes, volumes_ml: Mapping[str, float], remarks: Sequence[str] = ()
) -> tuple[CaseRow, list[str]]:
    """Write the bytes of a mask; the case's row, and the file's name.

    Args:
        item: whose mask it is.
        content: of the file.
        volumes_ml: volume of each region.
        remarks: what was not as usual in its scans.
    """
    name = mask_name(item.case_id)
    # The sidecar vouches for its size.
    storage.write_bytes(storage.join(item.folder, name), content, synced=False)
    facts: dict[str, Any] = {
        volume_column(region): round(ml, 6) for region, ml in volumes_ml.items()
    }
    return CaseRow(case_id=item.case_id, facts=facts | ledger.remarked(remarks)), [name]
