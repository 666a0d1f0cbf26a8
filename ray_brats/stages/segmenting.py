"""The worker's side of `score`: an actor that keeps the model and takes cases from files to masks.

While it segments a case it reads the next ones, and two blocks of cases are with it at a time, so
that neither the first case of a block nor the writing of a mask leaves the model idle. What an
actor had begun when its process died stands in a note of the block (see `engine.blocks`): its
successor puts these cases off until all others are done, so that a storm of dying nodes hardly
meets them twice. In that later pass each is alone in its process; with its `MAX_DEATHS`-th death it
is given up.

A case's sidecar is the last thing written; the block's rows reach the driver together, and the
driver's `Tally` hears of each at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, cast

import pyarrow as pa

from ray_brats.arrays import Array
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.preprocess import Prepared
from ray_brats.cases.raw.record import Home
from ray_brats.engine import blocks
from ray_brats.files import ledger, retry
from ray_brats.files.ledger import CaseRow, Work
from ray_brats.labels import LabelMap
from ray_brats.model import predict, predictions
from ray_brats.recipes.config import PreprocessConfig

MAX_DEATHS = 2
"""A case that took its process with it so often is an error."""
SIDE_BY_SIDE = 2
"""Blocks with an actor: one case of one of them has the model, the others are read or written."""


class Segmenter(Protocol):
    """What an actor keeps: a `predict.Predictor`, or a stand-in."""

    def class_index(self, image_HWDC: Array, geometry: Geometry | None = None) -> LabelMap:
        """Class indices of a prepared image, on the crop of its `geometry.unresampled()`."""
        ...


class HomingSegmenter(Segmenter, Protocol):
    """One that also brings masks to the grid of the scanner's own series."""

    def indices(
        self, image_HWDC: Array, geometry: Geometry, home: Home
    ) -> tuple[LabelMap, LabelMap]:
        """What `class_index` gives, and indices on the grid of the series."""
        ...


MakeSegmenter = Callable[[int], Segmenter]
"""Called once in each actor, with the threads it may use."""


@dataclass(frozen=True, kw_only=True)
class Frame(blocks.Frame):
    """What all actors of one pass of `score` share."""

    preprocessing: PreprocessConfig
    timed: bool = True
    max_deaths: int = MAX_DEATHS
    readers: int = 1
    """Cases that an actor reads ahead."""
    alone: bool = False
    """Whether a case is alone in its process, whose death is then its doing."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A case on its way to an actor."""

    work: Work
    deaths: int = 0
    """Processes that died of it, as far as can be told."""
    attempts: int = 0
    """How often the model had it when its process died."""

    def as_json(self) -> str:
        """What crosses."""
        facts = {"deaths": self.deaths, "attempts": self.attempts}
        return json.dumps({"work": self.work.as_row(), **facts})

    @staticmethod
    def from_json(text: str) -> Entry:
        """As `as_json` wrote it."""
        facts = json.loads(text)
        return Entry(work=Work.from_row(facts.pop("work")), **facts)


def as_block(entries: Sequence[Entry]) -> pa.Table:
    """Cases that go to an actor together: compressed, for what all share is nearly all of it."""
    text = json.dumps([entry.as_json() for entry in entries])
    return pa.table({"entries": [zlib.compress(text.encode(), 1)]})


def from_block(block: pa.Table) -> list[Entry]:
    """As `as_block` made it."""
    (packed,) = block["entries"].to_pylist()
    return [Entry.from_json(text) for text in json.loads(zlib.decompress(packed))]


class Tally:
    """A Ray actor beside the driver that hears of each case when it is done."""

    def __init__(self) -> None:
        self._done: set[str] = set()
        self._failed: list[str] = []

    def put(self, case_id: str, status: str) -> None:
        """A case is done; of one that is told twice, once."""
        if case_id not in self._done:
            self._done.add(case_id)
            if status != "ok":
                self._failed.append(f"{case_id}: {status}")

    def counts(self) -> tuple[int, int, str]:
        """How many are done, how many of them failed, and the last that did."""
        return len(self._done), len(self._failed), (self._failed or [""])[-1]


class Segment:
    """The actor: takes blocks of cases; Ray Data calls it from `SIDE_BY_SIDE` threads.

    Args:
        frame: what all actors share.
        make_segmenter: makes what it keeps.
        threads: for the segmenter.
        tally: the `Tally` that hears of each case, if any.
    """

    def __init__(
        self, frame: Frame, make_segmenter: MakeSegmenter, threads: int, tally: Any = None
    ) -> None:
        self._frame, self._tally = frame, tally
        self._segmenter = make_segmenter(threads)
        self._model = threading.Lock()
        self._readers = ThreadPoolExecutor(frame.readers)

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        """Of each case `row`, one of the ledger as JSON; or an empty one and `again`: put off."""
        begun = Begun(self._frame, from_block(batch))
        left = iter(begun.to_do())
        together = 1 if self._frame.alone else 1 + self._frame.readers
        ahead = deque(self._begin(begun, number) for number in itertools.islice(left, together))
        while ahead:
            row = self._done(begun, *ahead.popleft())
            if self._tally is not None:
                self._tally.put.remote(row.case_id, row.status)
            ahead.extend(self._begin(begun, number) for number in itertools.islice(left, 1))
        return begun.told()

    def _begin(self, begun: Begun, number: int) -> tuple[int, Future[_Image]]:
        begun.reads(number)
        return number, self._readers.submit(self._read, begun.entries[number].work)

    def _read(self, item: Work) -> _Image:
        began = time.monotonic()
        retry.clear(item)
        prepared = predict.read(predictions.case_of(item), self._frame.preprocessing)
        return _Image(prepared=prepared, seconds=time.monotonic() - began)

    def _done(self, begun: Begun, number: int, reading: Future[_Image]) -> CaseRow:
        """The row of a case whose files are being read; with it, its sidecar is written."""
        entry, clock, alarm = begun.entries[number], _Clock(), begun.alarm(number)
        first = [reading]

        def task(item: Work) -> tuple[CaseRow, list[str]]:
            with alarm:
                if first:
                    with clock.paused():
                        image = first.pop().result()
                    clock.add(image.seconds)
                else:
                    image = self._read(item)
            with clock.paused():
                self._model.acquire()
            try:
                begun.segments(number)
                with alarm:
                    index, native = self._segmented(item, image.prepared)
            finally:
                self._model.release()
            geometry, remarks = image.prepared.geometry.unresampled(), image.prepared.remarks
            with alarm:
                return predictions.save(item, index, geometry, remarks, native)

        row = retry.complete(entry.work, task, earlier=entry.attempts, timed=True, clock=clock)
        begun.ends(number, row)
        return row

    def _segmented(self, item: Work, prepared: Prepared) -> tuple[LabelMap, LabelMap | None]:
        """Class indices, and those on the scanner's own grid where they are asked for."""
        home = predictions.home_of(item)
        if home is None:
            return self._segmenter.class_index(prepared.image_HWDC, prepared.geometry), None
        homing = cast("HomingSegmenter", self._segmenter)
        return homing.indices(prepared.image_HWDC, prepared.geometry, home)


@dataclass(frozen=True, kw_only=True)
class _Image:
    prepared: Prepared
    seconds: float
    """What reading it took."""


class _Clock:
    """Seconds spent on a case, without those that it waited for others."""

    def __init__(self) -> None:
        self._left_out = 0.0

    def __call__(self) -> float:
        return time.monotonic() - self._left_out

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._left_out += time.monotonic() - began

    def add(self, seconds: float) -> None:
        """Seconds that another thread spent on it."""
        self._left_out -= seconds


class Begun:
    """The cases of a block, and in a note that outlives the process what was begun of them.

    Args:
        frame: the pass's.
        entries: the cases.
    """

    def __init__(self, frame: Frame, entries: Sequence[Entry]) -> None:
        self._frame, self.entries, self._lock = frame, entries, threading.Lock()
        self._name = frame.prefix + entries[0].work.case_id
        self._note = blocks.Note(self._name)
        before = self._note.read() or {}
        # JSON has no numbers as keys.
        self._models = {int(number): count for number, count in before.get("begun", {}).items()}
        self._rows: dict[int, CaseRow] = {}
        self._again: dict[int, Entry] = {}
        for number in sorted({*before.get("done", []), *self._models}):
            self._take_over(number)

    def _take_over(self, number: int) -> None:
        """A case that an earlier process was at: done, given up, or put off."""
        entry = self.entries[number]
        if row := ledger.finished_row(entry.work):
            self._rows[number] = row
            return
        ledger.remove_remains(entry.work)
        models = self._models.get(number, 0)
        # Of those in work the one that the model had is the likeliest, and one alone is sure.
        deaths = entry.deaths + (models > 0 or self._frame.alone)
        attempts = entry.attempts + models
        reason = ""
        if self.alarm(number).rang:
            reason = f"took longer than {self._frame.limit_seconds:g} s and was stopped"
        elif deaths >= self._frame.max_deaths:
            reason = f"its process died {deaths} times: out of memory, or a crash in native code"
        if reason:
            row = blocks.error_row(entry.work.case_id, reason, attempts=max(attempts, 1))
            self._rows[number] = retry.give_up(entry.work, row)
        else:
            self._again[number] = dataclasses.replace(entry, deaths=deaths, attempts=attempts)

    def to_do(self) -> list[int]:
        """The numbers of those that no earlier process was at."""
        known = self._rows.keys() | self._again.keys()
        return [number for number in range(len(self.entries)) if number not in known]

    def alarm(self, number: int) -> blocks.Alarm:
        """Rings where a step takes too long over a case."""
        return blocks.Alarm(f"{self._name}-{number}", self._frame.limit_seconds)

    def reads(self, number: int) -> None:
        """A case's files are about to be read."""
        self._write(number, 0)

    def segments(self, number: int) -> None:
        """The model is about to have it."""
        self._write(number, self._models[number] + 1)

    def ends(self, number: int, row: CaseRow) -> None:
        """It is done, and its sidecar written."""
        self._rows[number] = row
        self.alarm(number).remove()
        with self._lock:
            del self._models[number]
            self._keep()

    def told(self) -> dict[str, list[str]]:
        """What `Segment` gives."""
        numbers = range(len(self.entries))
        rows, again = self._rows, self._again
        return {
            "row": [json.dumps(rows[n].as_json()) if n in rows else "" for n in numbers],
            "again": [again[n].as_json() if n in again else "" for n in numbers],
        }

    def _write(self, number: int, models: int) -> None:
        with self._lock:
            self._models[number] = models
            self._keep()

    def _keep(self) -> None:
        self._note.write({"done": sorted(self._rows), "begun": self._models})
