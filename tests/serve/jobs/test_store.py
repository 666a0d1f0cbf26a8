"""Jobs as files: what ended is kept for a while and then is gone, what has not ended stays."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ray_brats.files import storage
from ray_brats.serve.jobs.store import JobsStore


def ended(store: JobsStore) -> str:
    job_id: str = store.add({"model": "default", "release": "brats2020"}, {"t2": b"x"})["id"]
    store.put_mask(job_id, b"mask")
    store.update(job_id, state="done", volumes_ml={"WT": 1.0}, bundles=["f"])
    return job_id


def test_what_ended_is_forgotten_and_what_has_not_ended_is_not(tmp_path: Path) -> None:
    store = JobsStore(str(tmp_path))
    old = ended(store)
    before = time.time()
    young, waiting = ended(store), store.add({"model": "default"}, {"t2": b"x"})["id"]
    assert store.forget(before) == 1
    assert store.get(old) is None
    assert not (tmp_path / "jobs" / old).exists()
    result = store.result(young)
    assert result is not None
    assert (result["mask"], result["model"], result["bundles"]) == (b"mask", "default", ["f"])
    assert store.unfinished() == [waiting]
    assert store.forget(time.time() + 1) == 1
    assert store.unfinished() == [waiting]


def test_a_job_that_says_not_when_it_ended_is_kept_as_if_it_ended_now(tmp_path: Path) -> None:
    store = JobsStore(str(tmp_path))
    job_id = ended(store)
    file = tmp_path / "jobs" / job_id / "job.json"
    told = storage.read_json(str(file))
    assert abs(told.pop("ended_unix") - time.time()) < 60
    storage.write_json(str(file), told)
    before = time.time()
    assert store.forget(before) == 0
    assert (store.result(job_id) or {})["mask"] == b"mask"
    assert store.forget(time.time() + 1) == 1


def test_a_removal_that_dies_half_way_is_finished_by_the_next_start(tmp_path: Path) -> None:
    store = JobsStore(str(tmp_path))
    job_id = ended(store)
    (tmp_path / "jobs" / job_id / "request.json").unlink()
    assert store.get(job_id) is None
    assert store.unfinished() == []
    assert not (tmp_path / "jobs" / job_id).exists()


def test_nobody_reads_when_a_job_ended(tmp_path: Path) -> None:
    store = JobsStore(str(tmp_path))
    job = store.get(ended(store))
    assert job is not None
    assert sorted(job) == ["error", "id", "progress", "state", "volumes_ml"]


def test_a_late_note_of_progress_does_not_undo_that_a_job_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = JobsStore(str(tmp_path))
    job_id = store.add({"model": "default"}, {})["id"]
    write, writing = storage.write_json, threading.Event()

    def slowly(uri: str, value: Any) -> None:
        if value.get("progress") == 0.5 and value["state"] != "cancelled":
            writing.set()
            time.sleep(0.3)
        write(uri, value)

    monkeypatch.setattr(storage, "write_json", slowly)
    note = threading.Thread(target=store.update, args=(job_id,), kwargs={"progress": 0.5})
    note.start()
    assert writing.wait(10)
    assert store.update(job_id, state="cancelled")["state"] == "cancelled"
    note.join()
    assert (store.get(job_id) or {})["state"] == "cancelled"
