"""CSV files that describe cohorts and splits: a header with known names, a row a case.

Semicolons and tabs are as good as commas.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ray_brats.cases import naming
from ray_brats.cases.case import Case, Cohort, Guard, case_of, rejection
from ray_brats.cases.naming import ALIASES, MODALITIES, SEGMENTATION
from ray_brats.errors import UsageError
from ray_brats.files import channels, storage
from ray_brats.files.ledger import CaseRow
from ray_brats.files.local import FileInfo

ENDINGS = (".csv", ".tsv")
DELIMITERS = (",", ";", "\t")


def read(
    uri: str, *, required: Sequence[str], guard: Guard | None = None, is_exact: bool = False
) -> list[dict[str, str]]:
    """Rows of a CSV; `UsageError` where it is absent, too much or lacks a required column.

    Args:
        is_exact: refuse rows of more cells than the header has, which others leave out.
    """
    guard = guard or Guard()
    try:
        most = guard.most_bytes
        content = storage.read_bytes(uri, end=None if most is None else most + 1)
        guard.check(uri, bytes=len(content))
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"{uri}: no such file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri}: not a text file in UTF-8") from error
    if "\0" in text:
        raise UsageError(f"{uri}: not a text file: it holds a NUL byte")
    first = text.split("\n", 1)[0]
    # A spreadsheet writes what its user's country takes for a comma.
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.DictReader(
        io.StringIO(text), restval="", delimiter=delimiter, skipinitialspace=True
    )
    try:
        names = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        guard.check(uri, columns=len(names))
        stop = None if guard.most_rows is None else guard.most_rows + 1
        rows = list(itertools.islice(reader, stop))
        guard.check(uri, rows=len(rows))
    except csv.Error as error:
        raise UsageError(f"{uri}: not a CSV ({error})") from error
    if is_exact and (wide := [row for row in rows if any(row.get(None) or ())]):
        cells = ", ".join(filter(None, [*list(wide[0].values())[:1], "…"]))
        raise UsageError(f"{uri}: the row {cells} has more cells than the header")
    missing = [name for name in required if name not in names]
    if missing:
        has = f"it has {', '.join(names)}" if names else "it is empty"
        raise UsageError(f"{uri}: no column {', '.join(missing)}; {has}")
    return [{key: (value or "").strip() for key, value in row.items() if key} for row in rows]


def check_splits(uri: str, splits: set[str]) -> None:
    """Refuse a CSV that names another subset than `train`, `val` and `test`."""
    wrong = sorted(splits - set(naming.SPLITS))
    if wrong:
        raise UsageError(f"{uri}: split {wrong[0]!r} is none of {', '.join(naming.SPLITS)}")


def kinds_of_columns(uri: str, names: Iterable[str]) -> dict[str, str]:
    """Column to what it holds: a modality, `seg`, or its own name in lower case."""
    columns = {name: ALIASES.get(name.lower(), name.lower()) for name in names}
    for kind in (*MODALITIES, SEGMENTATION):
        same = [name for name, meant in columns.items() if meant == kind]
        if len(same) > 1:
            raise UsageError(f"{uri}: {', '.join(same)}: one column too many for {kind}")
    if not set(columns.values()) & set(MODALITIES):
        raise UsageError(f"{uri}: no column is named after a modality ({', '.join(MODALITIES)})")
    return columns


def read_cohort(uri: str, guard: Guard) -> Cohort:
    """The cases that a CSV describes; its files are looked at, not opened.

    Args:
        uri: the CSV: `case_id`, a column a modality, and `seg`, `patient_id`, `grade`, `split`.
            A file may be a channel of a 4-D file, `FILE.nii.gz#0`.
        guard: what it may be and name.

    Raises:
        UsageError: no such CSV, no row in it, or columns that do not tell what they hold.
    """
    rows = read(uri, required=("case_id",), guard=guard)
    if not rows:
        raise UsageError(f"{uri}: no row below its header; expected one a case")
    columns = kinds_of_columns(uri, rows[0])
    check_splits(uri, {row.get("split") or "train" for row in rows})
    notes = naming.notes_on_names(row["case_id"] for row in rows)
    rows = [{**row, "case_id": _id_of(row["case_id"])} for row in rows]
    counts = Counter(row["case_id"] for row in rows)
    places = [_places(row, columns, storage.parent_of(uri)) for row in rows]
    reasons = {
        file: guard.refusal(file) or storage.problem_of(file)
        for files in places
        for file in map(channels.file_of, files.values())
    }
    infos = storage.file_infos(file for file, reason in reasons.items() if reason is None)
    cases: list[Case] = []
    rejected: dict[str, CaseRow] = {}
    for row, files in zip(rows, places, strict=True):
        case_id = row["case_id"]
        problem = naming.problem_of_id(case_id)
        if not problem and counts[case_id] > 1:
            problem = (f"two cases of one name: {case_id} stands {counts[case_id]} times", uri)
        refused = (
            (reason, place)
            for place in files.values()
            if (reason := reasons[channels.file_of(place)])
        )
        problem = problem or next(refused, None)
        if problem:
            rejected[case_id] = rejection(case_id, *problem, split=row.get("split"))
            continue
        cases.append(
            case_of(
                case_id,
                {kind: _info(place, infos) for kind, place in files.items()},
                patient_id=row.get("patient_id") or None,
                grade=row.get("grade") or None,
                split=row.get("split") or None,
            )
        )
    return Cohort(uri=uri, cases=tuple(cases), rejected=tuple(rejected.values()), notes=notes)


def _id_of(name: str) -> str:
    """The case's id; a name that can be none stays, and is rejected by it."""
    return name if naming.problem_of_name(name) else naming.id_of_name(name)


def _places(row: Mapping[str, str], columns: Mapping[str, str], base: str) -> dict[str, str]:
    """Kind to URI of the files that a row names; relative ones lie beside the CSV."""
    return {
        columns[name]: storage.absolute(value if _is_absolute(value) else f"{base}/{value}")
        for name, value in row.items()
        if value and columns[name] in (*MODALITIES, SEGMENTATION)
    }


def _info(place: str, infos: Mapping[str, FileInfo]) -> FileInfo:
    """What is known of a file, or of a channel of it."""
    file, channel = channels.split(place)
    info = infos.get(file) or FileInfo(uri=file, size_bytes=0, etag="")
    return info if channel is None else channels.of(info, channel)


def _is_absolute(value: str) -> bool:
    return value.startswith(("/", "~", "file://")) or storage.is_remote(value)
