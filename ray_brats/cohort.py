"""Cohorts: which cases a folder, prefix or CSV holds, and what cannot be one.

Finding looks at names only; no image is opened here. One listing gives the names and the
etags of all files.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_brats import labels, naming, storage
from ray_brats.errors import UsageError
from ray_brats.naming import ALIASES, MODALITIES, SEGMENTATION
from ray_brats.storage import FileInfo

_MAPPING = re.compile(r"name_mapping.*\.csv", re.IGNORECASE)
GRADES = ("HGG", "LGG")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scan of one patient: URIs and small facts, never voxels."""

    case_id: str
    patient_id: str
    images: Mapping[str, str]
    """Canonical modality to URI."""
    segmentation: str | None = None
    etags: Mapping[str, str] = field(default_factory=dict)
    """URI to etag, for every file above."""
    sizes_bytes: Mapping[str, int] = field(default_factory=dict)
    """URI to length, where a listing told it."""
    release: str | None = None
    grade: str | None = None
    split: str | None = None

    def as_row(self) -> dict[str, Any]:
        """Plain values that a task needs, small; `from_row` is the inverse but for the sizes."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**values, "images": dict(self.images), "etags": {}, "sizes_bytes": {}}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Case:
        """Rebuild a case; Arrow's filling-in of absent keys is undone."""
        values = dict(row)
        for name in ("images", "etags"):
            values[name] = {key: value for key, value in values[name].items() if value is not None}
        return Case(**values)

    def inputs(self, modalities: Sequence[str]) -> dict[str, str]:
        """Etag of each file that a recipe with these modalities reads, by kind."""
        named = {kind: self.images[kind] for kind in modalities if kind in self.images}
        if self.segmentation:
            named[SEGMENTATION] = self.segmentation
        return {kind: self.etags.get(uri, "") for kind, uri in named.items()}


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The cases found, and a row for each one that cannot be used."""

    uri: str
    cases: tuple[Case, ...]
    rejected: tuple[dict[str, str], ...] = ()
    """`case_id`, `status`, `reason`, `file`."""
    notes: tuple[str, ...] = ()

    def release_or(self, fallback: str | None) -> str | None:
        """The release all cases share, else `fallback`."""
        return next((case.release for case in self.cases if case.release), fallback)


def find(
    uri: str,
    *,
    release: str | None = None,
    refusal: Callable[[str], str | None] = lambda _: None,
) -> Cohort:
    """All cases below a folder or prefix, or in a CSV.

    Args:
        uri: folder, `s3://` prefix, or a CSV with `case_id` and one URI column per modality.
        release: what the labels mean, where the names do not tell or tell wrongly.
        refusal: why a file that a CSV names must not be looked at, or None.

    Raises:
        UsageError: nothing there, no case in it, or several releases mixed.
    """
    uri = storage.absolute(uri)
    if release is not None:
        labels.check_release(release)
    if uri.endswith(".csv"):
        cohort = _from_csv(uri, refusal)
    else:
        files = [file for file in storage.list_files(uri) if not _is_hidden(file.uri, uri)]
        if not files:
            raise UsageError(
                f"{uri}: no such folder or prefix, or nothing in it; "
                "expected a BraTS cohort, for example a folder of case folders"
            )
        cohort = _from_names(uri, files)
    if not cohort.cases and not cohort.rejected:
        raise UsageError(
            f"{uri}: no file is named as a BraTS release names them (<case>_t1ce.nii.gz, "
            "<case>-t2f.nii.gz …); rename the files or describe the cohort in a CSV with the "
            f"columns case_id, {', '.join(MODALITIES)}, {SEGMENTATION}"
        )
    return _with_release(cohort, release)


def _is_hidden(uri: str, root: str) -> bool:
    return any(part.startswith(".") for part in uri.removeprefix(root).split("/"))


def _from_names(uri: str, files: Sequence[FileInfo]) -> Cohort:
    found: dict[str, dict[str, list[FileInfo]]] = defaultdict(lambda: defaultdict(list))
    notes, odd = [], []
    for file in files:
        name = storage.name_of(file.uri)
        meant = naming.case_and_kind(name)
        if meant:
            found[meant[0]][meant[1]].append(file)
        elif name.removesuffix(".gz") == naming.CASE_355_MASK:
            odd.append(file)
    for file in odd[:1]:
        # Some mirrors hold it under both names.
        case_355 = found.get(naming.CASE_355)
        if case_355 and SEGMENTATION not in case_355:
            case_355[SEGMENTATION].append(file)
            name = storage.name_of(file.uri)
            notes.append(f"{naming.CASE_355}: segmentation recovered from {name}")
    grades = _mapped_grades(files)
    cases, rejected = [], []
    for case_id, kinds in sorted(found.items()):
        problem = naming.problem_of_id(case_id) or _several_files(kinds)
        if problem:
            rejected.append(_rejection(case_id, *problem))
            continue
        infos = {kind: items[0] for kind, items in kinds.items()}
        grade = _grade(next(iter(infos.values())).uri) or grades.get(case_id)
        cases.append(_case(case_id, infos, grade=grade))
    return Cohort(uri=uri, cases=tuple(cases), rejected=tuple(rejected), notes=tuple(notes))


def _several_files(kinds: Mapping[str, list[FileInfo]]) -> tuple[str, str] | None:
    for kind, items in kinds.items():
        if len(items) > 1:
            where = " and ".join(item.uri for item in items[:3])
            return (f"two cases of one name: {kind} is there more than once, {where}", items[1].uri)
    return None


def _rejection(case_id: str, reason: str, file: str) -> dict[str, str]:
    return {"case_id": case_id, "status": "rejected", "reason": reason, "file": file}


def _case(
    case_id: str,
    files: Mapping[str, FileInfo],
    *,
    patient_id: str | None = None,
    grade: str | None = None,
    split: str | None = None,
) -> Case:
    segmentation = files.get(SEGMENTATION)
    return Case(
        case_id=case_id,
        patient_id=patient_id or naming.patient_of(case_id),
        images={kind: files[kind].uri for kind in MODALITIES if kind in files},
        segmentation=segmentation.uri if segmentation else None,
        etags={file.uri: file.etag for file in files.values()},
        sizes_bytes={file.uri: file.size_bytes for file in files.values() if file.etag},
        release=naming.release_of(case_id),
        grade=grade,
        split=split,
    )


def _grade(uri: str) -> str | None:
    """From the folders of the releases until 2019."""
    return next((part for part in uri.split("/") if part in GRADES), None)


def _mapped_grades(files: Iterable[FileInfo]) -> dict[str, str]:
    """Case to grade, from the `name_mapping.csv` of the releases of 2019 and 2020."""
    grades: dict[str, str] = {}
    for file in files:
        if not _MAPPING.fullmatch(storage.name_of(file.uri)):
            continue
        for row in read_csv(file.uri, required=()):
            names = [value for name, value in row.items() if name.endswith("_subject_ID")]
            if row.get("Grade") in GRADES:
                grades |= dict.fromkeys(names, row["Grade"])
    return grades


def _with_release(cohort: Cohort, release: str | None) -> Cohort:
    if release is None:
        named = sorted({case.release for case in cohort.cases if case.release})
        if len(named) > 1:
            differ = any(labels.RELEASES[name] != labels.RELEASES[named[0]] for name in named)
            why = (
                "whose labels differ in meaning"
                if differ
                else "which hold the same patients under several names"
            )
            raise UsageError(
                f"{cohort.uri} mixes {' and '.join(named)}, {why}: "
                "pass the folder of one release, or --release if the names mislead"
            )
        release = named[0] if named else None
    cases = tuple(dataclasses.replace(case, release=release) for case in cohort.cases)
    return dataclasses.replace(cohort, cases=cases)


def _from_csv(uri: str, refusal: Callable[[str], str | None]) -> Cohort:
    rows = read_csv(uri, required=("case_id",))
    columns = {name: ALIASES.get(name.lower(), name.lower()) for name in rows[0]} if rows else {}
    if rows and not set(columns.values()) & set(MODALITIES):
        raise UsageError(f"{uri}: no column is named after a modality ({', '.join(MODALITIES)})")
    seen: dict[str, int] = defaultdict(int)
    for row in rows:
        seen[row["case_id"]] += 1
    places = [_places(row, columns, storage.parent_of(uri)) for row in rows]
    refused = {place: refusal(place) for named in places for place in named.values()}
    infos = storage.file_infos(place for place, why in refused.items() if why is None)
    cases: list[Case] = []
    rejected: dict[str, dict[str, str]] = {}
    for row, named in zip(rows, places, strict=True):
        case_id = row["case_id"]
        problem = naming.problem_of_id(case_id)
        if not problem and seen[case_id] > 1:
            problem = (f"two cases of one name: {case_id} stands {seen[case_id]} times", uri)
        problem = problem or next(
            ((refused[p] or "", p) for p in named.values() if refused[p]), None
        )
        if problem:
            rejected[case_id] = _rejection(case_id, *problem)
            continue
        absent = {kind: FileInfo(uri=place, size_bytes=0, etag="") for kind, place in named.items()}
        cases.append(
            _case(
                case_id,
                {kind: infos.get(file.uri, file) for kind, file in absent.items()},
                patient_id=row.get("patient_id") or None,
                grade=row.get("grade") or None,
                split=row.get("split") or None,
            )
        )
    return Cohort(uri=uri, cases=tuple(cases), rejected=tuple(rejected.values()))


def _places(row: Mapping[str, str], columns: Mapping[str, str], base: str) -> dict[str, str]:
    """Kind to URI of the files that a row names; relative ones lie beside the CSV."""
    return {
        columns[name]: storage.absolute(value if _is_absolute(value) else f"{base}/{value}")
        for name, value in row.items()
        if value and columns[name] in (*MODALITIES, SEGMENTATION)
    }


def _is_absolute(value: str) -> bool:
    return value.startswith(("/", "~", "file://")) or storage.is_remote(value)


def read_csv(uri: str, *, required: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV; `UsageError` where it is absent or lacks a required column."""
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"{uri}: no such file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri}: not a text file in UTF-8") from error
    reader = csv.DictReader(io.StringIO(text), restval="")
    missing = [name for name in required if name not in (reader.fieldnames or ())]
    if missing:
        raise UsageError(
            f"{uri}: no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}"
        )
    return [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]


def read_split(uri: str) -> dict[str, str]:
    """Case to `train`, `val` or `test` from a CSV with `case_id` and `split`."""
    rows = read_csv(uri, required=("case_id", "split"))
    wrong = sorted({row["split"] for row in rows} - set(SPLITS))
    if wrong:
        raise UsageError(f"{uri}: split {wrong[0]!r} is none of {', '.join(SPLITS)}")
    return {row["case_id"]: row["split"] for row in rows}


def assign_splits(cases: Iterable[Case], given: Mapping[str, str] | None, seed: int) -> list[Case]:
    """Every case with its split: the given one, the cohort's own, or a seeded fifth as `val`.

    With a given split, cases it does not name are left without one: neither trained on nor
    validated. Patients are never divided.
    """
    cases = list(cases)
    if given is not None:
        return [dataclasses.replace(case, split=given.get(case.case_id)) for case in cases]
    if any(case.split for case in cases):
        return cases
    return [
        dataclasses.replace(case, split=split)
        for case, split in zip(cases, _seeded_fifth(cases, seed), strict=True)
    ]


def _seeded_fifth(cases: Sequence[Case], seed: int) -> list[str]:
    patients = sorted({case.patient_id for case in cases}, key=lambda name: _rank(seed, name))
    held_out = set(patients[: max(1, round(len(patients) / 5))]) if len(patients) > 1 else set()
    return ["val" if case.patient_id in held_out else "train" for case in cases]


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def select(cohort: Cohort, given: Mapping[str, str] | None, subset: str | None) -> Cohort:
    """The cohort with only the cases of one subset of a split.

    Raises:
        UsageError: a subset without a split, or one that no case belongs to.
    """
    if subset is None:
        return cohort
    splits = given or {case.case_id: case.split for case in cohort.cases if case.split}
    if not splits:
        raise UsageError(
            f"--subset {subset} needs --split CSV, or a cohort CSV with a split column"
        )
    cases = tuple(case for case in cohort.cases if splits.get(case.case_id) == subset)
    rejected = tuple(row for row in cohort.rejected if splits.get(row["case_id"]) == subset)
    if not cases and not rejected:
        raise UsageError(f"no case of {cohort.uri} belongs to the subset {subset!r} of the split")
    return dataclasses.replace(cohort, cases=cases, rejected=rejected)
