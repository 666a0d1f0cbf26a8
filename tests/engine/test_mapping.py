"""Functions over cases: deaths, hangs and long manifests, on a small Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_brats.engine import blocks, cluster, mapping
from ray_brats.engine.mapping import Tasks
from ray_brats.errors import CaseRejected
from ray_brats.files import ledger, retry
from ray_brats.files.ledger import CaseRow, Work

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {"num_cpus": 1, "memory": 200 << 20}


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with cluster.running():
        yield


def cases(folder: Path, *names: str) -> list[Work]:
    return [
        Work(case_id=name, sidecar_uri=f"{folder}/{name}.json", key="k", payload={})
        for name in names
    ]


def by_case(rows: list[CaseRow]) -> dict[str, CaseRow]:
    return {row.case_id: row for row in rows}


def trace(item: Work) -> int:
    """Note a call of the case; how many there were, this one included."""
    calls = Path(f"{item.folder}/{item.case_id}.calls")
    calls.write_text((calls.read_text() if calls.exists() else "") + "x")
    return calls.stat().st_size


def troubled(item: Work, *_: object) -> tuple[CaseRow, list[str]]:
    """Does what the case is called."""
    calls = trace(item)
    if item.case_id == "bad":
        raise CaseRejected("damaged", "bad.nii.gz")
    if item.case_id == "hang":
        import ctypes

        ctypes.PyDLL(None).sleep(600)  # in native code, and it keeps the GIL
    if item.case_id == "poison" or (item.case_id == "dies_once" and calls == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return CaseRow(case_id=item.case_id, facts={"calls": calls}), []


def nothing(item: Work) -> tuple[CaseRow, list[str]]:
    return CaseRow(case_id=item.case_id), []


@pytest.mark.ray
def test_deaths_and_hangs_are_rows_and_the_others_are_done_once(
    ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(mapping, "MAX_BLOCKS", 3)
    work = cases(tmp_path, "good", "dies_once", "bad", "hang", "fine", "poison", "last")
    rows = by_case(
        mapping.map_cases(
            work,
            Tasks(task=troubled, options=OPTIONS, arguments=("first",)),
            title="test",
            limit_seconds=6,
            timed=True,
        )
    )
    assert {name: row.status for name, row in rows.items()} == {
        "good": "ok",
        "dies_once": "ok",
        "bad": "rejected",
        "hang": "error",
        "fine": "ok",
        "poison": "error",
        "last": "ok",
    }
    assert "longer than 6 s" in rows["hang"].reason
    assert f"died {retry.MAX_ATTEMPTS} times" in rows["poison"].reason
    effort = {name: row.attempts for name, row in rows.items()}
    assert effort == {
        **dict.fromkeys(rows, 1),
        "dies_once": 2,
        "poison": retry.MAX_ATTEMPTS,
    }
    assert [rows[name].facts["calls"] for name in ("good", "fine", "last", "dies_once")] == [
        1,
        1,
        1,
        2,
    ]
    assert all(ledger.finished_row(item) == rows[item.case_id] for item in work)


@pytest.mark.ray
def test_a_block_that_must_run_again_after_its_end_redoes_nothing(
    ray: None, tmp_path: Path
) -> None:
    batch = mapping._table(cases(tmp_path, "good", "bad", "last"))
    frame = blocks.Frame(session="twice", limit_seconds=60, timed=True)
    first, second = (
        [json.loads(row) for row in blocks.run(batch, frame, troubled, ())["row"]] for _ in range(2)
    )
    assert [row["status"] for row in first] == ["ok", "rejected", "ok"]
    assert second == first
    frame.forget_notes()
    assert [path.stat().st_size for path in tmp_path.glob("*.calls")] == [1, 1, 1]


@pytest.mark.ray
def test_a_long_manifest_costs_little_a_case(
    ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "MAX_BLOCKS", 20)
    work = cases(tmp_path, *[f"case{n:04}" for n in range(1000)])
    rows = mapping.map_cases(work, Tasks(task=nothing, options=OPTIONS), title="test")
    assert [row.case_id for row in rows] == [item.case_id for item in work]


@pytest.mark.ray
def test_the_memory_of_a_task_is_said_before_the_start(
    ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"num_cpus": 1, "memory": 1 << 50}
    rows = mapping.map_cases(
        cases(tmp_path, "a"), Tasks(task=nothing, options=options), title="test"
    )
    assert [row.status for row in rows] == ["ok"]
    said = capsys.readouterr().err
    assert "1 case(s), 1 at a time" in said
    assert "1048576.0 GiB each" in said
    assert "may run out of memory" in said


INTERRUPTED = """
import sys, time
from ray_brats import cli
from ray_brats.engine import cluster, mapping
from ray_brats.files.ledger import CaseRow, Work

folder = sys.argv[1]
work = [Work(case_id=f"c{n}", sidecar_uri=f"{folder}/c{n}.json", key="k", payload={})
        for n in range(40)]

def slow(item):
    time.sleep(0 if item.case_id == "c0" else 2)
    return CaseRow(case_id=item.case_id), []

def call():
    with cluster.running():
        tasks = mapping.Tasks(task=slow, options={"num_cpus": 1, "memory": 1})
        mapping.map_cases(work, tasks, title="test")
    return 0

sys.exit(cli.guarded(call))
"""


@pytest.mark.ray
def test_control_c_ends_with_a_sentence_and_leaves_what_is_finished(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    while not (tmp_path / "c0.json").exists():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].endswith("the same command goes on where this one ended")
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".json"]


SET_UP = """
from ray.data._internal.execution.streaming_executor import StreamingExecutor

def interrupted(self):
    raise KeyboardInterrupt

StreamingExecutor.get_stats = interrupted
"""


@pytest.mark.ray
def test_control_c_as_the_work_is_set_up_is_a_sentence_too(tmp_path: Path) -> None:
    # Ray Data then has an executor at work that no iterator of ours ends.
    ended = subprocess.run(
        [sys.executable, "-c", SET_UP + INTERRUPTED, str(tmp_path)],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr
