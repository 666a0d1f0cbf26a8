"""The ledger's tables: whole, or an error that says what to do."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from ray_brats.errors import ArtefactError
from ray_brats.files import ledger, storage
from ray_brats.files.ledger import CaseRow, Output, Summary, Work
from ray_brats.model import card

ROWS = [{"case_id": "a", "status": "ok"}, {"case_id": "b", "status": "error"}]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "cases.parquet"
    ledger.write_table(str(path), ROWS, {"case_id": pa.string(), "status": pa.string()})
    return path


def test_a_table_gives_back_its_rows(table: Path) -> None:
    assert ledger.read_table(str(table), required=("case_id", "status")) == ROWS


def test_rows_share_their_names_and_words() -> None:
    texts = [f'{{"case_id": "a", "status": "ok!", "n": {n}}}' for n in range(2)]
    first, second = (CaseRow.from_json(json.loads(text)) for text in texts)
    assert (first.facts, second.facts) == ({"n": 0}, {"n": 1})
    assert first.status is second.status
    assert all(a is b for a, b in zip(first.facts, second.facts, strict=True))


def test_a_row_is_one_flat_object_and_comes_back() -> None:
    row = CaseRow(case_id="a", status="error", reason="r", file="f", facts={"wt_ml": 1.5})
    flat = {"case_id": "a", "status": "error", "reason": "r", "file": "f", "wt_ml": 1.5}
    assert row.as_json() == flat, "no effort where none was kept"
    timed = dataclasses.replace(row, attempts=2, seconds=0.5)
    assert timed.as_json() == {**flat, "attempts": 2, "seconds": 0.5}
    for given in (row, timed):
        assert CaseRow.from_json(given.as_json()) == given
    assert [timed.get(name) for name in ("file", "attempts", "wt_ml", "et_ml")] == [
        *("f", 2, 1.5, None)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told(Summary):
    """A stage's."""

    out: str = dataclasses.field(metadata=ledger.PLACE)
    submission: str | None = dataclasses.field(metadata=ledger.PLACE)
    first: Summary
    measured: int | None = dataclasses.field(default=None, metadata=ledger.OPTIONAL)


def test_a_summary_is_one_object_of_what_there_is_to_tell() -> None:
    row = CaseRow(case_id="a", status="error")
    inner = Summary(counts={"ok": 1}, failures=[row])
    told = Told(out="o", submission=None, first=inner, facts={"x": 1})
    assert told.as_json() == {
        "out": "o",
        "submission": None,
        "first": {"counts": {"ok": 1}, "failures": [row.as_json()]},
        "x": 1,
        "failures": [],
    }
    assert told.places() == {"out": "o"}
    assert dataclasses.replace(told, measured=0).as_json()["measured"] == 0


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_damaged_table_is_named(table: Path, kept: float) -> None:
    content = table.read_bytes()
    table.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ArtefactError, match=r"cases\.parquet is no Parquet table .* delete it"):
        ledger.read_table(str(table))


def test_a_table_of_something_else_is_named(table: Path) -> None:
    with pytest.raises(ArtefactError, match="no column split"):
        ledger.read_table(str(table), required=("case_id", "split"))


@pytest.mark.parametrize("content", ["{}", '{"recipe": 1}', "[1]", "{", ""])
def test_a_description_of_something_else_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(content)
    with pytest.raises(ArtefactError, match=r"dataset\.json .* delete it and run the stage again"):
        storage.read_json(str(path), required=("recipe", "preprocess"))


def test_a_card_that_lacks_something_is_named(tmp_path: Path) -> None:
    version = card.FORMAT_VERSION
    (tmp_path / card.CARD).write_text(f'{{"format_version": {version}, "recipe": {{}}}}')
    with pytest.raises(ArtefactError, match="lacks sha256"):
        card.read(str(tmp_path))


def test_a_process_that_read_a_table_ends_well(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.parquet")
    ledger.write_table(uri, [{"a": "x"}], {"a": pa.string()})
    code = f"from ray_brats.files import ledger; ledger.read_table({uri!r})"
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], check=True)


def test_remarks_that_differ_in_numbers_alone_are_one_line() -> None:
    rows = [
        CaseRow(
            case_id=f"c{n}", facts=ledger.remarked([f"t2: its background is -{n}.5e-05", "odd"])
        )
        for n in range(1, 4)
    ]
    rows.append(CaseRow(case_id="d", facts=ledger.remarked(["t1ce: its background is 7"])))
    assert ledger.remark_lines([*rows, CaseRow(case_id="plain")]) == [
        "t2: its background is -1.5e-05 (c1, and 2 more like it)",
        "odd (c1, and 2 more like it)",
        "t1ce: its background is 7 (d)",
    ]


@pytest.mark.parametrize("together", [1, 2, 3, 100])
def test_what_is_finished_is_found_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(ledger, "_ROWS", together)
    output = Output(uri=str(tmp_path), description="done.json")
    work = [
        Work(case_id=name, sidecar_uri=f"{tmp_path}/{name}.json", key=name, payload={"n": 1})
        for name in ("g", "a", "c", "b", "e", "d", "f")
    ]
    assert ledger.split_finished(work, output) == ([], work)
    for item in work[1:]:
        (tmp_path / f"{item.case_id}.bin").write_bytes(b"123")
        ledger.finish(item, CaseRow(case_id=item.case_id), [f"{item.case_id}.bin"])
    (tmp_path / "b.bin").write_bytes(b"12")
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.bin").unlink()
    (tmp_path / ".e.bin.0123abcd.tmp").write_bytes(b"1")
    work[6] = dataclasses.replace(work[6], key="another")
    finished, todo = ledger.split_finished(iter(work), output)
    assert finished == [CaseRow(case_id="a"), CaseRow(case_id="e")]
    assert [(item.case_id, item.stale) for item in todo] == [
        ("g", ()),
        ("c", ("c.json",)),
        ("b", ("b.json", "b.bin")),
        ("d", ("d.json",)),
        ("f", ("f.json", "f.bin")),
    ]
    assert not list(tmp_path.glob(".*.tmp"))
