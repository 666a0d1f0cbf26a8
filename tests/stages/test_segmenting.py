"""An actor of `score` in this process: failures, deaths, patience, cases read ahead."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import types
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
from ray_brats.model import predict
from ray_brats.model.predictions import Predictions
from ray_brats.recipes import tasks
from ray_brats.stages import segmenting
from ray_brats.stages.segmenting import Entry, Frame, Segment, Tally, as_block
from stages.test_score import FIRST_SIDE, PREPROCESSING, write_cases

FRAME = Frame(preprocessing=PREPROCESSING, limit_seconds=60)
HOME = Home(
    geometry=geometry.of_file((7, 8, 3), np.diag([2.0, 2, 6, 1]), qform_code=1, sform_code=1),
    motion=np.eye(4),
)
pytestmark = pytest.mark.usefixtures("store")


def work_of(folder: Path, *names: str, homes: dict[str, Home] | None = None) -> list[Work]:
    write_cases(folder / "cohort", list(names))
    target = Predictions(
        uri=str(folder / "out"),
        identity={},
        preprocessing=PREPROCESSING,
        task=tasks.TASKS["gli-2020"],
        homes=homes or {},
    )
    return target.split_finished(cohort.find(str(folder / "cohort")))[1]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    (item,) = work_of(tmp_path, "a")
    return item


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


class Model:
    """Raises these errors in turn, then finds nothing."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.seen: list[int] = []

    def class_index(self, image: np.ndarray, _: object = None) -> np.ndarray:
        self.seen.append(image.shape[0] - FIRST_SIDE)
        if self.errors:
            raise self.errors.pop(0)
        return np.zeros(image.shape[:3], np.uint8)


def taken(entries: list[Entry], model: Model, frame: Frame = FRAME) -> list[CaseRow | Entry]:
    """What comes of a block; where its process dies, of its successor."""
    batch = as_block(entries)
    while True:
        actor = Segment(frame, lambda threads: model, 1)
        try:
            told = actor(batch)
        except Died:
            continue
        finally:
            actor._readers.shutdown()
        return [
            CaseRow.from_json(json.loads(row)) if row else Entry.from_json(again)
            for row, again in zip(told["row"], told["again"], strict=True)
        ]


def row_of(item: Work, model: Model, frame: Frame = FRAME, **facts: int) -> CaseRow:
    (row,) = taken([Entry(work=item, **facts)], model, frame)
    assert isinstance(row, CaseRow)
    return row


def put_off(told: CaseRow | Entry) -> tuple[str, int, int]:
    """Of a case that was put off: its name, deaths and attempts."""
    assert isinstance(told, Entry)
    return told.work.case_id, told.deaths, told.attempts


def test_a_case_leaves_its_mask_and_what_it_took(work: Work) -> None:
    row = row_of(work, Model())
    assert (row.status, row.attempts, row.facts["wt_ml"]) == ("ok", 1, 0)
    assert row.seconds is not None
    assert 0 < row.seconds < 5
    assert ledger.finished_row(work) == row


@pytest.mark.usefixtures("no_pauses")
def test_what_can_pass_is_tried_again_and_counted(work: Work) -> None:
    row = row_of(work, Model(CaseFailed("no answer"), CaseFailed("no answer")))
    assert (row.status, row.attempts) == ("ok", 3)


def test_a_failure_is_a_row_and_a_sidecar(work: Work) -> None:
    row = row_of(work, Model(ValueError("a bug")))
    assert (row.status, row.reason, row.attempts) == ("error", "ValueError: a bug", 1)
    assert ledger.finished_row(work) == row


def test_a_file_that_cannot_be_read_leaves_the_others_alone(tmp_path: Path) -> None:
    items = work_of(tmp_path, "a", "b", "c")
    damaged = tmp_path / "cohort/b/b_t2.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    rows = taken([Entry(work=item) for item in items], Model())
    assert [row.status for row in rows if isinstance(row, CaseRow)] == ["ok", "rejected", "ok"]


def test_those_a_process_died_at_are_put_off_and_the_others_done(tmp_path: Path) -> None:
    items = work_of(tmp_path, "a", "b", "c", "d")
    model = Model()
    plain = model.class_index

    def dies_at_b(image: np.ndarray, _: object = None) -> np.ndarray:
        found = plain(image)
        if model.seen.count(1) == 1 and model.seen[-1] == 1:
            raise Died
        return found

    model.class_index = dies_at_b  # type: ignore[method-assign]
    rows = taken([Entry(work=item) for item in items], model)
    told = [row.status if isinstance(row, CaseRow) else put_off(row) for row in rows]
    # The next one was being read, which most likely was not it.
    assert told == ["ok", ("b", 1, 1), ("c", 0, 0), "ok"]
    assert model.seen == [0, 1, 3]
    assert [bool(ledger.finished_row(item)) for item in items] == [True, False, False, True]


def test_alone_a_case_whose_process_died_twice_is_given_up(
    work: Work,
    tmp_path: Path,
    store: dict[bytes, bytes],  # noqa: F811
) -> None:
    (again,) = taken([Entry(work=work)], Model(Died()))
    assert put_off(again) == ("a", 1, 1)
    half = Path(f"{work.sidecar_uri}").with_name(f".{work.outputs[0]}.0123abcd.tmp")
    half.touch()
    store.clear()  # as the driver does between two passes
    alone = dataclasses.replace(FRAME, alone=True)
    row = row_of(work, Model(Died()), alone, deaths=1, attempts=1)
    assert (row.status, row.attempts) == ("error", 2)
    assert "its process died 2 times" in row.reason
    assert not half.exists()
    assert ledger.finished_row(work) == row


def test_alone_an_innocent_one_is_done(work: Work) -> None:
    alone = dataclasses.replace(FRAME, alone=True)
    row = row_of(work, Model(), alone, deaths=1, attempts=1)
    assert (row.status, row.attempts) == ("ok", 2)


def test_what_was_done_before_its_process_died_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = work_of(tmp_path, "a", "b")
    ends = segmenting.Begun.ends

    def dies_first(self: segmenting.Begun, number: int, row: CaseRow) -> None:
        monkeypatch.setattr(segmenting.Begun, "ends", ends)
        raise Died  # After the sidecar, before the note.

    monkeypatch.setattr(segmenting.Begun, "ends", dies_first)
    model = Model()
    first, second = taken([Entry(work=item) for item in items], model)
    assert isinstance(first, CaseRow)
    assert first == ledger.finished_row(items[0])
    assert (first.attempts, model.seen) == (1, [0])
    assert put_off(second) == ("b", 0, 0)


def test_a_block_done_again_for_nothing_tells_the_same(tmp_path: Path) -> None:
    items = [Entry(work=item) for item in work_of(tmp_path, "a", "b")]
    model = Model()
    rows = taken(items, model)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert taken(items, model) == rows
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == written
    assert model.seen == [0, 1]


def test_what_took_too_long_is_given_up_at_once(work: Work, tmp_path: Path) -> None:
    with pytest.raises(Died):
        Segment(FRAME, lambda threads: Model(Died()), 1)(as_block([Entry(work=work)]))
    # As the timer of the process that it ended would have written.
    (tmp_path / "alarms" / f"{FRAME.prefix}a-0").write_text("Timeout (0:01:00)!")
    row = row_of(work, Model())
    assert (row.status, row.attempts) == ("error", 1)
    assert row.reason == "took longer than 60 s and was stopped"


def test_the_next_case_is_read_while_one_is_segmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = work_of(tmp_path, "a", "b", "c", "d")
    read, begun = predict.read, threading.Semaphore(0)

    def counted(*arguments: object) -> object:
        begun.release()
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(segmenting.predict, "read", counted)
    met: list[bool] = []

    class Meets(Model):
        def class_index(self, image: np.ndarray, _: object = None) -> np.ndarray:
            # Its own reading is over, and that of the next begins without it.
            met.append(begun.acquire(timeout=10) and begun.acquire(timeout=0.5 + 10 * (not met)))
            begun.release()
            return super().class_index(image)

    taken([Entry(work=item) for item in items], Meets())
    assert met == [True, True, True, False]


def test_two_blocks_share_the_model_and_their_cases_count_what_they_took_alone(
    tmp_path: Path,
) -> None:
    items = work_of(tmp_path, "a", "b")
    inside, most = [0], [0]

    class Slow(Model):
        def class_index(self, image: np.ndarray, _: object = None) -> np.ndarray:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(1.0)
            inside[0] -= 1
            return super().class_index(image)

    told: list[tuple[str, str]] = []
    put = types.SimpleNamespace(remote=lambda *words: told.append(words))
    tally = types.SimpleNamespace(put=put)
    actor = Segment(FRAME, lambda threads: Slow(), 1, tally)
    rows: list[CaseRow] = []

    def block(item: Work) -> None:
        made = actor(as_block([Entry(work=item)]))
        rows.append(CaseRow.from_json(json.loads(made["row"][0])))

    threads = [threading.Thread(target=block, args=[item]) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert sorted(told) == [("a", "ok"), ("b", "ok")]
    for row in rows:
        assert row.seconds is not None
        assert 1.0 <= row.seconds < 1.8


def test_a_tally_counts_each_case_once() -> None:
    tally = Tally()
    for case_id, status in (("a", "ok"), ("b", "error"), ("a", "ok"), ("b", "error")):
        tally.put(case_id, status)
    assert tally.counts() == (2, 1, "b: error")


# --- masks that also go home -----------------------------------------------------------


class Homing(Model):
    """Finds one voxel at home and none else."""

    def indices(
        self, image: np.ndarray, geometry: Geometry, home: Home
    ) -> tuple[np.ndarray, np.ndarray]:
        assert home.as_json() == HOME.as_json()
        native = np.zeros(home.geometry.native_shape, np.uint8)
        native[1, 2, 0] = 3
        return self.class_index(image, geometry), native


@pytest.mark.parametrize("death", [False, True])
def test_a_mask_goes_home_beside_the_other(tmp_path: Path, death: bool) -> None:
    (item,) = work_of(tmp_path, "a", homes={"a": HOME})
    entry = Entry(work=item)
    if death:
        (again,) = taken([entry], Homing(Died()))
        assert isinstance(again, Entry)
        entry = again
    frame = dataclasses.replace(FRAME, alone=death, session=f"pass{death}")
    (row,) = taken([entry], Homing(), frame)
    assert isinstance(row, CaseRow)
    assert (row.facts["wt_ml"], row.facts["wt_native_ml"]) == (0, 0.024)
    assert row.attempts == 1 + death
    assert ledger.finished_row(item) == row
    image = nib.load(tmp_path / "out/a_native.nii.gz")
    assert (image.affine == np.diag([2.0, 2, 6, 1])).all()
    assert np.argwhere(image.get_fdata() == 4).tolist() == [[1, 2, 0]]
    assert not nib.load(tmp_path / "out/a.nii.gz").get_fdata().any()
