"""The ledger's tables: whole, or an error that says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from ray_brats.errors import ArtefactError
from ray_brats.files import ledger, storage
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
    first, second = (ledger.parse_row(f'{{"status": "ok", "n": {n}}}') for n in range(2))
    assert (first, second) == ({"status": "ok", "n": 0}, {"status": "ok", "n": 1})
    assert first["status"] is second["status"]
    assert all(a is b for a, b in zip(first, second, strict=True))


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
