"""The worker's side of `mapping.map_cases`: the cases of a block, whatever befalls their process.

A case can end its process (out of memory, a crash in native code, its time limit); Ray then
runs the block again elsewhere, and what is known of the first try decides what is redone.
"""

from __future__ import annotations

import faulthandler
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from ray.experimental import internal_kv

from ray_brats.files import ledger, retry
from ray_brats.files.ledger import CaseRow, Work


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What every block of one `mapping.map_cases` shares."""

    session: str
    limit_seconds: float
    timed: bool
    max_deaths: int = retry.MAX_ATTEMPTS
    """A case that took its process with it so often is an error."""


class Keeper:
    """The actor: keeps one instance of the task's class."""

    def __init__(self, frame: Frame, task: Any, arguments: Sequence[Any]) -> None:
        self._frame, self._task = frame, task(*arguments)

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        """A row for each case of the block."""
        return run(batch, self._frame, self._task, ())


def run(batch: pa.Table, frame: Frame, task: Any, arguments: Sequence[Any]) -> dict[str, list[str]]:
    """The task: the cases of one block, one after the other.

    Before each case a note in the cluster's key-value store (which outlives this process)
    says which one it is. A block that starts with a note there is the successor of a dead one:
    what that one finished stands in sidecars, and the case it died of is known.
    """
    work = [Work.from_row(row) for row in batch.to_pylist()]
    name = f"{notes_prefix(frame.session)}{work[0].case_id}"
    note, alarm = Note(name), Alarm(name, frame.limit_seconds)
    before = note.read()
    rows = []
    for number, item in enumerate(work):
        row, earlier = None, 0
        if before and number < before["number"]:
            row = ledger.finished_row(item)
        elif before and number == before["number"]:
            earlier = before["attempts"]
            row = _given_up(item, earlier, frame, too_long=alarm.rang)
        if row is None:
            note.write({"number": number, "attempts": earlier + 1})
            with alarm:
                row = retry.complete(
                    item, lambda item: task(item, *arguments), earlier=earlier, timed=frame.timed
                )
        rows.append(json.dumps(row.as_json()))
    # Kept until the driver clears it: a node can still die with this block's rows.
    note.write({"number": len(work), "attempts": 0})
    alarm.remove()
    return {"row": rows}


def _given_up(item: Work, deaths: int, frame: Frame, *, too_long: bool) -> CaseRow | None:
    """The row of a case that took its process with it too often, or by taking too long."""
    if too_long:
        reason = f"took longer than {frame.limit_seconds:g} s and was stopped"
    elif deaths >= frame.max_deaths:
        reason = f"its process died {deaths} times: out of memory, or a crash in native code"
    else:
        return None
    attempts = deaths if frame.timed else None
    row = CaseRow(case_id=item.case_id, status="error", reason=reason, attempts=attempts)
    return retry.give_up(item, row)


class Alarm:
    """Ends this process if the block inside takes longer, and tells the next process so.

    By the C thread of faulthandler: it needs no GIL, so it also ends a hang in native code.
    What it writes as it ends is how the successor knows (on another node it does not, and
    tries again).
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._path, self._seconds = Path(tempfile.gettempdir()) / name, seconds
        self.rang = self._path.exists() and self._path.stat().st_size > 0

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()

    def remove(self) -> None:
        """Leave nothing."""
        self._path.unlink(missing_ok=True)


class Note:
    """A small JSON value in the key-value store of Ray's head node."""

    def __init__(self, name: str) -> None:
        self._key = name.encode()

    def read(self) -> dict[str, Any] | None:
        """What was written, or None."""
        content = internal_kv._internal_kv_get(self._key)
        return json.loads(content) if content else None

    def write(self, value: Mapping[str, Any]) -> None:
        """Replace the note."""
        internal_kv._internal_kv_put(self._key, json.dumps(value).encode(), overwrite=True)


def notes_prefix(session: str) -> str:
    """What the notes of one session start with; they stay until its driver clears them."""
    return f"ray-brats-{session}-"


def forget_notes(session: str) -> None:
    """Remove every note of a session."""
    internal_kv._internal_kv_del(notes_prefix(session).encode(), del_by_prefix=True)
