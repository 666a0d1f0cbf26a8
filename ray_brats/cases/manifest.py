"""CSV files that describe cohorts and splits: a header with known names, a row a case."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from ray_brats.cases import naming
from ray_brats.cases.naming import ALIASES, MODALITIES, SEGMENTATION
from ray_brats.errors import UsageError
from ray_brats.files import storage


def read(uri: str, *, required: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV; `UsageError` where it is absent or lacks a required column."""
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"{uri}: no such file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri}: not a text file in UTF-8") from error
    if "\0" in text:
        raise UsageError(f"{uri}: not a text file: it holds a NUL byte")
    reader = csv.DictReader(io.StringIO(text), restval="")
    try:
        names, rows = reader.fieldnames or (), list(reader)
    except csv.Error as error:
        raise UsageError(f"{uri}: not a CSV ({error})") from error
    missing = [name for name in required if name not in names]
    if missing:
        has = f"it has {', '.join(names)}" if names else "it is empty"
        raise UsageError(f"{uri}: no column {', '.join(missing)}; {has}")
    return [{key: (value or "").strip() for key, value in row.items() if key} for row in rows]


def check_splits(uri: str, found: set[str]) -> None:
    """Raises `UsageError` where a CSV names a subset that there is none of."""
    wrong = sorted(found - set(naming.SPLITS))
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
