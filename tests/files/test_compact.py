"""Sidecars that were read once are not read again, unless they changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_brats.files import compact, storage

COUNT = compact.MANY + 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(COUNT):
        (tmp_path / f"c{number}.json").write_text(json.dumps({"key": f"k{number}"}))
    return tmp_path


@pytest.fixture
def singly(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sidecars that were read one by one."""
    read, names = storage.read_bytes, []

    def counted(uri: str, **options: Any) -> bytes:
        if uri.endswith(".json"):
            names.append(storage.name_of(uri))
        return read(uri, **options)

    monkeypatch.setattr(storage, "read_bytes", counted)
    return names


def found(folder: Path | str) -> dict[str, dict[str, Any]]:
    files = storage.listing(str(folder))
    wanted = [uri for uri in files if uri.endswith(".json")]
    sidecars, contents = compact.Sidecars(str(folder), files), {}
    for at in range(0, len(wanted), 300):
        contents |= dict(sidecars.read(wanted[at : at + 300]))
    sidecars.keep()
    return {storage.name_of(uri): content for uri, content in contents.items()}


def test_what_was_read_is_not_read_again_and_what_changed_is(
    folder: Path, singly: list[str]
) -> None:
    first = found(folder)
    assert len(first) == len(singly) == COUNT
    assert (folder / compact.FILE).exists()
    singly.clear()
    assert found(folder) == first
    assert singly == []
    (folder / "c7.json").write_text('{"key": "another"}')
    (folder / "c8.json").unlink()
    (folder / "new.json").write_text('{"key": "new"}')
    again = found(folder)
    assert sorted(singly) == ["c7.json", "new.json"]
    assert again == {name: first[name] for name in first if name != "c8.json"} | {
        "c7.json": {"key": "another"},
        "new.json": {"key": "new"},
    }


def test_few_sidecars_need_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "binary.json").write_bytes(b"\xff")
    assert found(tmp_path) == {"a.json": {}}
    assert not (tmp_path / compact.FILE).exists()


def test_a_file_of_somebody_elses_is_left_alone(folder: Path, singly: list[str]) -> None:
    (folder / compact.FILE).write_bytes(b"mine")
    assert len(found(folder)) == len(found(folder)) == COUNT
    assert len(singly) == 2 * COUNT
    assert (folder / compact.FILE).read_bytes() == b"mine"


def test_where_it_cannot_be_written_nothing_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(storage, "write_bytes", refuses)
    assert len(found(folder)) == COUNT


def test_in_a_bucket_etags_tell_what_changed(
    bucket: str, singly: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "MANY", 5)
    for number in range(6):
        storage.write_bytes(f"{bucket}/out/c{number}.json", f'{{"key": "{number}"}}'.encode())
    first = found(f"{bucket}/out")
    singly.clear()
    assert found(f"{bucket}/out") == first
    assert singly == []
    storage.write_bytes(f"{bucket}/out/c3.json", b'{"key": "x"}')
    assert found(f"{bucket}/out")["c3.json"] == {"key": "x"}
    assert singly == ["c3.json"]
