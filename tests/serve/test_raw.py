"""Raw studies through the service: a zip in, the mask on the T1CE's own grid out."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import heads
import httpx
import nibabel as nib
import numpy as np
import pytest
from serve_doubles import MODALITIES, SERVED, Double, limited, parts, state_of, zipped

from ray_brats.cases.raw import apart
from ray_brats.cases.raw.preparation import PreparationOptions
from ray_brats.recipes import jsonform, named
from ray_brats.serve.limits import Limits, Refusal
from ray_brats.serve.models import RAW, ServedModel

pytestmark = pytest.mark.anyio
CASES, JOBS = "/v1/segmentations", "/v1/jobs"
QUERY = {"raw": "true"}
ZIP = {"content-type": "application/zip"}
DICOM = {"accept": "application/dicom"}
ALL_OF_IT = {"accept": "application/zip"}


def of_skulls() -> ServedModel:
    """A network that takes heads as they are: what finds brains has no place in these tests."""
    smoke = named.get("smoke")
    preprocess = dataclasses.replace(smoke.preprocess, allow_skull=True)
    recipe = dataclasses.replace(smoke, preprocess=preprocess)
    card = {**SERVED.card, "recipe": json.loads(json.dumps(jsonform.as_json(recipe)))}
    return dataclasses.replace(SERVED, card=card)


@pytest.fixture
def double(tmp_path: Path, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> Double:
    monkeypatch.setattr(apart, "OPTIONS", PreparationOptions(space="patient", keep_skull=True))
    return Double(tmp_path, limits=limits, served=of_skulls())


@pytest.fixture
async def client(double: Double) -> AsyncIterator[httpx.AsyncClient]:
    async with double.client() as client:
        yield client


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of DICOM in three series and a localiser; read only."""
    folder = tmp_path_factory.mktemp("dicom") / "DOE^JANE"
    heads.write_dicom(folder, 1, MODALITIES)
    return folder


@pytest.fixture(scope="module")
def nifti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in NIfTI; read only."""
    folder = tmp_path_factory.mktemp("nifti") / "P1"
    heads.write_study(folder, 1, MODALITIES)
    return folder


def entries(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def image_of(content: bytes) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


@pytest.mark.raw
async def test_a_study_of_nifti_gets_its_mask_on_its_own_t1ce(
    client: httpx.AsyncClient, nifti: Path
) -> None:
    archive = heads.archive_of(nifti)
    form = {"files": {"study": ("study.zip", archive)}, "data": {"raw": "true", "case_id": "P1"}}
    answer = await client.post(CASES, **form)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/gzip"
    assert answer.headers["X-Ray-Brats-Home"] == "t1ce"
    mask, scan = image_of(answer.content), nib.load(nifti / "t1ce.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_array_equal(mask.affine, scan.affine)
    voxels = np.asarray(mask.dataobj)
    assert set(np.unique(voxels)) <= {0, 1, 2, 4}
    ml = np.count_nonzero(voxels) * np.prod(mask.header.get_zooms()) / 1000
    assert ml == pytest.approx(float(answer.headers["X-Ray-Brats-WT-ML"]), rel=1e-4)
    assert ml > 0


@pytest.mark.raw
async def test_a_job_of_dicom_keeps_its_mask_the_scan_and_the_segmentation(
    client: httpx.AsyncClient, double: Double, dicom: Path, tmp_path: Path
) -> None:
    archive = heads.archive_of(dicom)
    accepted = await client.post(JOBS, params=QUERY, content=archive, headers=ZIP)
    assert accepted.status_code == 202, accepted.text
    job = await state_of(client, accepted.json()["id"], "done", "failed")
    assert job["state"] == "done", job["error"]
    url = f"{JOBS}/{job['id']}/mask"
    mask = (await client.get(url)).content
    seg = await client.get(url, headers=DICOM)
    assert seg.headers["content-type"] == "application/dicom"
    whole = await client.get(url, headers=ALL_OF_IT)
    assert whole.headers["X-Ray-Brats-Home"] == "t1ce"
    files = entries(whole.content)
    assert set(files) == {"mask.nii.gz", "scan.nii.gz", "mask.dcm"}
    assert (files["mask.nii.gz"], files["mask.dcm"]) == (mask, seg.content)
    assert image_of(files["scan.nii.gz"]).shape == image_of(mask).shape
    check_seg(seg.content, mask, dicom)
    # What tells the patient is in none of what the service keeps of the job but the Segmentation.
    kept = [path for path in (tmp_path / "jobs").rglob("*") if path.is_file()]
    assert {path.name for path in kept} >= {"mask.nii.gz", "scan.nii.gz", "mask.dcm"}
    for path in kept:
        if path.suffix == ".json":
            assert "DOE" not in path.read_text().upper()
            assert "PATIENT-1" not in path.read_text().upper()
    assert not [path for path in kept if path.suffix == ".bin"], "an input that is not forgotten"
    await client.delete(f"{JOBS}/{job['id']}")
    assert not [path for path in (tmp_path / "jobs").rglob("*") if path.is_file()]


def check_seg(content: bytes, mask: bytes, study: Path) -> None:
    """Read the Segmentation by pydicom alone: its frames are the mask's voxels, class by class."""
    import dicoms
    import pydicom

    seg = pydicom.dcmread(io.BytesIO(content))
    source = pydicom.dcmread(next((study / str(dicoms.T1CE.number)).iterdir()))
    assert seg.PatientID == source.PatientID
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    voxels = np.asarray(image_of(mask).dataobj)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    counts = dict.fromkeys((1, 2, 3), 0)
    for frame, about in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        number = about.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        counts[number] += int(frame.sum())
    assert counts == {k: int((voxels == v).sum()) for k, v in {1: 1, 2: 2, 3: 4}.items()}


async def test_what_is_no_raw_study_is_refused_before_it_is_prepared(
    client: httpx.AsyncClient, double: Double, files: dict[str, bytes]
) -> None:
    archive = {"files": {"study": ("study.zip", zipped({"a.dcm": b"x"}))}}
    refusals: list[tuple[dict[str, Any], int, str]] = [
        ({"files": parts(files), "data": QUERY}, 400, "as one zip"),
        ({"files": parts(files), "params": QUERY}, 400, "as one zip"),
        ({"content": b"no zip", "headers": ZIP, "params": QUERY}, 400, "as one zip"),
        ({"json": {"raw": True}}, 422, "as one zip"),
        ({"json": {"images": {}}, "params": QUERY}, 415, "as one zip"),
        ({**archive, "params": {"raw": "maybe"}}, 422, "expected true or false"),
        ({**archive, "data": {"raw": "yes"}}, 422, "expected true or false"),
        ({"files": parts(files), "headers": DICOM}, 406, "raw=true"),
        ({"files": parts(files), "headers": ALL_OF_IT}, 406, "raw=true"),
    ]
    for body, status, sentence in refusals:
        answer = await client.post(CASES, **body)
        assert answer.status_code == status, (answer.text, body)
        assert sentence in answer.json()["error"]
    assert double.asked == []


@limited(raw_files=100)
async def test_an_archive_of_too_many_files_is_refused_at_once(
    client: httpx.AsyncClient, double: Double
) -> None:
    archive = zipped({f"{number}.dcm": b"" for number in range(50_000)})
    began = time.monotonic()
    answer = await client.post(CASES, params=QUERY, content=archive, headers=ZIP)
    assert (answer.status_code, time.monotonic() - began < 2) == (413, True)
    assert "more than 100 files" in answer.json()["error"]
    assert double.asked == []


@pytest.mark.raw
@limited(inflated_bytes=1 << 20)
async def test_hostile_archives_are_sentences(client: httpx.AsyncClient) -> None:
    bomb = zipped({"bomb.dcm": bytes(20 << 20)})
    away = zipped({"../../away.nii": b"x"})
    for archive in (bomb, away, zipped({"a.txt": b"x"}), b"PK\x03\x04" + bytes(100)):
        answer = await client.post(CASES, params=QUERY, content=archive, headers=ZIP)
        assert answer.status_code == 422, answer.text
        assert "/tmp" not in answer.json()["error"]


async def test_a_server_without_the_extra_says_so(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refusal = await double.model.segment({RAW: zipped({"a.dcm": b"x"})}, "gli-2020")
    assert isinstance(refusal, Refusal)
    assert refusal.status == 422
    assert refusal.reason.startswith("this server takes no raw studies: raw scans need SimpleITK")


@pytest.mark.raw
async def test_nifti_goes_not_home_as_dicom(client: httpx.AsyncClient, nifti: Path) -> None:
    content = heads.archive_of(nifti)
    answer = await client.post(CASES, params=QUERY, content=content, headers={**ZIP, **DICOM})
    assert answer.status_code == 406
    assert "only masks of DICOM go home as DICOM" in answer.json()["error"]
