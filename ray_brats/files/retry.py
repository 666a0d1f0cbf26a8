"""One case, tried within its patience: every end it can have becomes one row.

What can pass (a storage that answers 5xx, a time-out) is tried again a few times with growing
pauses; what cannot (a damaged file, a missing permission, a full disk) is not. The sidecar is
the last thing written, and what an earlier version of the case left is removed first, so that
a death at any moment leaves nothing that looks finished.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from typing import Any

from ray_brats.errors import CaseError, CaseFailed, CaseGivenUp
from ray_brats.files import ledger, storage
from ray_brats.files.ledger import Row, Work

Task = Callable[[Work], tuple[dict[str, Any], list[str]]]
"""From the work to facts for the row of an `ok` case, and the names of the files written."""

PAUSES_SECONDS = (1.0, 5.0)
"""Before the second and the third attempt."""
MAX_ATTEMPTS = 1 + len(PAUSES_SECONDS)
_LASTING_ERRNO = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ENAMETOOLONG}
)
_LASTING = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError)


def complete(item: Work, task: Task, *, earlier: int = 0, timed: bool = False) -> Row:
    """Do one case and write its sidecar; never raises an `Exception`.

    Args:
        item: the case.
        task: does it; its exceptions become the row's status and reason.
        earlier: attempts whose process died.
        timed: put `attempts` and `seconds` into the row, and so into the sidecar.

    Returns:
        `case_id`, `status`, `reason`, `file` and the task's facts.
    """
    began = time.monotonic()
    attempt = earlier
    while True:
        attempt += 1
        try:
            facts, files = _cleared(item, task)
            row: Row = {"case_id": item.case_id, "status": "ok", "reason": "", "file": "", **facts}
            row |= _effort(attempt, began) if timed else {}
            ledger.finish(item.sidecar_uri, item.key, row, files)
            return row
        except Exception as error:  # noqa: BLE001 - one case must never end the cohort
            if attempt >= MAX_ATTEMPTS or not may_pass(error):
                row = {"case_id": item.case_id, **failure(error)}
                return give_up(item, row | (_effort(attempt, began) if timed else {}))
        time.sleep(PAUSES_SECONDS[attempt - 1])


def _cleared(item: Work, task: Task) -> tuple[dict[str, Any], list[str]]:
    for name in item.stale:
        storage.delete(storage.join(item.folder, name))
    return task(item)


def _effort(attempts: int, began: float) -> Row:
    return {"attempts": attempts, "seconds": round(time.monotonic() - began, 3)}


def give_up(item: Work, row: Row) -> Row:
    """The row of a case that cannot be done now, with its sidecar where that can be written."""
    with contextlib.suppress(OSError):
        ledger.finish(item.sidecar_uri, item.key, row, [])
    return row


def may_pass(error: Exception) -> bool:
    """Whether the same attempt could succeed a little later."""
    cause = error.__cause__ if isinstance(error, CaseFailed) and error.__cause__ else error
    if isinstance(cause, OSError):
        return not isinstance(cause, _LASTING) and cause.errno not in _LASTING_ERRNO
    return isinstance(error, CaseFailed) and not isinstance(error, CaseGivenUp)


def failure(error: Exception) -> Row:
    """Status, reason and file of a case that could not be used."""
    if isinstance(error, CaseError):
        return {"status": error.status, "reason": error.reason, "file": error.file}
    file = str(error.filename or "") if isinstance(error, OSError) else ""
    return {"status": "error", "reason": f"{type(error).__name__}: {error}", "file": file}
