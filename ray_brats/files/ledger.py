"""One row a case: tables, the sidecars that say what is finished, and summaries of both.

A sidecar stands beside each case's output and is written after it. It holds the key of
everything the output depends on (input etags, options, stage version); an equal key and all
files in place mean that the work is done and never redone.
"""

from __future__ import annotations

import dataclasses
import glob
import io
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ray_brats.errors import ArtefactError
from ray_brats.files import compact, local, ownership, packed, storage
from ray_brats.files.local import FileInfo
from ray_brats.files.packed import Packed

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
"""Column to value, as tables and JSON hold it."""
_ROWS = 2048
"""Of a table, or of the work, that are looked at together."""
_NUMBER = re.compile(r"(?<![A-Za-z])-?\d[\d.]*(e[+-]?\d+)?")
RETRIED = ("error",)
"""Statuses that are tried again although nothing changed."""


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """What became of one case."""

    case_id: str
    status: str = "ok"
    """`ok`, `rejected`, `filtered` or `error`; see `errors`."""
    reason: str = ""
    file: str = ""
    """URI or name of the file at fault, where a single one is."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Column to value of the stage's own columns."""
    attempts: int | None = None
    seconds: float | None = None
    """What the case took, where that is kept."""

    @property
    def is_failure(self) -> bool:
        """Whether the case is lost; what a recipe's own rule leaves out is not."""
        return self.status in ("rejected", "error")

    def get(self, column: str) -> Any:
        """The value in a column, or None."""
        return getattr(self, column) if column in _OWN_COLUMNS else self.facts.get(column)

    def as_json(self) -> Row:
        """One flat object; `from_json` is the inverse."""
        row: Row = {name: getattr(self, name) for name in _ALWAYS} | dict(self.facts)
        effort = {name: getattr(self, name) for name in _EFFORT}
        return row | {name: value for name, value in effort.items() if value is not None}

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> CaseRow:
        """A row; names and words are kept once for all rows, in half the memory."""
        values = {
            sys.intern(name): sys.intern(value) if isinstance(value, str) else value
            for name, value in row.items()
        }
        own: Row = {name: values.pop(name) for name in _OWN_COLUMNS if name in values}
        return CaseRow(**own, facts=values)


_ALWAYS, _EFFORT = ("case_id", "status", "reason", "file"), ("attempts", "seconds")
_OWN_COLUMNS = (*_ALWAYS, *_EFFORT)


OPTIONAL = {"optional": True}
"""Metadata of a field that the JSON of a `Summary` leaves out where it is None."""
PLACE = {"place": True}
"""Metadata of a field that says where something was written."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a command did; subclasses have what others ask them for, or where they wrote to.

    The fields here are those that are shown to people.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    """Name to JSON value of what only the JSON tells."""
    cases: Sequence[CaseRow] | None = field(default=None, metadata=OPTIONAL)
    checks: Sequence[Mapping[str, str]] | None = field(default=None, metadata=OPTIONAL)
    lines: Sequence[str] | None = field(default=None, metadata=OPTIONAL)
    counts: Mapping[str, int] | None = field(default=None, metadata=OPTIONAL)
    """Status to number of cases."""
    summary: Mapping[str, Any] | None = field(default=None, metadata=OPTIONAL)
    """Content of `summary.json`."""
    original_soft_on_crops: Mapping[str, float] | None = field(default=None, metadata=OPTIONAL)
    """The original project's figures, of probabilities."""
    comparison: Mapping[str, Any] | None = field(default=None, metadata=OPTIONAL)
    """Content of `comparison.json`."""
    all_or_nothing: bool | None = field(default=None, metadata=OPTIONAL)
    """Whether no failure may be allowed."""
    failures: Sequence[CaseRow] = ()

    def places(self) -> dict[str, str]:
        """Name to URI of what was written."""
        values = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.metadata.get("place")
        }
        return {name: uri for name, uri in values.items() if uri is not None}

    def as_json(self) -> Row:
        """One object: what the subclass adds comes first, `failures` last."""
        common = [item.name for item in dataclasses.fields(Summary)]
        values: Row = {}
        for item in sorted(dataclasses.fields(self), key=lambda item: item.name in common):
            value = getattr(self, item.name)
            if item.name == "facts":
                values |= value
            elif value is not None or not item.metadata.get("optional"):
                values[item.name] = _as_json(value)
        return values


def _as_json(value: Any) -> Any:
    if isinstance(value, CaseRow | Summary):
        return value.as_json()
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return list(map(_as_json, value)) if is_list else value


# --- tables ----------------------------------------------------------------------------


class HasColumns(Protocol):
    """What a table takes as a row: a mapping or a `CaseRow`."""

    def get(self, column: str, /) -> Any:
        """The value in a column, or None."""
        ...


def write_table(uri: str, rows: Iterable[HasColumns], columns: Mapping[str, pa.DataType]) -> None:
    """Write rows as Parquet with exactly these columns; absent values are null."""
    # In here, for rows and summaries do without, and it takes long to load.
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, left, tables = pa.schema(list(columns.items())), iter(rows), []
    while some := list(itertools.islice(left, _ROWS)):
        data = {name: [row.get(name) for row in some] for name in columns}
        tables.append(pa.table(data, schema=schema))
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables([schema.empty_table(), *tables]).combine_chunks(), buffer)
    storage.write_if_changed(uri, buffer.getvalue())


def read_table(uri: str, *, required: Iterable[str] = ()) -> list[Row]:
    """The rows of a Parquet table.

    Raises:
        FileNotFoundError: there is none.
        ArtefactError: the file is damaged, or lacks a required column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

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


# --- what is done, and what is left to do ----------------------------------------------


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
    """What stands there from an earlier version, and its sidecar: removed before the task."""

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
            "outputs": json.dumps(list(self.outputs)),
            "stale": json.dumps(list(self.stale)),
        }

    @staticmethod
    def from_row(row: Mapping[str, str]) -> Work:
        """The work a task has to do."""
        nested = {name: json.loads(row[name]) for name in ("payload", "outputs", "stale")}
        return Work(**{**row, **nested, "outputs": tuple(nested["outputs"])})


def finish(item: Work, row: CaseRow, files: Sequence[str]) -> None:
    """Write the sidecar, after the files that it vouches for.

    Their sizes stand in it: a file that a loss of power cut short does not count as finished.
    """
    sizes = {name: storage.local_size(storage.join(item.folder, name)) for name in files}
    sidecar = {"key": item.key, "row": row.as_json(), "files": sizes}
    storage.write_json(item.sidecar_uri, sidecar, synced=False)


def remove_remains(item: Work) -> None:
    """Remove what a process that died at a case left half-written of it.

    Others are writing in the same folder: what is theirs stays.
    """
    if storage.is_remote(item.folder):
        return
    for name in (storage.name_of(item.sidecar_uri), *item.outputs):
        target = Path(storage.join(item.folder, name).removeprefix("file://"))
        local.remove_remains(target.parent.glob(f".{glob.escape(target.name)}.*"))


def finished_row(item: Work) -> CaseRow | None:
    """The row in the sidecar of this very work, or None where it is not done."""
    sidecar = storage.read_json_or_none(item.sidecar_uri)
    if not sidecar or sidecar.get("key") != item.key:
        return None
    return CaseRow.from_json(sidecar["row"])


@dataclass(frozen=True, kw_only=True)
class Output:
    """A folder that a stage fills, and what the stage reads, which it must not write over."""

    uri: str
    description: str
    """Name of the file that is written last."""
    tables: Sequence[str] = ()
    """Names of what is written besides, of no single case."""
    inputs: Iterable[str] = ()
    """URIs of all that the stage reads."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What the note of begun work says besides; see `ownership.begin`."""


@packed.uncollected()
def split_finished(
    work: Iterable[Work], output: Output
) -> tuple[Sequence[CaseRow], Sequence[Work]]:
    """Rows of the finished cases, and the work left to do; one listing of the output.

    The work is looked at once, some at a time, so that its memory does not follow its number.

    What a killed process left half-written is removed. Where something is to be written, that is
    noted as begun: `ownership.end` belongs to the end of the stage.

    Raises:
        UsageError: the work would replace files of somebody else's, or what it reads.
    """
    output_uri = output.uri
    if not storage.is_remote(output_uri):
        local.check_folder(Path(output_uri.removeprefix("file://")))
    files = storage.listing(output_uri)
    sidecars = compact.Sidecars(output_uri, files)
    rows, todo = Packed[CaseRow](), Packed[Work]()
    # Of the cases that are to be done.
    vouching: dict[str, Sequence[str]] = {}
    left = iter(work)
    while some := list(itertools.islice(left, _ROWS)):
        there = {item.sidecar_uri for item in some if item.sidecar_uri in files}
        contents = dict(sidecars.read(sorted(there)))
        for item in some:
            sidecar = contents.get(item.sidecar_uri)
            if sidecar is None or not ownership.is_sidecar(sidecar):
                todo.append(_with_stale(item, (), files))
            elif _holds(sidecar, item, files):
                rows.append(CaseRow.from_json(sidecar["row"]))
            else:
                vouching[item.case_id] = tuple(sidecar["files"])
                todo.append(_with_stale(item, vouching[item.case_id], files))
    sidecars.keep()
    if todo or storage.join(output_uri, output.description) not in files:
        _begin(todo, output, files, vouching, is_known=bool(rows or vouching))
    if not storage.is_remote(output_uri):
        local.remove_remains(Path(uri) for uri in files if uri.endswith(local.REMAINS))
    return rows, todo


def _begin(
    todo: Sequence[Work],
    output: Output,
    files: Mapping[str, FileInfo],
    vouching: Mapping[str, Sequence[str]],
    *,
    is_known: bool,
) -> None:
    """Note the work as begun, where it may be done.

    Args:
        todo: the work.
        output: where it goes.
        files: that are there.
        vouching: case to the files that the sidecar of what is to be done anew names.
        is_known: whether any sidecar is there.
    """
    prefix = output.uri.rstrip("/") + "/"
    uris = {
        uri
        for item in todo
        for uri in (
            item.sidecar_uri,
            # What goes without being written anew is as gone as what is replaced.
            *(storage.join(item.folder, name) for name in {*item.outputs, *item.stale}),
        )
    }
    vouched = set()
    for item in todo:
        if (names := vouching.get(item.case_id)) is not None:
            vouched |= {item.sidecar_uri, *(storage.join(item.folder, name) for name in names)}
    description = storage.join(output.uri, output.description)
    tables = {description, *(storage.join(output.uri, name) for name in output.tables)}
    # A description that is lost alone is written again: the folder is known by its sidecars.
    if (description not in files and is_known) or (
        description in files and _describes(storage.read_json_or_none(description))
    ):
        vouched |= tables
    ownership.begin(
        output.uri,
        (uri.removeprefix(prefix) for uri in uris | tables),
        there=files.keys(),
        vouched=vouched,
        inputs=output.inputs,
        told=output.told,
    )


def _describes(content: Mapping[str, Any] | None) -> bool:
    """Whether a JSON object is what a stage of ours writes last."""
    if content is None:
        return False
    marker = set(content) == {"key"} and isinstance(content["key"], str | None)
    return marker or isinstance(content.get("versions"), dict)


def _with_stale(item: Work, left: Sequence[str], files: Mapping[str, FileInfo]) -> Work:
    """The work, with what is there of `left`, the files of an earlier version, and of its own."""
    names = dict.fromkeys((storage.name_of(item.sidecar_uri), *item.outputs, *left))
    stale = tuple(name for name in names if storage.join(item.folder, name) in files)
    return dataclasses.replace(item, stale=stale) if stale else item


def _holds(sidecar: Mapping[str, Any], item: Work, files: Mapping[str, FileInfo]) -> bool:
    """Whether a sidecar is of this work, and the files are as it says."""
    if sidecar.get("key") != item.key:
        return False
    if sidecar["row"].get("status") in RETRIED or not isinstance(sidecar["files"], dict):
        return False
    there = ((files.get(f"{item.folder}/{name}"), size) for name, size in sidecar["files"].items())
    return all(file and size in (None, file.size_bytes) for file, size in there)


def remarked(remarks: Sequence[str]) -> Row:
    """The fact of a row that holds remarks; none where there are none."""
    return {"remarks": "; ".join(remarks)} if remarks else {}


def remark_lines(rows: Iterable[CaseRow]) -> list[str]:
    """A line for people a kind of remark: its first one, whose it is, and how many have another.

    Remarks that differ in their numbers alone are of one kind: a cohort has a few lines of them.
    """
    first: dict[str, tuple[str, str]] = {}
    count: Counter[str] = Counter()
    for row in rows:
        for remark in filter(None, (row.get("remarks") or "").split("; ")):
            kind = _NUMBER.sub("#", remark)
            first.setdefault(kind, (remark, row.case_id))
            count[kind] += 1
    return [
        f"{remark} ({case_id}"
        + (f", and {count[kind] - 1} more like it)" if count[kind] > 1 else ")")
        for kind, (remark, case_id) in first.items()
    ]


def in_order(*rows: Iterable[CaseRow]) -> Packed[CaseRow]:
    """Rows sorted by case, so that equal work gives equal tables."""
    filled = [some for some in rows if not (isinstance(some, Sequence) and not some)]
    together = filled[0] if len(filled) == 1 else itertools.chain(*filled)
    return packed.in_order(together, lambda row: row.case_id)


def counts(rows: Iterable[CaseRow]) -> dict[str, int]:
    """How many rows have each status, by name."""
    return dict(sorted(Counter(row.status for row in rows).items()))
