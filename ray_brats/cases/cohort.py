"""Cohorts: which cases a folder, prefix or CSV holds, and what cannot be one.

Finding looks at names only; no image is opened here. One listing gives the names and the
etags of all files.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_brats import labels
from ray_brats.cases import manifest, naming
from ray_brats.cases.naming import MODALITIES, SEGMENTATION
from ray_brats.errors import UsageError
from ray_brats.files import local, storage
from ray_brats.files.local import FileInfo

_MAPPING = re.compile(r"name_mapping.*\.csv", re.IGNORECASE)
GRADES = ("HGG", "LGG")


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
    """`case_id`, `status`, `reason`, `file`, and `split` where the cohort itself tells it."""
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


def sentence(cohort: Cohort) -> str:
    """What was found, in a line for people."""
    patients = {case.patient_id for case in cohort.cases}
    masked = sum(case.segmentation is not None for case in cohort.cases)
    return (
        f"{len(cohort.cases)} case(s) of {len(patients)} patient(s), {masked} with a mask; labels "
        f"as in {cohort.release_or(None) or 'a release that the names do not tell'}"
    )


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
        problem = (
            naming.problem_of_id(case_id) or _several_files(kinds) or _odd_folder(kinds.values())
        )
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
            return (
                f"two files or two cases of one name: {kind} is there more than once, {where}; "
                "keep one, or rename one of the cases",
                items[1].uri,
            )
    return None


def _odd_folder(found: Iterable[Sequence[FileInfo]]) -> tuple[str, str] | None:
    for items in found:
        for item in items:
            if not local.is_utf8(item.uri):
                return "the name of its folder is not in UTF-8: rename the folder", item.uri
    return None


def _rejection(case_id: str, reason: str, file: str) -> dict[str, str]:
    told = {"case_id": case_id, "status": "rejected", "reason": reason, "file": file}
    return {name: local.readable(value) for name, value in told.items()}


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
        for row in manifest.read(file.uri, required=()):
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
    rows = manifest.read(uri, required=("case_id",))
    if not rows:
        raise UsageError(f"{uri}: no row below its header; expected one a case")
    columns = manifest.kinds_of_columns(uri, rows[0])
    manifest.check_splits(uri, {row.get("split") or "train" for row in rows})
    seen: dict[str, int] = defaultdict(int)
    for row in rows:
        seen[row["case_id"]] += 1
    places = [_places(row, columns, storage.parent_of(uri)) for row in rows]
    refused = {
        place: refusal(place) or storage.problem_of(place)
        for named in places
        for place in named.values()
    }
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
            split = {"split": row["split"]} if row.get("split") else {}
            rejected[case_id] = _rejection(case_id, *problem) | split
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
