"""One row a case: Parquet tables, and the sidecars that say what is finished.

A sidecar stands beside each case's output and is written after it. It holds the key of
everything the output depends on (input etags, options, stage version); an equal key and all
files in place mean that the work is done and never redone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_brats import storage

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


def read_table(uri: str) -> list[Row]:
    """The rows of a Parquet table; `FileNotFoundError` where there is none."""
    rows: list[Row] = pq.read_table(io.BytesIO(storage.read_bytes(uri))).to_pylist()
    return rows


@dataclass(frozen=True, kw_only=True)
class Work:
    """One case to be done: where its sidecar stands, and what its output depends on."""

    case_id: str
    sidecar_uri: str
    key: str
    payload: Mapping[str, Any]
    """What the task needs, as JSON values."""

    def as_row(self) -> dict[str, str]:
        """A flat row, so that Arrow never has to guess a nested type."""
        return {
            "case_id": self.case_id,
            "sidecar_uri": self.sidecar_uri,
            "key": self.key,
            "payload": json.dumps(self.payload),
        }


def finish(sidecar_uri: str, key: str, row: Row, files: Sequence[str]) -> None:
    """Write the sidecar, after the files that it vouches for."""
    storage.write_json(sidecar_uri, {"key": key, "row": row, "files": sorted(files)})


def split_finished(work: Sequence[Work], output_uri: str) -> tuple[list[Row], list[Work]]:
    """Rows of the finished cases, and the work left to do; one listing of the output."""
    there = {file.uri for file in storage.list_files(output_uri)}
    candidates = [item for item in work if item.sidecar_uri in there]
    with ThreadPoolExecutor(16) as pool:
        sidecars = pool.map(storage.read_json_or_none, (item.sidecar_uri for item in candidates))
        rows = {
            item.case_id: sidecar["row"]
            for item, sidecar in zip(candidates, sidecars, strict=True)
            if sidecar and _holds(sidecar, item, there)
        }
    return list(rows.values()), [item for item in work if item.case_id not in rows]


def _holds(sidecar: Mapping[str, Any], item: Work, there: set[str]) -> bool:
    if sidecar.get("key") != item.key:
        return False
    if sidecar["row"].get("status") in RETRIED:
        return False
    folder = item.sidecar_uri.rsplit("/", 1)[0]
    return all(storage.join(folder, name) in there for name in sidecar["files"])


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows sorted by case, so that equal work gives equal tables."""
    return sorted(rows, key=lambda row: row["case_id"])


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows have each status, by name."""
    found: dict[str, int] = {}
    for row in rows:
        found[row["status"]] = found.get(row["status"], 0) + 1
    return dict(sorted(found.items()))
