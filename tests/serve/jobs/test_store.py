"""Jobs as files: what ended is kept for a while and then is gone, what has not ended stays."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ray_brats.files import storage
from ray_brats.serve.jobs.records import Change, JobRequest
from ray_brats.serve.jobs.store import JobsStore
from ray_brats.serve.models import Answer

REQUEST = JobRequest(model="default", task="gli-2020")


def ended(store: JobsStore) -> str:
    job_id = store.add(REQUEST, {"t2": b"x"}).id
    store.put_answer(job_id, Answer(mask=b"mask", volumes_ml={}, bundles=()))
    store.update(job_id, Change(state="done", volumes_ml={"WT": 1.0}, bundles=["f"]))
    return job_id


def test_what_ended_is_forgotten_and_what_has_not_ended_is_not(tmp_path: Path) -> None:
    store = JobsStore(str(tmp_path))
    old = ended(store)
    before = time.time()
    young, waiting = ended(store), store.add(REQUEST, {"t2": b"x"}).id
    assert store.forget(before) == 1
    assert store.get(old) is None
    assert not (tmp_path / "jobs" / old).exists()
    result = store.result(young)
    assert result is not None
    assert (result.answer.mask, result.answer.bundles) == (b"mask", ("f",))
    assert (result.model, result.task) == ("default", "gli-2020")
    assert store.look().free == {waiting}
    assert store.forget(time.time() + 1) == 1
    assert store.look().free == {waiting}


def test_a_job_that_says_not_when_it_ended_is_kept_as_if_it_ended_now(tmp_path: Path) -> None:
    store = JobsStore(str(tmp_path))
    job_id = ended(store)
    file = tmp_path / "jobs" / job_id / "job.json"
    told = storage.read_json(str(file))
    assert abs(told.pop("ended_unix") - time.time()) < 60
    # As an earlier version left it.
    storage.write_json(str(file), told)
    (tmp_path / "jobs" / job_id / "end.json").unlink()
    before = time.time()
    assert store.look().free == frozenset()
    assert store.forget(before) == 0
    result = store.result(job_id)
    assert result is not None
    assert result.answer.mask == b"mask"
    assert store.forget(time.time() + 1) == 1


def test_a_removal_that_dies_half_way_is_finished_by_the_next_start(tmp_path: Path) -> None:
    store = JobsStore(str(tmp_path))
    job_id = ended(store)
    (tmp_path / "jobs" / job_id / "request.json").unlink()
    assert store.get(job_id) is None
    assert store.look().free == frozenset()
    assert not (tmp_path / "jobs" / job_id).exists()


def test_nobody_reads_when_a_job_ended(tmp_path: Path) -> None:
    store = JobsStore(str(tmp_path))
    job = store.get(ended(store))
    assert job is not None
    assert list(job.as_json()) == ["id", "state", "progress", "volumes_ml", "error", "remarks"]


def test_a_late_note_of_progress_does_not_undo_that_a_job_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = JobsStore(str(tmp_path))
    job_id = store.add(REQUEST, {}).id
    write, writing = storage.write_json, threading.Event()

    def slowly(uri: str, value: Any) -> None:
        if value.get("progress") == 0.5 and value["state"] != "cancelled":
            writing.set()
            time.sleep(0.3)
        write(uri, value)

    monkeypatch.setattr(storage, "write_json", slowly)
    note = threading.Thread(
        target=store.update, args=(job_id,), kwargs={"change": Change(progress=0.5)}
    )
    note.start()
    assert writing.wait(10)
    assert store.update(job_id, Change(state="cancelled")).state == "cancelled"
    note.join()
    job = store.get(job_id)
    assert job is not None
    assert job.state == "cancelled"


JOB_JSON = """{
 "bundles": [
  "f"
 ],
 "ended_unix": 7,
 "error": null,
 "id": "ID",
 "progress": 1.0,
 "state": "done",
 "volumes_ml": {
  "WT": 1.0
 }
}
"""
REQUEST_JSON = """{
 "asked_release": null,
 "case_id": "one",
 "cohort": null,
 "files": [
  "flair",
  "t2"
 ],
 "images": {},
 "model": "default",
 "output": null,
 "release": "brats2020"
}
"""


def test_files_of_a_job_are_those_of_earlier_versions_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 7)
    store = JobsStore(str(tmp_path))
    request = dataclasses.replace(REQUEST, case_id="one")
    job_id = store.add(request, {"t2": b"x", "flair": b"y"}).id
    folder = tmp_path / "jobs" / job_id
    written = (folder / "request.json").read_text()
    assert written.replace('"arrived_unix": 7,\n ', "", 1) == REQUEST_JSON
    store.update(job_id, Change(state="running"))
    names = ["error", "id", "progress", "state", "volumes_ml"]
    assert list(storage.read_json(str(folder / "job.json"))) == names
    end = Change(state="done", progress=1.0, volumes_ml={"WT": 1.0}, bundles=("f",))
    store.update(job_id, end)
    assert (folder / "job.json").read_text() == JOB_JSON.replace("ID", job_id)


def test_a_request_that_names_no_release_asked_for_is_still_read(tmp_path: Path) -> None:
    store = JobsStore(str(tmp_path))
    job_id = store.add(REQUEST, {}).id
    file = str(tmp_path / "jobs" / job_id / "request.json")
    old = {"model": "default", "release": "brats2020", "images": {"t2": "s3://a/b"}, "files": []}
    storage.write_json(file, old | {"of": "another version"})
    assert store.request(job_id).images == {"t2": "s3://a/b"}
    assert store.request(job_id).asked_task is None


def test_a_job_that_takes_its_process_with_it_is_given_up(tmp_path: Path) -> None:
    job_id = JobsStore(str(tmp_path)).add(REQUEST, {}).id
    for _ in range(3):
        store = JobsStore(str(tmp_path))  # a process that begins it, and dies
        store.update(job_id, Change(state="queued", progress=0.0))
        assert store.begin(job_id).state == "running"
    job = JobsStore(str(tmp_path)).begin(job_id)
    assert (job.state, job.error) == ("failed", "the process of the queue died 3 times at this job")


def test_a_job_that_gets_further_is_begun_as_often_as_it_takes(tmp_path: Path) -> None:
    store = JobsStore(str(tmp_path))
    job_id = store.add(REQUEST, {}).id
    for done in range(1, 8):
        assert store.begin(job_id).state == "running"
        store.update(job_id, Change(progress=done / 10))
        store.update(job_id, Change(state="queued", progress=0.0))
    told = store.begin(job_id).as_json()
    assert (told["state"], "starts" in told) == ("running", False)
