"""The job that a process is: told how it goes on, and stopped for good where its call is wrong."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import pytest

from ray_brats.engine import jobs

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "http://127.0.0.1:8268"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (None, None),
        ("{}", None),
        ("no JSON", None),
        ("[]", None),
        (json.dumps({"metadata": {"job_submission_id": "nightly"}}), "nightly"),
    ],
)
def test_a_process_knows_whose_job_it_is(
    config: str | None,
    name: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    if config is not None:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", config)
    assert jobs.own() == name
    jobs.tell()
    told = capsys.readouterr().err
    assert ("submit it again" in told) == (name is not None)


def test_a_ray_that_does_not_answer_is_told_and_nothing_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.dumps({"metadata": {"job_submission_id": "nightly"}})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", config)
    monkeypatch.setenv(jobs.DASHBOARD, "http://127.0.0.1:1")
    jobs.stop_wrong()
    assert not capsys.readouterr().err
    monkeypatch.setenv(jobs.STOPS, "1")
    jobs.stop_wrong()
    assert "did not stop the job" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
def test_a_wrong_call_ends_its_job_for_good_and_a_stage_that_stops_does_not() -> None:
    """As KubeRay tries a job again that failed, and not one that was stopped."""
    import ray
    from ray.job_submission import JobSubmissionClient

    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=8268,
        object_store_memory=100 << 20,
        log_to_driver=False,
    )
    try:
        client = JobSubmissionClient(ADDRESS)

        def ended(entry: str, stops: str) -> tuple[str, str]:
            variables = {jobs.STOPS: stops, jobs.DASHBOARD: ADDRESS, "PYTHONPATH": str(ROOT)}
            name = client.submit_job(entrypoint=entry, runtime_env={"env_vars": variables})
            until = time.monotonic() + 120
            while not client.get_job_status(name).is_terminal():
                assert time.monotonic() < until
                time.sleep(0.5)
            return str(client.get_job_status(name).value), client.get_job_logs(name)

        python = shlex.quote(sys.executable)
        wrong = f"{python} -m ray_brats.cli train nowhere out"
        assert ended(wrong, "0")[0] == "FAILED"
        status, log = ended(wrong, "1")
        assert status == "STOPPED"
        assert "nowhere is no dataset" in log
        assert "is stopped for good" in log
        assert ended(f"{python} -c 'raise SystemExit(1)'", "1")[0] == "FAILED"
    finally:
        ray.shutdown()
