"""The three steps of `score` under Ray Data: CPU tasks read, actors segment, tasks write.

Between them a case travels as a `Parcel`, a row of a few MiB: the prepared image on its way to
an actor, the class indices on their way back. The step at which a case fails writes its sidecar,
and its row passes the other steps by; so every case leaves one row and one sidecar, whatever
befell it. Cases that take less time than moving them would go through all three steps in one
actor (`Whole`), many to a block.

A case whose process died (see `engine.blocks`) is put off until all others are done, so that a
storm of dying nodes hardly meets it twice; `MAX_DEATHS` make it an error.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa

from ray_brats.arrays import Array
from ray_brats.cases import geometry as geometries
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.raw.record import Home
from ray_brats.engine import blocks
from ray_brats.files import ledger, retry
from ray_brats.files.ledger import CaseRow, Work
from ray_brats.files.retry import Effort
from ray_brats.labels import LabelMap
from ray_brats.model import predict, predictions
from ray_brats.recipes.config import PreprocessConfig

READ, SEGMENT, WRITE = "read", "segment", "write"
MAX_DEATHS = 2
"""A case that took its process with it so often is an error."""


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
    """What all steps of one `score` share."""

    preprocessing: PreprocessConfig
    timed: bool = True
    max_deaths: int = MAX_DEATHS


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """One case between two steps."""

    work: Work
    array: Array | None = None
    """The prepared image after reading, the class indices on the same grid after segmenting."""
    native: Array | None = None
    """The class indices on the scanner's own grid, where they are asked for."""
    geometry: Geometry | None = None
    remarks: tuple[str, ...] = ()
    """What was not as usual in it."""
    row: CaseRow | None = None
    """What became of the case, once that is known."""
    put_off: bool = False
    """Its process died: this pass leaves it alone."""
    deaths: int = 0
    attempts: int = 1
    seconds: float = 0.0
    """Spent on it so far, waiting apart."""
    step: str = ""
    """The last one that it went through."""
    tries: int = 0
    """How often that step had begun it."""

    def as_table(self) -> pa.Table:
        """One row: the array's voxels as bytes, the rest as JSON."""
        facts: dict[str, Any] = {
            "work": self.work.as_row(),
            "geometry": self.geometry and dataclasses.asdict(self.geometry),
            "remarks": self.remarks,
            "row": self.row and self.row.as_json(),
            "put_off": self.put_off,
            "deaths": self.deaths,
            "attempts": self.attempts,
            "seconds": self.seconds,
            "step": self.step,
            "tries": self.tries,
        }
        if self.array is not None:
            facts |= {"dtype": self.array.dtype.str, "shape": self.array.shape}
        if self.native is not None:
            facts |= {"native_shape": self.native.shape}
        voxels = {"voxels": _column(self.array), "native": _column(self.native)}
        return pa.table({"facts": [json.dumps(facts)], **voxels})

    @staticmethod
    def from_table(table: pa.Table) -> Parcel:
        """The one row of a block; the array is a view of it."""
        facts = json.loads(table["facts"][0].as_py())
        return _unpacked(facts, table["voxels"][0], table["native"][0])


def _column(array: Array | None) -> pa.Array:
    """The bytes of an array, by hand: Arrow would copy them twice."""
    buffer = pa.py_buffer(b"" if array is None else np.ascontiguousarray(array))
    ends = pa.py_buffer(np.array([0, buffer.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, buffer])


def _unpacked(
    facts: dict[str, Any],
    voxels: pa.LargeBinaryScalar | None = None,
    native_voxels: pa.LargeBinaryScalar | None = None,
) -> Parcel:
    dtype, shape = facts.pop("dtype", None), facts.pop("shape", None)
    array = np.frombuffer(voxels.as_buffer(), dtype).reshape(shape) if voxels and dtype else None
    native, sides = None, facts.pop("native_shape", None)
    if native_voxels and sides:
        native = np.frombuffer(native_voxels.as_buffer(), np.uint8).reshape(sides)
    geometry, row = facts.pop("geometry"), facts.pop("row")
    return Parcel(
        work=Work.from_row(facts.pop("work")),
        array=array,
        native=native,
        geometry=geometries.from_json(geometry) if geometry else None,
        remarks=tuple(facts.pop("remarks")),
        row=CaseRow.from_json(row) if row else None,
        **facts,
    )


# --- the steps -------------------------------------------------------------------------


def read(batch: pa.Table, frame: Frame) -> pa.Table:
    """The first task: files to prepared images."""

    def prepare(parcel: Parcel) -> Parcel:
        prepared = predict.read(predictions.case_of(parcel.work), frame.preprocessing)
        return dataclasses.replace(
            parcel,
            array=prepared.image_HWDC,
            geometry=prepared.geometry,
            remarks=prepared.remarks,
        )

    return _take(batch, frame, READ, lambda parcel: _patiently(prepare, parcel)).as_table()


class Segment:
    """The actor: keeps the model loaded; prepared images to class indices."""

    def __init__(self, frame: Frame, make_segmenter: MakeSegmenter, threads: int) -> None:
        self._frame, self._segmenter = frame, make_segmenter(threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Segment the case of a block."""
        return _take(
            batch, self._frame, SEGMENT, lambda parcel: _patiently(self._segmented, parcel)
        ).as_table()

    def _segmented(self, parcel: Parcel) -> Parcel:
        image, geometry = parcel.array, parcel.geometry
        assert image is not None
        assert geometry is not None
        index, native = _segmented(self._segmenter, parcel.work, image, geometry)
        own = geometry.unresampled()
        return dataclasses.replace(parcel, array=index, native=native, geometry=own)


def _segmented(
    segmenter: Segmenter, item: Work, image: Array, geometry: Geometry
) -> tuple[LabelMap, LabelMap | None]:
    """Class indices of a case, and those on the scanner's own grid where they are asked for."""
    home = predictions.home_of(item)
    if home is None:
        return segmenter.class_index(image, geometry), None
    return cast("HomingSegmenter", segmenter).indices(image, geometry, home)


def write(batch: pa.Table, frame: Frame) -> pa.Table:
    """The last task: class indices to masks and sidecars.

    Its output has `row`, one of the ledger as JSON, or an empty one and a `parcel` put off.
    """
    parcel = _take(batch, frame, WRITE, _written)
    if parcel.put_off:
        return pa.table({"row": [""], "parcel": parcel.as_table()["facts"].to_pylist()})
    assert parcel.row is not None
    return pa.table({"row": [json.dumps(parcel.row.as_json())], "parcel": [""]})


def resumed(facts: str) -> Parcel:
    """A parcel that was put off, for its next pass."""
    parcel = _unpacked(json.loads(facts))
    # Its notes are gone with the pass.
    return dataclasses.replace(
        parcel, put_off=False, attempts=parcel.attempts + 1, step="", tries=0
    )


def _written(parcel: Parcel) -> Parcel:
    index, geometry = parcel.array, parcel.geometry
    assert index is not None
    assert geometry is not None
    spent = Effort(attempts=parcel.attempts - 1, seconds=parcel.seconds)
    row = retry.complete(
        parcel.work,
        lambda item: predictions.save(item, index, geometry, parcel.remarks, parcel.native),
        timed=True,
        spent=spent,
    )
    return dataclasses.replace(parcel, row=row, array=None, native=None)


class Whole:
    """The actor for cheap cases, an `retry.Task`: all three steps, nothing moves."""

    def __init__(
        self, preprocessing: PreprocessConfig, make_segmenter: MakeSegmenter, threads: int
    ) -> None:
        self._preprocessing, self._segmenter = preprocessing, make_segmenter(threads)

    def __call__(self, item: Work) -> tuple[CaseRow, list[str]]:
        """Segment a case: its files to its mask."""
        prepared = predict.read(predictions.case_of(item), self._preprocessing)
        image, geometry = prepared.image_HWDC, prepared.geometry
        index, native = _segmented(self._segmenter, item, image, geometry)
        return predictions.save(item, index, geometry.unresampled(), prepared.remarks, native)


# --- whatever befalls them -------------------------------------------------------------


def _take(batch: pa.Table, frame: Frame, stage: str, step: Callable[[Parcel], Parcel]) -> Parcel:
    """Take the case of a block through one step, which raises no `Exception`."""
    parcel = _recounted(Parcel.from_table(batch), frame)
    if parcel.row or parcel.put_off:
        return parcel
    block = _block(frame, stage, parcel)
    if block.died_at(0):
        done = _died(parcel, block)
    elif stage == WRITE and block.is_past(0) and (row := ledger.finished_row(parcel.work)):
        done = dataclasses.replace(parcel, row=row, array=None)
    else:
        # Also what an earlier process did is done once more, where its node died with it.
        begun = dataclasses.replace(parcel, attempts=parcel.attempts + block.tries)
        with block.under_way(0, block.tries):
            done = step(begun)
    block.end(1)
    return dataclasses.replace(done, step=stage, tries=block.tries)


def _block(frame: Frame, stage: str, parcel: Parcel) -> blocks.Block:
    return blocks.Block(frame, f"{stage}-{parcel.work.case_id}")


def _recounted(parcel: Parcel, frame: Frame) -> Parcel:
    """The parcel with the attempts of its last step that came after it was made.

    A process can die after its parcel is in the object store and before Ray knows it is done:
    then Ray has the step done again, and keeps the parcel of the first time.
    """
    tries = _block(frame, parcel.step, parcel).tries if parcel.step else 0
    if not (later := tries - parcel.tries):
        return parcel
    attempts = parcel.attempts + later
    row = parcel.row and dataclasses.replace(parcel.row, attempts=attempts)
    return dataclasses.replace(parcel, row=row, attempts=attempts, tries=tries)


def _died(parcel: Parcel, block: blocks.Block) -> Parcel:
    """A case whose process ended: put off, or given up."""
    ledger.remove_remains(parcel.work)
    deaths, attempts = parcel.deaths + 1, parcel.attempts + block.tries - 1
    known = dataclasses.replace(parcel, array=None, deaths=deaths, attempts=attempts)
    if reason := block.verdict(deaths):
        return _failed(known, blocks.error_row(parcel.work.case_id, reason))
    return dataclasses.replace(known, put_off=True)


def _patiently(step: Callable[[Parcel], Parcel], parcel: Parcel) -> Parcel:
    """Do one step over one case, again where it may pass; never raises an `Exception`."""
    tried = retry.patiently(lambda _: step(parcel))
    done = dataclasses.replace(
        tried.result or parcel,
        attempts=parcel.attempts + tried.effort.attempts - 1,
        seconds=parcel.seconds + tried.effort.seconds,
    )
    if tried.error is None:
        return done
    return _failed(done, retry.failed_row(parcel.work.case_id, tried.error))


def _failed(parcel: Parcel, row: CaseRow) -> Parcel:
    """A case that leaves this row, and its sidecar."""
    effort = Effort(attempts=parcel.attempts, seconds=parcel.seconds)
    row = retry.give_up(parcel.work, retry.with_effort(row, effort))
    return dataclasses.replace(parcel, row=row, array=None)
