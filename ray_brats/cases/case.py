"""What a case is, what a cohort is, and the row of a case that cannot be used."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_brats.cases import naming
from ray_brats.cases.datasetjson import DatasetJson
from ray_brats.cases.naming import MODALITIES, SEGMENTATION
from ray_brats.errors import UsageError
from ray_brats.files import channels, local, storage
from ray_brats.files.ledger import CaseRow
from ray_brats.files.local import FileInfo
from ray_brats.files.packed import Packed
from ray_brats.labels import Task
from ray_brats.recipes import tasks

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scan of one patient: URIs and small facts, never voxels."""

    case_id: str
    patient_id: str
    images: Mapping[str, str]
    """Canonical modality to URI: a file, or a channel of one (`files.channels`)."""
    segmentation: str | None = None
    channels: int | None = None
    """How many scans each file of an image holds, where the cohort says so."""
    etags: Mapping[str, str] = field(default_factory=dict)
    """URI to etag, for every URI above."""
    sizes_bytes: Mapping[str, int] = field(default_factory=dict)
    """URI to length, where a listing told it."""
    task: Task | None = None
    """What its mask holds; None where neither its name nor anybody tells."""
    grade: str | None = None
    split: str | None = None

    def as_row(self) -> dict[str, Any]:
        """Plain values that a task needs, small; `from_row` is the inverse but for the sizes."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        # Text: a table of cases would give the parts of a task a type each.
        task = json.dumps(tasks.as_json(self.task)) if self.task else None
        small: dict[str, Any] = {"etags": {}, "sizes_bytes": {}, "task": task}
        return {**values, "images": dict(self.images), **small}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Case:
        """Rebuild a case; Arrow's filling-in of absent keys is undone."""
        values = dict(row)
        for name in ("images", "etags"):
            values[name] = {key: value for key, value in values[name].items() if value is not None}
        if values["task"] is not None:
            values["task"] = tasks.from_json(json.loads(values["task"]))
        return Case(**values)

    def files(self) -> Iterator[str]:
        """URI of every file that holds something of the case; of several channels, once each."""
        uris = [*self.images.values(), *filter(None, [self.segmentation])]
        return iter(dict.fromkeys(map(channels.file_of, uris)))

    def inputs(self, modalities: Sequence[str]) -> dict[str, str]:
        """Etag of each file that a recipe with these modalities reads, by kind."""
        named = {kind: self.images[kind] for kind in modalities if kind in self.images}
        if self.segmentation:
            named[SEGMENTATION] = self.segmentation
        return {kind: self.etags.get(uri, "") for kind, uri in named.items()}


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What a CSV may be and name that somebody else wrote."""

    refusal: Callable[[str], str | None] = lambda _: None
    """Why a file must not be looked at, or None."""
    most_bytes: int | None = None
    most_rows: int | None = None
    most_columns: int | None = None
    opens_images: bool = False
    """Whether two files may be compared voxel by voxel, before anybody has judged their size."""

    def check(self, uri: str, **counts: int) -> None:
        """`UsageError` for a CSV that has more of something than may be."""
        for name, count in counts.items():
            most = getattr(self, f"most_{name}")
            if most is not None and count > most:
                raise UsageError(f"{uri}: more than {most} {name}: expected a smaller CSV")


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """An image file of a cohort that belongs to no case."""

    uri: str
    why: str
    """The same words for all files of one kind: they are counted by them."""

    @property
    def name(self) -> str:
        """The file's own name, as it can be shown."""
        return _CONTROL.sub("\ufffd", local.readable(storage.name_of(self.uri)))


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Cases, and a row for each one that cannot be used."""

    uri: str
    cases: Sequence[Case]
    """Kept packed (`files.packed`), whatever sequence is given: what is read are copies."""
    rejected: tuple[CaseRow, ...] = ()
    """Among their facts is `split`, where the cohort itself tells it."""
    notes: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    """Every image file below a folder or prefix that is part of no case; none of a CSV."""
    told: DatasetJson | None = None
    """What a `dataset.json` says of all cases, where the cohort has one that describes them."""

    def __post_init__(self) -> None:
        if not isinstance(self.cases, Packed):
            object.__setattr__(self, "cases", Packed(self.cases))

    def files(self) -> Iterator[str]:
        """URI of every file of every case, and of the cohort itself."""
        yield self.uri
        if self.told is not None:
            yield self.told.uri
        for case in self.cases:
            yield from case.files()

    def case_ids(self) -> set[str]:
        """Ids of all cases, also of those that cannot be used."""
        return {case.case_id for case in self.cases} | {row.case_id for row in self.rejected}

    def possible_tasks(self) -> tuple[str, ...]:
        """Names of the tasks between which the names of the cases leave open, or none."""
        undecided = {naming.tasks_of(case.case_id) for case in self.cases if case.task is None}
        return tuple(sorted({name for possible in undecided for name in possible}))

    def task_or(self, fallback: Task | None) -> Task | None:
        """The task that all cases share, else `fallback` where their names allow it.

        Raises:
            UsageError: the names leave several tasks open, and `fallback` is like none of them;
                without one, where there are masks to read.
        """
        told = next((case.task for case in self.cases if case.task), None)
        possible = self.possible_tasks()
        if told or not possible:
            return told or fallback
        if fallback and (fitting := tasks.fitting(possible, fallback.targets)):
            return fitting
        if fallback is None and not any(case.segmentation for case in self.cases):
            return None
        if fallback is not None:
            raise UsageError(
                f"the cases in {self.uri} are of {' or '.join(possible)} by their names, and the "
                f"model has learnt {fallback.name}: expected a bundle that was trained on such "
                "cases, or --task if the names mislead"
            )
        options = " or ".join(f"--task {name}" for name in possible)
        raise UsageError(
            f"the names in {self.uri} do not tell the task, and labels mean another thing in each: "
            f"pass {options}"
        )


def rejection(case_id: str, reason: str, file: str, *, split: str | None = None) -> CaseRow:
    """The row of a case that cannot be used; names that are no UTF-8 are marked in it."""
    return CaseRow(
        case_id=local.readable(case_id),
        status="rejected",
        reason=local.readable(reason),
        file=local.readable(file),
        facts={"split": split} if split else {},
    )


def case_of(
    case_id: str,
    files: Mapping[str, FileInfo],
    *,
    patient_id: str | None = None,
    grade: str | None = None,
    split: str | None = None,
) -> Case:
    """The case of some files by kind (modality or `seg`).

    Its task follows from its name where that leaves one, and its patient where nobody tells.
    """
    possible = naming.tasks_of(case_id)
    segmentation = files.get(SEGMENTATION)
    return Case(
        case_id=case_id,
        patient_id=patient_id or naming.patient_of(case_id),
        images={kind: files[kind].uri for kind in MODALITIES if kind in files},
        segmentation=segmentation.uri if segmentation else None,
        etags={file.uri: file.etag for file in files.values()},
        sizes_bytes={file.uri: file.size_bytes for file in files.values() if file.etag},
        task=tasks.TASKS[possible[0]] if len(possible) == 1 else None,
        grade=grade,
        split=split,
    )
