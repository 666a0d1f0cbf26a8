"""The whole job from bucket to bucket, against a real HTTP endpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_brats import storage

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket of a server on loopback."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="cohorts")
    yield "s3://cohorts"
    server.stop()


def test_files_come_back_from_a_bucket_as_they_went(bucket: str) -> None:
    uri = f"{bucket}/folder/file.json"
    assert storage.list_files(f"{bucket}/folder") == []
    storage.write_json(uri, {"a": 1})
    (first,) = storage.list_files(f"{bucket}/folder")
    storage.write_json(uri, {"a": 2})
    (second,) = storage.list_files(f"{bucket}/folder")
    assert first.uri == second.uri == uri
    assert first.etag != second.etag
    assert storage.read_json(uri) == {"a": 2}
    assert storage.exists(uri)
    storage.delete(f"{bucket}/folder")
    assert not storage.exists(uri)
    assert storage.read_json_or_none(uri) is None


@pytest.mark.ray
@pytest.mark.tf
@pytest.mark.slow
def test_the_whole_job_runs_from_bucket_to_bucket(bucket: str, cohort_folder: Path) -> None:
    for file in sorted(cohort_folder.rglob("*.nii.gz")):
        name = file.relative_to(cohort_folder).as_posix()
        storage.write_bytes(f"{bucket}/phantoms/{name}", file.read_bytes())
    arguments = ("run", f"{bucket}/phantoms", f"{bucket}/out", "--recipe", "smoke")
    command = [sys.executable, "-m", "ray_brats.cli", *arguments, "--steps", "12", "--json"]
    for expected in (5, 0):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
            cwd=ROOT,
            env=dict(os.environ),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads(done.stdout)["preprocess"]["processed"] == expected
    there = {
        file.uri.removeprefix(f"{bucket}/out/") for file in storage.list_files(f"{bucket}/out")
    }
    assert {
        "dataset/dataset.json",
        "run/metrics.jsonl",
        "run/bundle/bundle.json",
        "predictions/scores.parquet",
        "report/report.html",
    } <= there
