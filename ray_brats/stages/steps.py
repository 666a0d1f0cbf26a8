"""The three steps of `score` under Ray Data: CPU tasks read, actors segment, tasks write.

Between them a case travels as a `Parcel`, a row of a few MiB: the prepared image on its way to
an actor, the class indices on their way back. What goes wrong with a case travels with it, and
the last step writes it down; so every case leaves one row and one sidecar, whatever befell it.
Cases that take less time than moving them would go through all three steps in one actor
(`Whole`), many to a block.

A step can end its process (out of memory, a crash in native code, its time limit). Ray then
runs it again elsewhere, for ever and without saying why; a note stored before each case starts
tells the successor which case that was. Such a case is put off until all others are done, so
that a storm of dying nodes hardly meets it twice; `MAX_DEATHS` make it an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ray_brats.arrays import Array
from ray_brats.cases import geometry as geometries
from ray_brats.cases.geometry import Geometry
from ray_brats.engine import blocks
from ray_brats.files import ledger, retry
from ray_brats.files.ledger import CaseRow, Work
from ray_brats.files.retry import Effort
from ray_brats.labels import LabelMap
from ray_brats.model import predict, predictions
from ray_brats.recipes.config import PreprocessConfig

MAX_DEATHS = 2
"""A case that took its process with it so often is an error."""


class Segmenter(Protocol):
    """What an actor keeps: a `predict.Predictor`, or a stand-in."""

    def class_index(self, image_HWDC: Array) -> LabelMap:
        """Class indices `(H, W, D)` of a prepared image."""
        ...


MakeSegmenter = Callable[[int], Segmenter]
"""Called once in each actor, with the threads it may use."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What all steps of one `score` share."""

    session: str
    preprocessing: PreprocessConfig
    limit_seconds: float
    """The longest one step may take over one case."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """One case between two steps."""

    work: Work
    array: Array | None = None
    """After reading the prepared image, after segmenting the class indices on the same grid."""
    geometry: Geometry | None = None
    row: CaseRow | None = None
    """The case's end: a failure on its way to the last step, or what that step has done."""
    put_off: bool = False
    """Its process died: this pass leaves it alone."""
    deaths: int = 0
    attempts: int = 1
    seconds: float = 0.0
    """Spent on it so far, waiting apart."""

    def as_table(self) -> pa.Table:
        """One row: the array's voxels as bytes, the rest as JSON."""
        facts: dict[str, Any] = {
            "work": self.work.as_row(),
            "geometry": self.geometry and dataclasses.asdict(self.geometry),
            "row": self.row and self.row.as_json(),
            "put_off": self.put_off,
            "deaths": self.deaths,
            "attempts": self.attempts,
            "seconds": self.seconds,
        }
        voxels: Array | bytes = b""
        if self.array is not None:
            facts |= {"dtype": self.array.dtype.str, "shape": self.array.shape}
            voxels = np.ascontiguousarray(self.array)
        buffer = pa.py_buffer(voxels)
        # By hand, because Arrow would copy the voxels twice.
        ends = pa.py_buffer(np.array([0, buffer.size], np.int64))
        column = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, buffer])
        return pa.table({"facts": [json.dumps(facts)], "voxels": column})

    @staticmethod
    def from_table(table: pa.Table) -> Parcel:
        """The one row of a block; the array is a view of it."""
        return _unpacked(json.loads(table["facts"][0].as_py()), table["voxels"][0])


def _unpacked(facts: dict[str, Any], voxels: pa.LargeBinaryScalar | None) -> Parcel:
    dtype, shape = facts.pop("dtype", None), facts.pop("shape", None)
    array = np.frombuffer(voxels.as_buffer(), dtype).reshape(shape) if voxels and dtype else None
    geometry, row = facts.pop("geometry"), facts.pop("row")
    return Parcel(
        work=Work.from_row(facts.pop("work")),
        array=array,
        geometry=geometries.from_json(geometry) if geometry else None,
        row=CaseRow.from_json(row) if row else None,
        **facts,
    )


# --- the steps -------------------------------------------------------------------------


def read(batch: pa.Table, frame: Frame) -> pa.Table:
    """The first task: files to prepared images."""

    def step(parcel: Parcel) -> Parcel:
        prepared = predict.read(predictions.case_of(parcel.work), frame.preprocessing)
        return dataclasses.replace(parcel, array=prepared.image_HWDC, geometry=prepared.geometry)

    return _take(batch, frame, "read", step).as_table()


class Segment:
    """The actor: keeps the model loaded; prepared images to class indices."""

    def __init__(self, frame: Frame, make_segmenter: MakeSegmenter, threads: int) -> None:
        self._frame, self._segmenter = frame, make_segmenter(threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Segment the case of a block."""

        def step(parcel: Parcel) -> Parcel:
            assert parcel.array is not None
            return dataclasses.replace(parcel, array=self._segmenter.class_index(parcel.array))

        return _take(batch, self._frame, "segment", step).as_table()


def write(batch: pa.Table, frame: Frame) -> pa.Table:
    """The last task: class indices to masks and sidecars; failures to sidecars.

    Its output has `row`, one of the ledger as JSON, or an empty one and a `parcel` put off.
    """
    parcel = _take(batch, frame, "write", _write)
    again = parcel.as_table()["facts"].to_pylist() if parcel.put_off else [""]
    row = "" if parcel.put_off else json.dumps(_recorded(parcel).as_json())
    return pa.table({"row": [row], "parcel": again})


def resumed(facts: str) -> Parcel:
    """A parcel that was put off, for its next pass."""
    parcel = _unpacked(json.loads(facts), None)
    return dataclasses.replace(parcel, put_off=False, attempts=parcel.attempts + 1)


def _write(parcel: Parcel) -> Parcel:
    began, item = time.monotonic(), parcel.work
    assert parcel.array is not None
    assert parcel.geometry is not None
    retry.clear(item)
    row, files = predictions.save(item, parcel.array, parcel.geometry)
    seconds = parcel.seconds + time.monotonic() - began
    row = retry.with_effort(row, Effort(attempts=parcel.attempts, seconds=seconds))
    ledger.finish(item, row, files)
    return dataclasses.replace(parcel, row=row, array=None)


class Whole:
    """The actor for cheap cases, an `retry.Task`: all three steps, nothing moves."""

    def __init__(
        self, preprocessing: PreprocessConfig, make_segmenter: MakeSegmenter, threads: int
    ) -> None:
        self._preprocessing, self._segmenter = preprocessing, make_segmenter(threads)

    def __call__(self, item: Work) -> tuple[CaseRow, list[str]]:
        """From the files of a case to its mask."""
        prepared = predict.read(predictions.case_of(item), self._preprocessing)
        index = self._segmenter.class_index(prepared.image_HWDC)
        return predictions.save(item, index, prepared.geometry)


def _recorded(parcel: Parcel) -> CaseRow:
    """The row of a case; of one that failed nothing of an earlier version stays."""
    assert parcel.row is not None
    if parcel.row.status == "ok":
        return parcel.row
    effort = Effort(attempts=parcel.attempts, seconds=parcel.seconds)
    with contextlib.suppress(OSError):
        retry.clear(parcel.work)
    return retry.give_up(parcel.work, retry.with_effort(parcel.row, effort))


# --- whatever befalls them -------------------------------------------------------------


def _take(batch: pa.Table, frame: Frame, stage: str, step: Callable[[Parcel], Parcel]) -> Parcel:
    """Take the case of a block through one step; a failure passes by."""
    parcel = Parcel.from_table(batch)
    if parcel.row or parcel.put_off:
        return parcel
    name = f"{blocks.notes_prefix(frame.session)}{stage}-{parcel.work.case_id}"
    note, alarm = blocks.Note(name), blocks.Alarm(name, frame.limit_seconds)
    before: Mapping[str, Any] = note.read() or {}
    tried: int = before.get("tries", 0)
    if before.get("under_way"):
        done = _died(parcel, tried, f"{frame.limit_seconds:g} s" if alarm.rang else "")
    else:
        note.write({"under_way": True, "tries": tried + 1})
        with alarm:
            done = _patiently(step, dataclasses.replace(parcel, attempts=parcel.attempts + tried))
    # From here a death is not the case's doing, but it costs an attempt all the same.
    note.write({"under_way": False, "tries": tried + 1})
    alarm.remove()
    return done


def _died(parcel: Parcel, tried: int, limit: str) -> Parcel:
    """A case whose process ended: put off, or given up."""
    deaths = parcel.deaths + 1
    known = dataclasses.replace(
        parcel, array=None, deaths=deaths, attempts=parcel.attempts + tried - 1
    )
    if limit:
        why = f"took longer than {limit} and was stopped"
    elif deaths >= MAX_DEATHS:
        why = f"its process died {deaths} times: out of memory, or a crash in native code"
    else:
        return dataclasses.replace(known, put_off=True)
    row = CaseRow(case_id=parcel.work.case_id, status="error", reason=why)
    return dataclasses.replace(known, row=row)


def _patiently(step: Callable[[Parcel], Parcel], parcel: Parcel) -> Parcel:
    """One step over one case, tried again where it may pass; never raises an `Exception`."""
    began = time.monotonic()
    for pause in (*retry.PAUSES_SECONDS, None):
        try:
            done = step(parcel)
            return dataclasses.replace(done, seconds=done.seconds + time.monotonic() - began)
        except Exception as error:  # noqa: BLE001 - one case must never end the cohort
            if pause is None or not retry.may_pass(error):
                spent = parcel.seconds + time.monotonic() - began
                row = retry.failed_row(parcel.work.case_id, error)
                return dataclasses.replace(parcel, row=row, array=None, seconds=spent)
        time.sleep(pause)
        parcel = dataclasses.replace(parcel, attempts=parcel.attempts + 1)
    raise AssertionError("unreachable")
