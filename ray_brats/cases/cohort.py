"""Cohorts: which cases a folder, prefix or CSV holds, and what cannot be one.

Finding looks at names; images are opened only where one is there twice (`twins`). One listing
gives the names and the etags of all files.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_brats.cases import described, joining, layouts, manifest, naming
from ray_brats.cases.case import Case, Cohort, Guard, PassedOver, case_of, rejection
from ray_brats.cases.datasetjson import DatasetJson
from ray_brats.cases.joining import Kinds
from ray_brats.cases.naming import MODALITIES, SEGMENTATION
from ray_brats.cases.raw import elements
from ray_brats.errors import UsageError
from ray_brats.files import local, storage
from ray_brats.files.local import FileInfo
from ray_brats.files.packed import Packed, Table, uncollected
from ray_brats.labels import Task
from ray_brats.recipes import tasks
from ray_brats.recipes.config import PreprocessConfig

_MAPPING = re.compile(r"name_mapping.*\.csv", re.IGNORECASE)
GRADES = ("HGG", "LGG")
TASK_FILES = (".toml", ".json")
FREE = Guard(opens_images=True)
"""A CSV of our own may be and name anything."""
_SHOWN = 3
_LOOKED_AT = 100
"""Files of any name that are asked whether they are DICOM, where there is no case."""
_SKULL = "preprocess.allow_skull=true"


@uncollected()
def find(
    uri: str,
    *,
    task: Task | None = None,
    guard: Guard = FREE,
) -> Cohort:
    """All cases below a folder or prefix, or in a CSV.

    A folder that a `dataset.json` describes (the Decathlon's, nnU-Net's) is read as that says.

    Args:
        uri: folder, `s3://` prefix, or a CSV with `case_id` and one URI column per modality.
        task: what the labels mean, where the names do not tell or tell wrongly.
        guard: what a CSV may be and name.

    Raises:
        UsageError: nothing there, no case in it, several tasks mixed, or a `dataset.json` that
            cannot be meant.
    """
    uri = storage.absolute(uri)
    files = Table[FileInfo]()
    if uri.lower().endswith(manifest.ENDINGS):
        cohort = manifest.read_cohort(uri, guard)
    else:
        files = storage.listing(uri, lambda place: not _is_hidden(place, uri), with_lost=True)
        if not files:
            raise UsageError(
                f"{uri}: no such folder or prefix, or nothing in it; "
                "expected a BraTS cohort, for example a folder of case folders"
            )
        cohort = _from_names(uri, files.values(), guard)
    if not cohort.cases and not cohort.rejected:
        lines = (
            *_hint(uri),
            *_raw_hint([*files.values()], guard),
            *cohort.notes,
            *passed_over_lines(cohort),
        )
        raise UsageError(
            f"{uri}: no file is named as a BraTS release names them (<case>_t1ce.nii.gz, "
            "<case>-t2f.nii.gz …); rename the files or describe the cohort in a CSV with the "
            f"columns case_id, {', '.join(MODALITIES)}, {SEGMENTATION}"
            + "".join(f"; {line}" for line in lines)
        )
    return _with_task(cohort, task)


def task_of(text: str | None) -> Task | None:
    """The task of a name, or of a .toml or .json file that says it; raises `UsageError`."""
    if text is None or not text.lower().endswith(TASK_FILES):
        return None if text is None else tasks.named(text)
    try:
        content = storage.read_bytes(storage.absolute(text), end=tasks.MOST_BYTES + 1)
        if len(content) > tasks.MOST_BYTES:
            raise UsageError(f"--task {text}: more than {tasks.MOST_BYTES} bytes: expected a task")
        # Some editors put a mark in front of a text.
        return tasks.parse(content.decode("utf-8-sig"), text)
    except FileNotFoundError as error:
        raise UsageError(f"--task {text}: no such file") from error
    except IsADirectoryError as error:
        raise UsageError(f"--task {text}: a folder: expected the file of a task") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--task {text}: expected text in UTF-8") from error


def sentence(cohort: Cohort) -> str:
    """A line for people: the number of cases, patients and masks, and whose labels they carry."""
    patients = {case.patient_id for case in cohort.cases}
    masked = sum(case.segmentation is not None for case in cohort.cases)
    task = next((case.task for case in cohort.cases if case.task), None)
    return (
        f"{len(cohort.cases)} case(s) of {len(patients)} patient(s), {masked} with a mask; labels "
        f"as in {task.name if task else 'a task that the names do not tell'}"
    )


def check_inputs(cohort: Cohort, config: PreprocessConfig) -> list[str]:
    """What to say where scans of the cohort's task usually are not those of a recipe.

    Raises:
        UsageError: no case has all modalities of the recipe, and the task has others: a sentence
            says what to pass, where each case would be rejected for itself.
    """
    task = next((case.task for case in cohort.cases if case.task), None)
    usual = cohort.told.modalities if cohort.told else task.modalities if task else ()
    needs_skull = bool(task and task.has_skull and not config.allow_skull)
    wanted = set(config.modalities)
    fitting = any(wanted <= set(case.images) for case in cohort.cases)
    shared = set(MODALITIES).intersection(*(case.images for case in cohort.cases))
    if cohort.cases and usual and not wanted <= set(usual) and shared and not fitting:
        names = ",".join(name for name in MODALITIES if name in shared)
        skull = f" {_SKULL}, since their scans have the skull on" if needs_skull else ""
        raise UsageError(
            f"no case of {cohort.uri} has all scans that the recipe reads "
            f"({', '.join(config.modalities)}), nor do those of its task"
            f"{f', {task.name},' if task else ''} usually; all of them have "
            f"{names.replace(',', ', ')}: pass --set preprocess.modalities={names}{skull}"
        )
    if needs_skull and task:
        return [
            f"scans of {task.name} usually have their skull on, and the recipe refuses such: pass "
            f"--set {_SKULL}"
        ]
    return []


def _hint(uri: str) -> list[str]:
    """What to say to somebody who passed a part of a described folder."""
    part = storage.name_of(uri)
    is_one = any(part in pair for pair in layouts.PARTS)
    return [f"pass the folder that {part} lies in, with its dataset.json"] if is_one else []


def _raw_hint(files: Sequence[FileInfo], guard: Guard) -> list[str]:
    """What to say to somebody who passed scans as they leave the scanner."""
    names = (storage.name_of(file.uri) for file in files)
    is_nifti = any(
        naming.image_format(name) == "nifti" and not naming.meaning_of(name) for name in names
    )
    is_raw = is_nifti or any(_is_dicom(file.uri, guard) for file in files[:_LOOKED_AT])
    return ["`ray-brats prepare` takes studies as they leave the scanner"] if is_raw else []


def _is_dicom(uri: str, guard: Guard) -> bool:
    """By its name, or by its mark where it lies on this machine."""
    if uri.lower().endswith(".dcm"):
        return True
    return guard.opens_images and not storage.is_remote(uri) and elements.is_dicom(Path(uri))


def passed_over_groups(cohort: Cohort) -> list[dict[str, Any]]:
    """Why image files are part of no case: `why`, `count` and the first `files`, by name."""
    groups: dict[str, list[PassedOver]] = {}
    for item in cohort.passed_over:
        groups.setdefault(item.why, []).append(item)
    return [
        {"why": why, "count": len(items), "files": [item.name for item in items[:_SHOWN]]}
        for why, items in sorted(groups.items())
    ]


def passed_over_lines(cohort: Cohort) -> list[str]:
    """The same as lines for people."""
    return [
        f"{group['count']} image file(s) passed over ({', '.join(group['files'])}"
        f"{' …' if group['count'] > _SHOWN else ''}): {group['why']}"
        for group in passed_over_groups(cohort)
    ]


def _is_hidden(uri: str, root: str) -> bool:
    return naming.is_hidden(uri.removeprefix(root))


def _from_names(uri: str, files: Collection[FileInfo], guard: Guard) -> Cohort:
    described = layouts.find(files, uri)
    joined = described.joined if described else joining.join(files)
    if guard.opens_images and any(joined.twins()):
        # What reads images takes its time to load.
        from ray_brats.cases import twins

        twins.settle(joined)
    grades = _mapped_grades(files)
    cases, rejected, escaped = Packed[Case](), [], []
    for name, kinds in joined.by_name():
        if naming.id_of_name(name) != name:
            escaped.append(name)
        problem = (
            naming.problem_of_name(name) or _several_files(kinds) or _odd_folder(kinds.values())
        )
        if problem:
            unsafe = naming.problem_of_name(name)
            rejected.append(rejection(name if unsafe else naming.id_of_name(name), *problem))
            continue
        infos = {kind: items[0] for kind, items in kinds.items()}
        grade = _grade(next(iter(infos.values())).uri) or grades.get(name)
        case = case_of(naming.id_of_name(name), infos, grade=grade)
        cases.append(_as_told(case, described.told) if described else case)
    notes = (*joined.notes, *naming.notes_on_names(escaped), *_lost_notes(files))
    return Cohort(
        uri=uri,
        cases=cases,
        rejected=tuple(rejected),
        notes=notes,
        passed_over=tuple(joined.passed_over),
        told=described.told if described else None,
    )


def _lost_notes(files: Iterable[FileInfo]) -> list[str]:
    """What to say of links that lead nowhere; those of images are a matter of their case."""
    lost = [
        file.uri
        for file in files
        if not file.etag and not naming.image_format(storage.name_of(file.uri))
    ]
    if not lost:
        return []
    return [
        f"{len(lost)} link(s) lead nowhere, and what is behind them is not looked at: "
        f"{storage.name_of(lost[0])} leads to {local.readable(str(Path(lost[0]).readlink()))}"
    ]


def _as_told(case: Case, told: DatasetJson) -> Case:
    """A case of a described set: its name tells no task, for labels were often changed."""
    count = len(told.modalities) if told.kind == "decathlon" else None
    return dataclasses.replace(case, task=None, channels=count)


def _several_files(kinds: Kinds) -> tuple[str, str] | None:
    for kind, items in kinds.items():
        if len(items) > 1:
            places = " and ".join(item.uri for item in items[:3])
            return (
                f"two files or two cases of one name: {kind} is there more than once, {places}; "
                "keep one, or rename one of the cases",
                items[1].uri,
            )
    return None


def _odd_folder(kinds: Iterable[Sequence[FileInfo]]) -> tuple[str, str] | None:
    for items in kinds:
        for item in items:
            if not local.is_utf8(item.uri):
                return "the name of its folder is not in UTF-8: rename the folder", item.uri
    return None


def _grade(uri: str) -> str | None:
    """The grade that a folder of the releases until 2019 is named after."""
    return next((part for part in uri.split("/") if part in GRADES), None)


def _mapped_grades(files: Iterable[FileInfo]) -> dict[str, str]:
    """Case to grade, from the `name_mapping.csv` of the releases of 2019 and 2020."""
    grades: dict[str, str] = {}
    for file in files:
        if not _MAPPING.fullmatch(storage.name_of(file.uri)):
            continue
        for row in manifest.read(file.uri, required=()):
            names = [value for name, value in row.items() if name.endswith("_subject_ID")]
            if row.get("Grade") in GRADES:
                grades |= dict.fromkeys(names, row["Grade"])
    return grades


def _with_task(cohort: Cohort, task: Task | None) -> Cohort:
    """The cohort with the task that is asked for, else the one that its names tell."""
    there = _tasks_of(cohort)
    named = {own.name: own for own in there if own}
    others = sorted(name for name in named if task and not task.means_as(tasks.TASKS[name]))
    if task and others:
        note = (
            f"by their names the cases are of {' and '.join(others)}; their labels are read as "
            f"those of {task.name}, which --task says"
        )
        cohort = dataclasses.replace(cohort, notes=(*cohort.notes, note))
    if task is None and cohort.told:
        task = described.task_of(cohort.told)
    if task is None:
        _check_mixture(cohort, named)
        if not named:
            return cohort
        task = named[min(named)]
        if len(named) > 1:
            # Of several with one meaning each case keeps its own.
            own = (dataclasses.replace(case, task=case.task or task) for case in cohort.cases)
            return dataclasses.replace(cohort, cases=Packed(own))
    if all(own and _is_same(own, task) for own in there):
        return cohort
    cases = Packed(dataclasses.replace(case, task=task) for case in cohort.cases)
    return dataclasses.replace(cohort, cases=cases)


def _tasks_of(cohort: Cohort) -> list[Task | None]:
    """Every task that cases have, once; None where one has none."""
    found: list[Task | None] = []
    last: Task | None = None
    for case in cohort.cases:
        if (case.task is not last or not found) and not any(
            _is_same(own, case.task) for own in found
        ):
            found.append(case.task)
        last = case.task
    return found


def _is_same(one: Task | None, other: Task | None) -> bool:
    """Not ==, which leaves out what a task says besides the meaning of labels."""
    return one is other or (bool(one and other) and vars(one) == vars(other))


def _check_mixture(cohort: Cohort, told: Mapping[str, Task]) -> None:
    """`UsageError` for cases whose labels differ in meaning, or that are there twice."""
    possible = cohort.possible_tasks()
    kinds = {(task.targets, task.integers) for task in told.values()}
    if told and possible:
        why = f"and what may be {' or '.join(possible)}, whose labels differ in meaning"
    elif len(kinds) > 1:
        why = "whose labels differ in meaning"
    elif len(told) > 1 and any(map(naming.tumour_of_task, told)):
        why = "which hold the same patients under several names"
    else:
        return
    raise UsageError(
        f"{cohort.uri} mixes {' and '.join(sorted(told))}, {why}: "
        "pass the folder of one of them, or --task if the names mislead"
    )
