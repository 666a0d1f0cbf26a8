"""One case, tried within its patience: every end it can have becomes one row.

What can pass (a storage that answers 5xx, a time-out) is tried again a few times with growing
pauses; what cannot (a damaged file, a missing permission, a full disk) is not. The sidecar is
the last thing written, and what an earlier version of the case left is removed first, so that
a death at any moment leaves nothing that looks finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ray_brats.errors import CaseError, CaseFailed, CaseGivenUp
from ray_brats.files import ledger, storage
from ray_brats.files.ledger import CaseRow, Work

Task = Callable[[Work], tuple[CaseRow, Sequence[str]]]
"""A function from the work to the row of the case, and the names of the files written."""
T = TypeVar("T")

PAUSES_SECONDS = (1.0, 5.0)
"""Pauses before the second and the third attempt."""
MAX_ATTEMPTS = 1 + len(PAUSES_SECONDS)
_LASTING_ERRNO = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ENAMETOOLONG}
)
_LASTING = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a case has taken so far."""

    attempts: int = 0
    seconds: float = 0.0

    def __add__(self, other: Effort) -> Effort:
        return Effort(attempts=self.attempts + other.attempts, seconds=self.seconds + other.seconds)


@dataclass(frozen=True, kw_only=True)
class Tried(Generic[T]):
    """How it ended: with a result, or with the last error."""

    result: T | None = None
    error: Exception | None = None
    effort: Effort


def patiently(
    do: Callable[[int], T], *, earlier: int = 0, clock: Callable[[], float] = time.monotonic
) -> Tried[T]:
    """Do it, again where it may pass; no `Exception` gets out.

    Args:
        do: gets the number of the attempt, which is `MAX_ATTEMPTS` at most.
        earlier: attempts whose process died.
        clock: seconds, of which what it takes is counted.
    """
    began, attempt = clock(), earlier
    while True:
        attempt += 1
        result, error = None, None
        try:
            result = do(attempt)
        except Exception as raised:  # noqa: BLE001 - one case must never end the cohort
            error = raised
        if error is None or attempt >= MAX_ATTEMPTS or not may_pass(error):
            effort = Effort(attempts=attempt, seconds=clock() - began)
            return Tried(result=result, error=error, effort=effort)
        time.sleep(PAUSES_SECONDS[attempt - 1])


def complete(
    item: Work,
    task: Task,
    *,
    earlier: int = 0,
    timed: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> CaseRow:
    """Do one case and write its sidecar; never raises an `Exception`.

    Args:
        item: the case.
        task: does it; its exceptions become the row's status and reason.
        earlier: attempts whose process died.
        timed: put `attempts` and `seconds` into the row, and so into the sidecar.
        clock: as of `patiently`.
    """
    began = clock()

    def once(attempt: int) -> CaseRow:
        clear(item)
        row, files = task(item)
        if timed:
            effort = Effort(attempts=attempt, seconds=clock() - began)
            row = with_effort(row, effort)
        ledger.finish(item, row, files)
        return row

    tried = patiently(once, earlier=earlier, clock=clock)
    if tried.result is not None:
        return tried.result
    assert tried.error is not None
    row = failed_row(item.case_id, tried.error)
    return give_up(item, with_effort(row, tried.effort) if timed else row)


def with_effort(row: CaseRow, effort: Effort) -> CaseRow:
    """The row with what the case took."""
    return dataclasses.replace(row, attempts=effort.attempts, seconds=round(effort.seconds, 3))


def clear(item: Work) -> None:
    """Remove what an earlier version of the case left."""
    for name in item.stale:
        storage.delete(storage.join(item.folder, name))


def give_up(item: Work, row: CaseRow) -> CaseRow:
    """The row of a case that cannot be done now, and, where the storage lets it, all it leaves."""
    with contextlib.suppress(OSError):
        clear(item)
        # Also what the attempt itself wrote: no sidecar will vouch for it.
        for name in set(item.outputs) - set(item.stale):
            storage.delete(storage.join(item.folder, name))
    with contextlib.suppress(OSError):
        ledger.finish(item, row, [])
    return row


def may_pass(error: Exception) -> bool:
    """Whether the same attempt could succeed a little later."""
    cause = error.__cause__ if isinstance(error, CaseFailed) and error.__cause__ else error
    if isinstance(cause, OSError):
        return not isinstance(cause, _LASTING) and cause.errno not in _LASTING_ERRNO
    return isinstance(error, CaseFailed) and not isinstance(error, CaseGivenUp)


def failed_row(case_id: str, error: Exception) -> CaseRow:
    """The row of a case that could not be used."""
    if isinstance(error, CaseError):
        return CaseRow(case_id=case_id, status=error.status, reason=error.reason, file=error.file)
    file = str(error.filename or "") if isinstance(error, OSError) else ""
    reason = f"{type(error).__name__}: {error}"
    return CaseRow(case_id=case_id, status="error", reason=reason, file=file)
