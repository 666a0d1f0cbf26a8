"""The steps of `score`, one after the other in this process: failures, deaths, patience."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from engine.test_blocks import Died, store  # noqa: F401 - a fixture

from ray_brats.cases import cohort, geometry
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.raw.record import Home
from ray_brats.errors import CaseFailed
from ray_brats.files import ledger
from ray_brats.files.ledger import CaseRow, Work
from ray_brats.model.predictions import Predictions
from ray_brats.recipes import tasks
from ray_brats.stages import steps
from ray_brats.stages.steps import Frame, Parcel, Segment
from stages.test_score import PREPROCESSING, write_cases

FRAME = Frame(preprocessing=PREPROCESSING, limit_seconds=60)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    write_cases(tmp_path / "cohort", ["a"])
    target = Predictions(
        uri=str(tmp_path / "out"),
        identity={},
        preprocessing=PREPROCESSING,
        task=tasks.TASKS["gli-2020"],
    )
    (item,) = target.split_finished(cohort.find(str(tmp_path / "cohort")))[1]
    return item


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


class Model:
    """Raises these errors in turn, then finds nothing."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def class_index(self, image: np.ndarray, _: object = None) -> np.ndarray:
        if self.errors:
            raise self.errors.pop(0)
        return np.zeros(image.shape[:3], np.uint8)


def taken(parcel: Parcel, model: Model) -> CaseRow | Parcel:
    """The end of one pass of a case; where its process dies, in the next one."""
    actor = Segment(FRAME, lambda threads: model, 1)
    image = steps.read(parcel.as_table(), FRAME)
    try:
        index = actor(image)
    except Died:
        index = actor(image)
    done = steps.write(index, FRAME).to_pylist()[0]
    if done["row"]:
        return CaseRow.from_json(json.loads(done["row"]))
    return steps.resumed(done["parcel"])


def test_a_case_leaves_its_mask_and_what_it_took(work: Work) -> None:
    row = taken(Parcel(work=work), Model())
    assert isinstance(row, CaseRow)
    assert (row.status, row.attempts, row.facts["wt_ml"]) == ("ok", 1, 0)
    assert ledger.finished_row(work) == row


@pytest.mark.usefixtures("no_pauses")
def test_what_can_pass_is_tried_again_and_counted(work: Work) -> None:
    row = taken(Parcel(work=work), Model(CaseFailed("no answer"), CaseFailed("no answer")))
    assert isinstance(row, CaseRow)
    assert (row.status, row.attempts) == ("ok", 3)


def test_a_failure_passes_the_other_steps_by(work: Work) -> None:
    row = taken(Parcel(work=work), Model(ValueError("a bug")))
    assert isinstance(row, CaseRow)
    assert (row.status, row.reason, row.attempts) == ("error", "ValueError: a bug", 1)
    assert ledger.finished_row(work) == row


def test_a_case_whose_process_died_is_put_off_and_then_given_up(
    work: Work,
    store: dict[bytes, bytes],  # noqa: F811
) -> None:
    parcel = taken(Parcel(work=work), Model(Died()))
    assert isinstance(parcel, Parcel)
    assert (parcel.deaths, parcel.attempts, parcel.row) == (1, 2, None)
    assert ledger.finished_row(work) is None
    half = Path(f"{work.sidecar_uri}").with_name(f".{work.outputs[0]}.0123abcd.tmp")
    half.touch()
    store.clear()  # as the driver does between two passes
    row = taken(parcel, Model(Died()))
    assert isinstance(row, CaseRow)
    assert (row.status, row.attempts) == ("error", 2)
    assert "its process died 2 times" in row.reason
    assert not half.exists()


def test_a_step_done_again_for_nothing_is_counted(work: Work) -> None:
    """Ray keeps the first parcel, where a process died before it could say that it was done."""
    actor = Segment(FRAME, lambda threads: Model(), 1)
    image = steps.read(Parcel(work=work).as_table(), FRAME)
    steps.read(Parcel(work=work).as_table(), FRAME)
    index = actor(image)
    actor(image)
    actor(image)
    done = steps.write(index, FRAME).to_pylist()[0]
    row = CaseRow.from_json(json.loads(done["row"]))
    assert (row.status, row.attempts) == ("ok", 4)
    assert ledger.finished_row(work) == row


def test_a_failure_told_again_for_nothing_is_counted(work: Work) -> None:
    actor = Segment(FRAME, lambda threads: Model(ValueError("a bug"), ValueError("a bug")), 1)
    image = steps.read(Parcel(work=work).as_table(), FRAME)
    failure = actor(image)
    actor(image)
    done = steps.write(failure, FRAME).to_pylist()[0]
    row = CaseRow.from_json(json.loads(done["row"]))
    assert (row.status, row.attempts) == ("error", 2)
    assert ledger.finished_row(work) == row


def test_a_mask_is_not_written_again_for_nothing(work: Work, tmp_path: Path) -> None:
    actor = Segment(FRAME, lambda threads: Model(), 1)
    index = actor(steps.read(Parcel(work=work).as_table(), FRAME))
    (first,) = steps.write(index, FRAME).to_pylist()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    (again,) = steps.write(index, FRAME).to_pylist()
    assert json.loads(again["row"]) == json.loads(first["row"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == written


# --- masks that also go home -----------------------------------------------------------


HOME = Home(
    geometry=geometry.of_file((7, 8, 3), np.diag([2.0, 2, 6, 1]), qform_code=1, sform_code=1),
    motion=np.eye(4),
)


@pytest.fixture
def homing(tmp_path: Path) -> Work:
    """The same case, whose mask is also brought home."""
    write_cases(tmp_path / "cohort", ["a"])
    target = Predictions(
        uri=str(tmp_path / "out"),
        identity={},
        preprocessing=PREPROCESSING,
        task=tasks.TASKS["gli-2020"],
        homes={"a": HOME},
    )
    (item,) = target.split_finished(cohort.find(str(tmp_path / "cohort")))[1]
    return item


class Homing(Model):
    """Finds one voxel at home and none else."""

    def indices(
        self, image: np.ndarray, geometry: Geometry, home: Home
    ) -> tuple[np.ndarray, np.ndarray]:
        assert home.as_json() == HOME.as_json()
        native = np.zeros(home.geometry.native_shape, np.uint8)
        native[1, 2, 0] = 3
        return self.class_index(image, geometry), native


@pytest.mark.parametrize("side", [1, 5])
def test_a_parcel_with_a_mask_for_home_crosses_as_it_is(homing: Work, side: int) -> None:
    native = np.arange(24 * side, dtype=np.uint8).reshape(4, side, 6)[::-1, :, ::2]
    parcel = Parcel(work=homing, array=np.ones((2, 3, 4), np.uint8), native=native)
    back = Parcel.from_table(parcel.as_table())
    assert back.native is not None
    assert (back.native.dtype, back.native.tolist()) == (np.uint8, native.tolist())
    assert (back.array == parcel.array).all()  # type: ignore[union-attr]
    without = dataclasses.replace(parcel, native=None)
    assert Parcel.from_table(without.as_table()).native is None
    alone = dataclasses.replace(parcel, array=None)
    assert Parcel.from_table(alone.as_table()).array is None
    # What is put off starts anew, from its facts.
    again = steps.resumed(parcel.as_table()["facts"].to_pylist()[0])
    assert (again.work.key, again.array, again.native) == (homing.key, None, None)


def test_a_mask_goes_home_beside_the_other(homing: Work, tmp_path: Path) -> None:
    row = taken(Parcel(work=homing), Homing())
    assert isinstance(row, CaseRow)
    assert (row.facts["wt_ml"], row.facts["wt_native_ml"]) == (0, 0.024)
    assert ledger.finished_row(homing) == row
    image = nib.load(tmp_path / "out/a_native.nii.gz")
    assert (image.affine == np.diag([2.0, 2, 6, 1])).all()
    assert np.argwhere(image.get_fdata() == 4).tolist() == [[1, 2, 0]]
    assert not nib.load(tmp_path / "out/a.nii.gz").get_fdata().any()


def test_in_one_actor_it_goes_home_too(homing: Work) -> None:
    row, files = steps.Whole(PREPROCESSING, lambda threads: Homing(), 1)(homing)
    assert files == ["a.nii.gz", "a_native.nii.gz"]
    assert row.facts["et_native_ml"] == 0.024
    work = dataclasses.replace(homing, payload={**homing.payload, "home": ""})
    row, files = steps.Whole(PREPROCESSING, lambda threads: Model(), 1)(work)
    assert files == ["a.nii.gz"]
    assert "et_native_ml" not in row.facts


def test_a_mask_for_home_of_a_process_that_died_is_made_again(
    homing: Work,
    store: dict[bytes, bytes],  # noqa: F811
) -> None:
    parcel = taken(Parcel(work=homing), Homing(Died()))
    assert isinstance(parcel, Parcel)
    store.clear()
    row = taken(parcel, Homing())
    assert isinstance(row, CaseRow)
    assert (row.status, row.attempts, row.facts["tc_native_ml"]) == ("ok", 2, 0.024)
