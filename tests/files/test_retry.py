"""Attempts: what is tried again, what is not, and what a case leaves behind."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import pytest

from ray_brats.errors import CaseFailed, CaseFiltered, CaseRejected
from ray_brats.files import ledger, retry, storage
from ray_brats.files.ledger import CaseRow, Work


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for; none is made."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def work(folder: Path, **values: object) -> Work:
    return Work(case_id="a", sidecar_uri=f"{folder}/a.json", key="k", payload={}, **values)  # type: ignore[arg-type]


class Failing:
    """A task that fails with each of the errors in turn, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self, item: Work) -> tuple[CaseRow, list[str]]:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        storage.write_bytes(storage.join(item.folder, "a.bin"), b"x")
        return CaseRow(case_id=item.case_id, facts={"size": 1}), ["a.bin"]


def by(cause: Exception) -> CaseFailed:
    """As `volume.read` reports an error of the storage."""
    error = CaseFailed("cannot be read", "s3://b/a.nii.gz")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        CaseFailed("no answer"),
        by(OSError(errno.EREMOTEIO, "We encountered an internal error")),
        by(TimeoutError("slow")),
        ConnectionResetError("cut"),
    ],
)
def test_what_can_pass_is_tried_again_with_growing_pauses(
    tmp_path: Path, error: Exception, pauses: list[float]
) -> None:
    row = retry.complete(work(tmp_path), Failing(error, error), timed=True)
    assert (row.status, row.attempts, row.facts["size"]) == ("ok", 3, 1)
    assert pauses == sorted(pauses)
    assert len(pauses) == 2
    assert ledger.finished_row(work(tmp_path)) == row


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CaseRejected("truncated", "a.nii"), "rejected"),
        (CaseFiltered("too little"), "filtered"),
        (by(PermissionError("Access Denied")), "error"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/a"), "error"),
        (ValueError("a bug"), "error"),
        (MemoryError(), "error"),
    ],
)
def test_what_cannot_pass_is_tried_once(
    tmp_path: Path, error: Exception, status: str, pauses: list[float]
) -> None:
    task = Failing(error)
    row = retry.complete(work(tmp_path), task)
    assert (task.calls, pauses) == (1, [])
    assert row.status == status
    assert row.reason
    assert (row.attempts, row.seconds) == (None, None)


def test_attempts_are_bounded_and_the_last_reason_stays(tmp_path: Path) -> None:
    task = Failing(*[CaseFailed(f"no answer {n}", "s3://b/a") for n in range(9)])
    row = retry.complete(work(tmp_path), task, earlier=1, timed=True)
    assert task.calls == retry.MAX_ATTEMPTS - 1
    assert (row.status, row.attempts) == ("error", retry.MAX_ATTEMPTS)
    assert (row.reason, row.file) == ("no answer 1", "s3://b/a")


def test_what_an_earlier_version_left_is_gone_before_the_task_starts(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    (tmp_path / "b.bin").write_bytes(b"old")
    old = dataclasses.replace(work(tmp_path), key="old")
    ledger.finish(old, CaseRow(case_id="a"), ["a.bin", "b.bin"])
    (tmp_path / ".a.bin.0123abcd.tmp").write_bytes(b"ha")
    (item,) = ledger.split_finished(
        [work(tmp_path, outputs=("a.bin", "b.bin", "c.bin"))],
        ledger.Output(uri=str(tmp_path), description="score.json"),
    )[1]
    assert set(item.stale) == {"a.json", "a.bin", "b.bin"}
    assert not (tmp_path / ".a.bin.0123abcd.tmp").exists()
    seen = []

    def look(_: Work) -> tuple[CaseRow, list[str]]:
        seen.extend(path.name for path in tmp_path.iterdir())
        raise CaseRejected("damaged")

    retry.complete(item, look)
    assert seen == ["begun.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "begun.json"]


def test_a_sidecar_that_cannot_be_written_is_an_error_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a.json"))

    monkeypatch.setattr(ledger, "finish", full)
    row = retry.complete(work(tmp_path), Failing())
    assert (row.status, row.file) == ("error", str(tmp_path / "a.json"))
    assert "No space left" in row.reason


def test_work_survives_the_trip_through_arrow(tmp_path: Path) -> None:
    item = Work(case_id="a", sidecar_uri="u/a", key="k", payload={"x": [1]}, stale=("b",))
    back = Work.from_row(item.as_row())
    assert (back.payload, list(back.stale), back.folder) == ({"x": [1]}, ["b"], "u")


def test_only_what_the_clock_counts_is_in_the_row(tmp_path: Path) -> None:
    now = [100.0]

    class Waits(Failing):
        def __call__(self, item: Work) -> tuple[CaseRow, list[str]]:
            now[0] += 7.0
            return super().__call__(item)

    row = retry.complete(work(tmp_path), Waits(), timed=True, clock=lambda: now[0])
    assert (row.status, row.attempts, row.seconds) == ("ok", 1, 7.0)
