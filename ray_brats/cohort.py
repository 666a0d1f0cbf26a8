"""Cohorts: which cases a folder, prefix or CSV holds, and what cannot be one.

Finding looks at names only; no image is opened here. One listing gives the names and the
etags of all files. What a name means (modality, release, patient) is decided here alone.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_brats import labels, storage
from ray_brats.errors import UsageError
from ray_brats.storage import FileInfo

MODALITIES = ("t1", "t1ce", "t2", "flair")
SEGMENTATION = "seg"
ALIASES = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", "t1gd": "t1ce"}

CASE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_FILE = re.compile(
    r"(?P<case>.+)[_-](?P<kind>t1ce|t1gd|t1n|t1c|t1|t2w|t2f|t2|flair|seg)\.nii(\.gz)?",
    re.IGNORECASE,
)
# BraTS 2020, training case 355: its segmentation kept the name it had before the release.
_CASE_355 = ("BraTS20_Training_355", "W39_1998.09.19_Segm.nii")

_RELEASES = (
    (re.compile(r"BraTS-(GLI|SSA|MET|MEN|PED)-", re.IGNORECASE), "brats2023"),
    (re.compile(r"BraTS2021_", re.IGNORECASE), "brats2021"),
    (re.compile(r"BraTS20_", re.IGNORECASE), "brats2020"),
    (re.compile(r"BraTS19_", re.IGNORECASE), "brats2019"),
    (re.compile(r"BraTS18_", re.IGNORECASE), "brats2018"),
)
_PATIENT_RULES = (
    # The last group is the time point (2023) or the number of the scan (2018, 2019).
    re.compile(r"(?P<patient>BraTS-[A-Z]+-\d+)-\d+", re.IGNORECASE),
    re.compile(r"(?P<patient>BraTS1[89]_.+)_\d+", re.IGNORECASE),
)
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
    release: str | None = None
    grade: str | None = None
    split: str | None = None

    def as_row(self) -> dict[str, Any]:
        """Plain values, for a Ray Data row; `from_row` is the inverse."""
        return dataclasses.asdict(self)

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


def find(uri: str, *, release: str | None = None) -> Cohort:
    """All cases below a folder or prefix, or in a CSV.

    Args:
        uri: folder, `s3://` prefix, or a CSV with `case_id` and one URI column per modality.
        release: what the labels mean, where the names do not tell or tell wrongly.

    Raises:
        UsageError: nothing there, no case in it, or several releases mixed.
    """
    uri = storage.absolute(uri)
    if release is not None:
        labels.check_release(release)
    if uri.endswith(".csv"):
        cohort = _from_csv(uri)
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
    notes = []
    for file in files:
        name = storage.name_of(file.uri)
        match = _FILE.fullmatch(name)
        if match:
            kind = match["kind"].lower()
            found[match["case"]][ALIASES.get(kind, kind)].append(file)
        elif name.removesuffix(".gz") == _CASE_355[1]:
            found[_CASE_355[0]][SEGMENTATION].append(file)
            notes.append(f"{_CASE_355[0]}: segmentation recovered from {name}")
    cases, rejected = [], []
    for case_id, kinds in sorted(found.items()):
        problem = _problem_of_id(case_id) or _several_files(kinds)
        if problem:
            rejected.append(_rejection(case_id, *problem))
            continue
        infos = {kind: items[0] for kind, items in kinds.items()}
        cases.append(_case(case_id, infos, grade=_grade(next(iter(infos.values())).uri)))
    return Cohort(uri=uri, cases=tuple(cases), rejected=tuple(rejected), notes=tuple(notes))


def _problem_of_id(case_id: str) -> tuple[str, str] | None:
    if CASE_ID.fullmatch(case_id) and case_id not in (".", ".."):
        return None
    return (
        "the name cannot be a file name on every system: expected 1–128 letters, digits, "
        "'.', '_' or '-', and neither '.' nor '..'",
        "",
    )


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
        patient_id=patient_id or patient_of(case_id),
        images={kind: files[kind].uri for kind in MODALITIES if kind in files},
        segmentation=segmentation.uri if segmentation else None,
        etags={file.uri: file.etag for file in files.values()},
        release=release_of(case_id),
        grade=grade,
        split=split,
    )


def patient_of(case_id: str) -> str:
    """Who was scanned, by the release's own naming; the case itself where it does not tell."""
    for rule in _PATIENT_RULES:
        match = rule.fullmatch(case_id)
        if match:
            return match["patient"]
    return case_id


def release_of(case_id: str) -> str | None:
    """The release that names its cases so, or None."""
    return next((release for rule, release in _RELEASES if rule.match(case_id)), None)


def _grade(uri: str) -> str | None:
    return next((part for part in uri.split("/") if part in ("HGG", "LGG")), None)


def _with_release(cohort: Cohort, release: str | None) -> Cohort:
    if release is None:
        named = sorted({case.release for case in cohort.cases if case.release})
        if len(named) > 1:
            raise UsageError(
                f"{cohort.uri} mixes {' and '.join(named)}, whose labels differ in meaning: "
                "pass the folder of one release, or --release if the names mislead"
            )
        release = named[0] if named else None
    cases = tuple(dataclasses.replace(case, release=release) for case in cohort.cases)
    return dataclasses.replace(cohort, cases=cases)


def _from_csv(uri: str) -> Cohort:
    rows = read_csv(uri, required=("case_id",))
    columns = {name: ALIASES.get(name.lower(), name.lower()) for name in rows[0]} if rows else {}
    if rows and not set(columns.values()) & set(MODALITIES):
        raise UsageError(f"{uri}: no column is named after a modality ({', '.join(MODALITIES)})")
    base = uri.rsplit("/", 1)[0]
    seen: dict[str, int] = defaultdict(int)
    for row in rows:
        seen[row["case_id"]] += 1
    cases: list[Case] = []
    rejected: list[dict[str, str]] = []
    for row in rows:
        case_id = row["case_id"]
        problem = _problem_of_id(case_id)
        if not problem and seen[case_id] > 1:
            problem = (f"two cases of one name: {case_id} stands {seen[case_id]} times", uri)
        if problem:
            if case_id not in {item["case_id"] for item in rejected}:
                rejected.append(_rejection(case_id, *problem))
            continue
        files = {
            kind: _file_info(value if _is_absolute(value) else storage.join(base, value))
            for name, value in row.items()
            if value and (kind := columns[name]) in (*MODALITIES, SEGMENTATION)
        }
        cases.append(
            _case(
                case_id,
                files,
                patient_id=row.get("patient_id") or None,
                grade=row.get("grade") or None,
                split=row.get("split") or None,
            )
        )
    return Cohort(uri=uri, cases=tuple(cases), rejected=tuple(rejected))


def _is_absolute(value: str) -> bool:
    return value.startswith("/") or storage.is_remote(value)


def _file_info(uri: str) -> FileInfo:
    listed = storage.list_files(uri)
    return listed[0] if listed else FileInfo(uri=uri, size_bytes=0, etag="")


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
