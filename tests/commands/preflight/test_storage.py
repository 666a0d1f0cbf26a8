"""Storage that works, storage that refuses, storage that does not answer."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ray_brats.commands.preflight import storage as probe
from ray_brats.files import storage


def statuses(uri: str, **options: float) -> list[str]:
    return [row["status"] for row in probe.checks(uri, **options)]


def test_a_folder_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    assert statuses(str(tmp_path)) == ["ok", "ok"]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_said_and_goes_again(tmp_path: Path) -> None:
    found = [row["found"] for row in probe.checks(str(tmp_path / "mistyped"))]
    assert found[0].startswith("no such folder yet")
    assert not list(tmp_path.iterdir())


def test_a_bucket_is_written_and_left_as_it_was(bucket: str) -> None:
    assert statuses(f"{bucket}/out") == ["ok", "ok"]
    assert storage.list_files(bucket) == []


def test_a_bucket_that_is_not_there_fails_with_a_remedy(bucket: str) -> None:
    (row,) = probe.checks("s3://no-such-bucket-here/out")
    assert row["status"] == "fail"
    assert "AWS_ENDPOINT_URL" in row["remedy"]
    assert bucket


def test_a_path_below_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        (row,) = probe.checks(str(place))
        assert row["status"] == "fail"
        assert "file is a file; expected a folder there" in row["found"]
        assert row["remedy"]


def test_storage_without_conditional_puts_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "create", lambda uri, content: True)
    assert statuses(str(tmp_path)) == ["ok", "warn"]


def test_storage_that_does_not_answer_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    monkeypatch.setattr(storage, "write_bytes", lambda uri, content: held.wait(60))
    (row,) = probe.checks(str(tmp_path), limit_seconds=0.2)
    held.set()
    assert row["status"] == "fail"
    assert "no answer" in row["found"]


def test_an_unknown_protocol_fails_with_a_sentence() -> None:
    (row,) = probe.checks("nosuch://bucket/out")
    assert row["status"] == "fail"


def test_a_folder_that_was_not_there_is_none_afterwards(tmp_path: Path) -> None:
    assert statuses(str(tmp_path / "typo" / "deep")) == ["ok", "ok"]
    assert not list(tmp_path.iterdir())
