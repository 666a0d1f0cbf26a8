"""The worker's side of Ray Data: the cases of a block, whatever befalls their process.

A case can end its process: it runs out of memory, crashes in native code or takes too long. Ray
then runs the block again elsewhere, for ever and without saying why. A note in the cluster's
key-value store, which outlives the process, says which case was under way; a block that finds
one is the successor of a dead process and knows which case that died of, and tries it again at
once; scoring has blocks of its own (`stages.segmenting`), with the same notes and alarms.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import operator
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar

import pyarrow as pa
from ray.experimental import internal_kv

from ray_brats.files import ledger, local, retry
from ray_brats.files.ledger import CaseRow, Work


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What all blocks of one stage share."""

    limit_seconds: float
    """The longest that one block may be at one case."""
    timed: bool = False
    """Whether rows carry `attempts` and `seconds`."""
    max_deaths: int = retry.MAX_ATTEMPTS
    """A case that took its process with it so often is an error."""
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells the notes of this stage from those of others."""

    @property
    def prefix(self) -> str:
        """What the names of all notes start with; they stay until the driver clears them."""
        return f"ray-brats-{self.session}-"

    def forget_notes(self) -> None:
        """Remove every note."""
        internal_kv._internal_kv_del(self.prefix.encode(), del_by_prefix=True)


def run(batch: pa.Table, frame: Frame, task: Any, arguments: Sequence[Any]) -> dict[str, list[str]]:
    """The task: the cases of one block, one after the other.

    What a dead process finished of them stands in sidecars; the block goes on at the case that
    it died of.
    """
    work = [Work.from_row(row) for row in batch.to_pylist()]
    block = Block(frame, work[0].case_id)
    rows = []
    for number, item in enumerate(work):
        row = ledger.finished_row(item) if block.is_past(number) else None
        deaths = block.tries if block.died_at(number) else 0
        if deaths:
            ledger.remove_remains(item)
        if deaths and (reason := block.verdict(deaths)):
            row = error_row(item.case_id, reason, attempts=deaths if frame.timed else None)
            retry.give_up(item, row)
        if row is None:
            with block.under_way(number, deaths):
                row = retry.complete(
                    item, lambda item: task(item, *arguments), earlier=deaths, timed=frame.timed
                )
        rows.append(json.dumps(row.as_json()))
    block.end(len(work))
    return {"row": rows}


def error_row(case_id: str, reason: str, *, attempts: int | None = None) -> CaseRow:
    """The row of a case that its process did not survive."""
    return CaseRow(case_id=case_id, status="error", reason=reason, attempts=attempts)


class Block:
    """The cases of one block, and what befell them in earlier processes.

    Args:
        frame: the stage's.
        name: tells the block from others.
    """

    def __init__(self, frame: Frame, name: str) -> None:
        name = frame.prefix + name
        self._frame, self._note, self._alarm = frame, Note(name), Alarm(name, frame.limit_seconds)
        before = self._note.read() or {"number": 0, "tries": 0}
        self._number: int = before["number"]
        self.tries: int = before["tries"]
        """How often the last case that earlier processes were at has been begun."""

    def is_past(self, number: int) -> bool:
        """Whether an earlier process got further than this case."""
        return number < self._number

    def died_at(self, number: int) -> bool:
        """Whether an earlier process died of this case."""
        return number == self._number and self.tries > 0

    def verdict(self, deaths: int) -> str:
        """Why a case that took so many processes with it is given up; empty where it is not."""
        if self._alarm.rang:
            return f"took longer than {self._frame.limit_seconds:g} s and was stopped"
        if deaths >= self._frame.max_deaths:
            return f"its process died {deaths} times: out of memory, or a crash in native code"
        return ""

    @contextlib.contextmanager
    def under_way(self, number: int, earlier: int) -> Iterator[None]:
        """Inside, the end of this process is this case's doing, which was begun before so often."""
        self.tries = earlier + 1
        self._note.write({"number": number, "tries": self.tries})
        with self._alarm:
            yield

    def end(self, cases: int) -> None:
        """All cases are through: from here a death is not their doing.

        The note stays until the driver clears it: a node can still die with what came out.
        """
        self._note.write({"number": cases, "tries": self.tries})
        self._alarm.remove()


class Alarm:
    """Ends this process if what is inside takes longer, and tells the next process so.

    By the C thread of faulthandler: it needs no GIL, so it also ends a hang in native code.
    What it writes as it ends is how the successor knows (on another node it does not, and
    tries again). Several may be set in the threads of a process.
    """

    _lock: ClassVar = threading.Lock()
    _set: ClassVar[dict[Alarm, tuple[float, IO[str]]]] = {}
    """When each of those that are set would ring, and where it would write."""

    def __init__(self, name: str, seconds: float) -> None:
        self._path, self._seconds = local.private_folder() / name, seconds
        self.rang = self._path.exists() and self._path.stat().st_size > 0

    def __enter__(self) -> None:
        with self._lock:
            self._set[self] = (time.monotonic() + self._seconds, self._path.open("w"))
            self._wind()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            file = self._set.pop(self)[1]
            self._wind()
            file.close()

    @classmethod
    def _wind(cls) -> None:
        """There is one timer: the first to ring has it."""
        if not cls._set:
            faulthandler.cancel_dump_traceback_later()
            return
        first = min(cls._set.values(), key=operator.itemgetter(0))
        left, file = max(0.001, first[0] - time.monotonic()), first[1]
        faulthandler.dump_traceback_later(left, exit=True, file=file)

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
