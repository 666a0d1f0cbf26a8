"""What doctor says of this machine, and of machines that lack something."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

import pytest

import ray_brats as package
from commands.test_cli import called, ray_brats
from ray_brats.cases.raw import extra
from ray_brats.commands.preflight import doctor
from ray_brats.engine import cluster as engine
from ray_brats.engine.cluster import Resources
from ray_brats.errors import StageFailed, UsageError

GIB = 1 << 30


def facts(**changes: Any) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in doctor.PINNED}
    return {
        "versions": {**versions, "ray_brats": package.__version__},
        "devices": ["CPU", "GPU", "GPU"],
        "onednn": True,
        "temporary": "/tmp",
        "disk_bytes": 100 * GIB,
        "shm_bytes": 8 * GIB,
        **changes,
    }


def worst(rows: list[dict[str, str]]) -> list[str]:
    assert all(row["remedy"] for row in rows if row["status"] != "ok")
    return [row["status"] for row in rows if row["status"] != "ok"]


def test_a_good_node_has_nothing_to_mend() -> None:
    rows = doctor.node_checks("a", facts())
    assert worst(rows) == []
    assert any(row["found"] == "1 CPU, 2 GPU" for row in rows)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"versions": {**facts()["versions"], "ray": "2.1.0"}}, ["fail"]),
        ({"onednn": False}, ["warn"]),
        ({"disk_bytes": GIB}, ["fail"]),
        ({"disk_bytes": 5 * GIB}, ["warn"]),
        ({"shm_bytes": 64 << 20}, ["fail"]),
        ({"shm_bytes": None}, ["warn"]),
    ],
)
def test_what_a_node_lacks_has_a_remedy(changes: dict[str, Any], expected: list[str]) -> None:
    assert worst(doctor.node_checks("a", facts(**changes))) == expected


def test_a_gpu_that_tensorflow_does_not_see_fails() -> None:
    assert worst(doctor.node_checks("a", facts(), gpus=2)) == []
    assert worst(doctor.node_checks("a", facts(), gpus=3)) == ["fail"]


def test_a_version_off_its_pin_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["keras==3.15.1", "ray==1.0"])
    rows = {row["check"]: row for row in doctor.versions()}
    assert rows["keras"]["status"] == "ok"
    assert rows["ray"]["status"] == "fail"
    assert "ray==1.0" in rows["ray"]["remedy"]


@pytest.mark.parametrize(
    ("missing", "found", "remedy"),
    [
        ([], "all packages are here", ""),
        (["torch"], "torch is not installed", "pip install 'ray-brats[raw]'"),
        (
            ["SimpleITK", "deepbet"],
            "SimpleITK, deepbet are not installed",
            "pip install 'ray-brats[raw]'",
        ),
    ],
)
def test_what_raw_studies_need_is_said_and_no_failure(
    missing: list[str], found: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra, "missing", lambda: missing)
    row = doctor.raw_studies()
    assert (row["check"], row["status"]) == ("raw studies", "ok")
    assert (row["found"], row["remedy"]) == (found, remedy)


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "warn"),
        ({"RAY_AUTH_MODE": "token"}, "ok"),
        ({"RAY_AUTH_MODE": "token", "RAY_ADDRESS": "a:1", "RAY_AUTH_TOKEN": "x"}, "ok"),
        ({"RAY_AUTH_MODE": "token", "RAY_ADDRESS": "a:1"}, "fail"),
        ({"RAY_ADDRESS": "a:1"}, "warn"),
        ({}, "ok"),
    ],
)
def test_authentication(
    environment: dict[str, str], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    row = doctor.authentication()
    assert row["status"] == status
    assert bool(row["remedy"]) == (status != "ok")


def test_what_would_be_used_warns_of_little_memory() -> None:
    def rows(memory: int) -> list[dict[str, str]]:
        there = Resources(
            cpus=8,
            gpus=0,
            node_cpus=4,
            node_memory_bytes=memory,
            memory_bytes=2 * memory,
            nodes=2,
            shapes=((4, 0), (4, 0)),
        )
        return doctor.usage(there)

    assert worst(rows(32 * GIB)) == []
    assert worst(rows(GIB)) == ["warn"]


def test_an_empty_uri_is_refused() -> None:
    with pytest.raises(UsageError, match="a URI is empty"):
        doctor.doctor(doctor.DoctorOptions(uris=("",)))


def test_a_cluster_that_does_not_answer_is_exit_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    done = called("doctor", "--json")
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    (failed,) = summary["failures"]
    assert failed["case_id"] == "ray starts"
    assert "RAY_ADDRESS" in failed["reason"]


@pytest.mark.ray
@pytest.mark.tf
@pytest.mark.slow
def test_this_machine_passes(tmp_path: object) -> None:
    done = ray_brats("doctor", "--json", tmp_path)
    assert done.returncode == 0, done.stderr
    checks = {row["check"].partition(": ")[-1]: row for row in json.loads(done.stdout)["checks"]}
    assert checks["oneDNN"]["status"] == "ok"
    assert "CPU" in checks["TensorFlow's devices"]["found"]


def test_a_ray_that_does_not_start_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise StageFailed("Ray did not start (timed out)")

    monkeypatch.setattr(engine, "running", fail)
    (row,) = doctor.cluster()
    assert (row["check"], row["status"]) == ("ray starts", "fail")
    assert "timed out" in row["found"]
