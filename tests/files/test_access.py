"""Who requests to S3 come from, decided once: on a real endpoint, and by what a process is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import s3fs
from faulty_s3 import FaultyS3

from ray_brats.errors import UsageError
from ray_brats.files import access, storage

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def bucket(faulty_bucket: str) -> str:
    return faulty_bucket


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that has no credentials and was told nothing."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # What is set here goes with the test.
    monkeypatch.setenv(access.ANONYMOUS, "")
    monkeypatch.setattr(access, "_credentials", access._Credentials())


def test_what_anybody_may_read_is_read_unsigned_and_that_is_said(
    bucket: str, endpoint: FaultyS3, nobody: None, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.signed.clear()
    for _ in range(2):
        storage.list_files(f"{bucket}/cohort")
    assert endpoint.signed == {False}
    told = capsys.readouterr().err
    assert told.count("nothing is signed from here on (AWS_ANONYMOUS=1)") == 1
    assert access.for_workers()[access.ANONYMOUS] == "1"


def test_a_place_that_is_not_anybodys_is_a_sentence_and_decides_nothing(
    bucket: str,
    endpoint: FaultyS3,
    nobody: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint.private = True
    with pytest.raises(PermissionError, match="no credentials for S3 were found") as caught:
        storage.read_bytes(f"{bucket}/secret")
    assert "--anonymous" in str(caught.value)
    assert access.told() is None
    # As in a pod whose token is mounted after its first look.
    for name in KEYS:
        monkeypatch.setenv(name, "test")
    for use in (
        lambda: storage.write_bytes(f"{bucket}/late", b"x"),
        lambda: storage.list_files(bucket),
        lambda: storage.read_bytes(f"{bucket}/late"),
        lambda: storage.exists(f"{bucket}/late"),
        lambda: storage.delete(f"{bucket}/late"),
    ):
        endpoint.signed.clear()
        use()
        assert endpoint.signed == {True}


def test_a_worker_that_was_told_to_sign_never_goes_on_unsigned(
    bucket: str, endpoint: FaultyS3, nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(access.ANONYMOUS, "0")
    endpoint.signed.clear()
    # The service that gives out credentials did not answer in time.
    for _ in range(2):
        with pytest.raises(PermissionError, match="no credentials"):
            storage.list_files(bucket)
    assert endpoint.signed == set()
    for name in KEYS:
        monkeypatch.setenv(name, "test")
    storage.list_files(bucket)
    assert endpoint.signed == {True}


def test_who_asks_for_it_signs_nothing_whatever_credentials_there_are(
    bucket: str, endpoint: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(access.ANONYMOUS, "yes")
    endpoint.signed.clear()
    storage.list_files(bucket)
    assert endpoint.signed == {False}


def test_workers_are_told_to_sign_where_nothing_else_was_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(access.ANONYMOUS, raising=False)
    monkeypatch.setenv("AWS_METADATA_SERVICE_TIMEOUT", "9")
    told = access.for_workers()
    assert told[access.ANONYMOUS] == "0"
    assert (told["AWS_METADATA_SERVICE_NUM_ATTEMPTS"], told["AWS_METADATA_SERVICE_TIMEOUT"]) == (
        "5", "9",
    )  # fmt: skip
    assert access.ANONYMOUS not in os.environ


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(access.ANONYMOUS, "perhaps")
    with pytest.raises(UsageError, match="AWS_ANONYMOUS=perhaps: expected 1"):
        access.told()


def test_an_endpoint_that_is_not_there_is_a_sentence_also_for_nobody(
    nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    # Those of before are connected to the other endpoint.
    monkeypatch.setattr(s3fs.S3FileSystem, "_cache", {})
    for use in (storage.list_files, storage.read_bytes, storage.exists):
        with pytest.raises(OSError, match=r"127\.0\.0\.1:9"):
            use("s3://nobucket/x")
    monkeypatch.setenv(access.ANONYMOUS, "perhaps")
    with pytest.raises(UsageError, match="AWS_ANONYMOUS=perhaps"):
        storage.list_files("s3://nobucket/x")
