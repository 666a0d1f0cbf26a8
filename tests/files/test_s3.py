"""The whole job from bucket to bucket, against a real HTTP endpoint."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from faulty_s3 import Fault, FaultyS3

from ray_brats.cases import cohort, inspection, nifti, preprocess, volume
from ray_brats.errors import CaseRejected
from ray_brats.files import retry, storage
from ray_brats.recipes import jsonform, named
from ray_brats.stages import preprocess as dataset

STANDARD = named.get("standard").preprocess
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bucket(faulty_bucket: str) -> str:
    """An empty bucket."""
    return faulty_bucket


@pytest.fixture
def phantoms(bucket: str, cohort_folder: Path, endpoint: FaultyS3) -> str:
    """The phantom cohort in a bucket."""
    for file in sorted(cohort_folder.rglob("*.nii.gz")):
        name = file.relative_to(cohort_folder).as_posix()
        storage.write_bytes(f"{bucket}/phantoms/{name}", file.read_bytes())
    endpoint.forget()
    return f"{bucket}/phantoms"


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


def test_a_listing_of_several_pages_is_whole_and_sorted(bucket: str) -> None:
    names = {f"folder/{number:04d}/{end}" for number in range(530) for end in ("a", "b-1")}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: storage.write_bytes(f"{bucket}/{name}", b"x"), names))
    storage.write_bytes(f"{bucket}/folder-2/a", b"beside")
    files = storage.list_files(f"{bucket}/folder")
    assert [file.uri for file in files] == [f"{bucket}/{name}" for name in sorted(names)]
    assert {(file.size_bytes, file.etag) for file in files} == {
        (1, hashlib.md5(b"x", usedforsecurity=False).hexdigest())
    }
    assert [*storage.listing(f"{bucket}/folder").values()] == files
    (one,) = storage.list_files(files[7].uri)
    assert one == files[7]


def test_a_range_and_an_empty_file(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/a", b"0123456789")
    assert storage.read_bytes(f"{bucket}/a", end=4) == b"0123"
    assert storage.read_bytes(f"{bucket}/a", start=6, end=99) == b"6789"
    storage.write_bytes(f"{bucket}/empty", b"")
    assert storage.read_bytes(f"{bucket}/empty") == b""
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{bucket}/absent")


def test_a_cohort_is_one_listing_and_a_case_one_request_a_file(
    phantoms: str, endpoint: FaultyS3, cohort_folder: Path
) -> None:
    case = cohort.find(phantoms).cases[0]
    assert endpoint.requests == {"LIST": 1}
    endpoint.forget()
    endpoint.delay_seconds = 0.1
    prepared = preprocess.preprocess_case(case, STANDARD)
    assert endpoint.requests == {"GET": 4}
    assert endpoint.at_once >= 3, "modalities are read side by side"
    local = preprocess.preprocess_case(cohort.find(str(cohort_folder)).cases[0], STANDARD)
    assert (prepared.image_HWDC == local.image_HWDC).all()


def test_of_a_huge_file_the_header_is_judged_first(
    bucket: str, endpoint: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume, "REMOTE_BYTES", nifti.HEAD_BYTES)
    storage.write_bytes(f"{bucket}/lie.nii", b"no image" * 500_000)
    plain = nib.Nifti1Image(np.ones((40, 40, 40), np.int16), np.diag([-1.0, -1, 1, 1])).to_bytes()
    storage.write_bytes(f"{bucket}/large.nii", plain)
    endpoint.forget()
    with pytest.raises(CaseRejected, match="not a NIfTI"):
        volume.read(f"{bucket}/lie.nii")
    assert endpoint.bytes_sent == nifti.HEAD_BYTES
    assert volume.read(f"{bucket}/large.nii").voxels_HWD.all()


def test_checking_headers_moves_few_bytes(phantoms: str, endpoint: FaultyS3) -> None:
    case = cohort.find(phantoms).cases[0]
    sizes = {uri: size for uri, size in case.sizes_bytes.items() if "seg" not in uri}
    endpoint.forget()
    assert inspection.check_case(case, STANDARD).status == "ok"
    assert endpoint.requests["HEAD"] == 0
    assert endpoint.bytes_sent < sum(sizes.values())


def test_a_csv_lists_each_folder_once(phantoms: str, endpoint: FaultyS3, tmp_path: Path) -> None:
    cases = cohort.find(phantoms).cases
    lines = [f"{case.case_id},{case.images['t2']},{case.images['flair']}" for case in cases]
    (tmp_path / "c.csv").write_text("\n".join(["case_id,t2,flair", *lines]))
    endpoint.forget()
    found = cohort.find(str(tmp_path / "c.csv")).cases
    assert endpoint.requests == {"LIST": len(cases)}
    expected = [case.inputs(["t2", "flair"]) for case in cases]
    for case, inputs in zip(found, expected, strict=True):
        assert case.inputs(["t2", "flair"]) == {kind: inputs[kind] for kind in ("t2", "flair")}


@pytest.mark.parametrize("fault", ["500", "503", "cut", "slow"])
def test_a_fault_that_passes_changes_nothing(
    phantoms: str, endpoint: FaultyS3, cohort_folder: Path, fault: Fault, tmp_path: Path
) -> None:
    case = cohort.find(phantoms).cases[1]
    work = dataset._work(case, str(tmp_path / "far"), jsonform.as_json(STANDARD), False)
    endpoint.faults = {"_t2": [fault, fault], "_seg": [fault]}
    row = retry.complete(work, dataset.prepare, timed=True)
    assert row.status == "ok"
    assert not any(endpoint.faults.values())
    near = cohort.find(str(cohort_folder)).cases[1]
    expected = retry.complete(
        dataset._work(near, str(tmp_path / "near"), jsonform.as_json(STANDARD), False),
        dataset.prepare,
    )
    assert row.facts["image_sha256"] == expected.facts["image_sha256"]


def test_a_fault_that_stays_is_a_row_after_bounded_attempts(
    phantoms: str, endpoint: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PAUSES_SECONDS", (0.1, 0.1))
    case = cohort.find(phantoms).cases[2]
    work = dataset._work(case, str(tmp_path), jsonform.as_json(STANDARD), False)
    endpoint.faults = {"_flair": ["500"] * 1000}
    row = retry.complete(work, dataset.prepare, timed=True)
    assert (row.status, row.attempts) == ("error", retry.MAX_ATTEMPTS)
    assert row.file.endswith("_flair.nii.gz")
    assert "injected" in row.reason
    assert 1000 - len(endpoint.faults["_flair"]) <= 30
    assert storage.list_files(f"{tmp_path}/cases/{case.case_id}")[-1].uri.endswith("done.json")
    endpoint.faults.clear()
    assert retry.complete(work, dataset.prepare).status == "ok"


def test_writes_survive_faults_and_a_reader_never_sees_half(
    bucket: str, endpoint: FaultyS3
) -> None:
    endpoint.faults = {"file": ["500", "503"]}
    storage.write_bytes(f"{bucket}/file", b"x" * 100_000)
    assert storage.read_bytes(f"{bucket}/file") == b"x" * 100_000


@pytest.mark.ray
@pytest.mark.tf
@pytest.mark.slow
def test_the_whole_job_runs_from_bucket_to_bucket(bucket: str, phantoms: str) -> None:
    arguments = ("run", phantoms, f"{bucket}/out", "--recipe", "smoke")
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
