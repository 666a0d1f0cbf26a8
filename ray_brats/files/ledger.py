"""One row a case: Parquet tables, and the sidecars that say what is finished.

A sidecar stands beside each case's output and is written after it. It holds the key of
everything the output depends on (input etags, options, stage version); an equal key and all
files in place mean that the work is done and never redone.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_brats.errors import ArtefactError
from ray_brats.files import local, storage

Row = dict[str, Any]
RETRIED = ("error",)
"""Statuses that are tried again although nothing changed."""


def write_table(
    uri: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, pa.DataType]
) -> None:
    """Write rows as Parquet with exactly these columns; absent values are null."""
    data = {name: [row.get(name) for row in rows] for name in columns}
    buffer = io.BytesIO()
    pq.write_table(pa.table(data, schema=pa.schema(list(columns.items()))), buffer)
    storage.write_if_changed(uri, buffer.getvalue())


def read_table(uri: str, *, required: Iterable[str] = ()) -> list[Row]:
    """The rows of a Parquet table.

    Raises:
        FileNotFoundError: there is none.
        ArtefactError: the file is damaged, or lacks a required column.
    """
    content = storage.read_bytes(uri)
    try:
        # With threads, a process that ends soon afterwards aborts (pyarrow 26).
        table = pq.read_table(io.BytesIO(content), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ArtefactError(
            f"{uri} is no Parquet table ({error}): delete it and run the stage again"
        ) from error
    lacking = [name for name in required if name not in table.column_names]
    if lacking:
        raise ArtefactError(
            f"{uri} has no column {', '.join(lacking)}: delete it and run the stage again"
        )
    rows: list[Row] = table.to_pylist()
    return rows


@dataclass(frozen=True, kw_only=True)
class Work:
    """One case to be done: where its sidecar stands, and what its output depends on."""

    case_id: str
    sidecar_uri: str
    key: str
    payload: Mapping[str, Any]
    """What the task needs, as JSON values."""
    outputs: Sequence[str] = ()
    """Names, below the sidecar's folder, of all files that the task may write."""
    stale: Sequence[str] = ()
    """Those that stand there from an earlier version, and its sidecar: removed before the task."""

    @property
    def folder(self) -> str:
        """Where the sidecar and the outputs stand."""
        return storage.parent_of(self.sidecar_uri)

    def as_row(self) -> dict[str, str]:
        """A flat row, so that Arrow never has to guess a nested type; `from_row` is inverse."""
        return {
            "case_id": self.case_id,
            "sidecar_uri": self.sidecar_uri,
            "key": self.key,
            "payload": json.dumps(self.payload),
            "stale": json.dumps(list(self.stale)),
        }

    @staticmethod
    def from_row(row: Mapping[str, str]) -> Work:
        """The work a task has to do."""
        nested = {name: json.loads(row[name]) for name in ("payload", "stale")}
        return Work(**{**row, **nested})


def parse_row(text: str) -> Row:
    """A row from JSON; names and words are kept once for all rows, in half the memory."""
    return {
        sys.intern(name): sys.intern(value) if isinstance(value, str) else value
        for name, value in json.loads(text).items()
    }


def finish(sidecar_uri: str, key: str, row: Row, files: Sequence[str]) -> None:
    """Write the sidecar, after the files that it vouches for.

    Their sizes stand in it: a file that a loss of power cut short does not count as finished.
    """
    folder = storage.parent_of(sidecar_uri)
    sizes = {name: storage.local_size(storage.join(folder, name)) for name in files}
    storage.write_json(sidecar_uri, {"key": key, "row": row, "files": sizes}, synced=False)


def finished_row(item: Work) -> Row | None:
    """The row in the sidecar of this very work, or None where it is not done."""
    sidecar = storage.read_json_or_none(item.sidecar_uri)
    return sidecar["row"] if sidecar and sidecar.get("key") == item.key else None


def split_finished(work: Sequence[Work], output_uri: str) -> tuple[list[Row], list[Work]]:
    """Rows of the finished cases, and the work left to do; one listing of the output.

    What a killed process left half-written is removed.
    """
    there = {file.uri: file.size_bytes for file in storage.list_files(output_uri)}
    if not storage.is_remote(output_uri):
        local.remove_remains(Path(uri) for uri in there)
    candidates = [item for item in work if item.sidecar_uri in there]
    with ThreadPoolExecutor(16) as pool:
        sidecars = pool.map(storage.read_json_or_none, (item.sidecar_uri for item in candidates))
        rows = {
            item.case_id: sidecar["row"]
            for item, sidecar in zip(candidates, sidecars, strict=True)
            if sidecar and _holds(sidecar, item, there)
        }
    todo = [_with_stale(item, there) for item in work if item.case_id not in rows]
    return list(rows.values()), todo


def _with_stale(item: Work, there: Mapping[str, int]) -> Work:
    names = (storage.name_of(item.sidecar_uri), *item.outputs)
    stale = tuple(name for name in names if storage.join(item.folder, name) in there)
    return dataclasses.replace(item, stale=stale) if stale else item


def _holds(sidecar: Mapping[str, Any], item: Work, there: Mapping[str, int]) -> bool:
    if sidecar.get("key") != item.key:
        return False
    if sidecar["row"].get("status") in RETRIED or not isinstance(sidecar["files"], dict):
        return False
    sizes = {storage.join(item.folder, name): size for name, size in sidecar["files"].items()}
    return all(uri in there and size in (None, there[uri]) for uri, size in sizes.items())


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows sorted by case, so that equal work gives equal tables."""
    return sorted(rows, key=lambda row: row["case_id"])


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows have each status, by name."""
    found: dict[str, int] = {}
    for row in rows:
        found[row["status"]] = found.get(row["status"], 0) + 1
    return dict(sorted(found.items()))
