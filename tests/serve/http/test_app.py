"""What the application tells of itself: models, a phantom, readiness, metrics, and its page."""

from __future__ import annotations

import io
import zipfile

import httpx
import pytest
from serve_doubles import BUNDLES, MODALITIES, Double, parts, state_of

from ray_brats.serve import niivue

pytestmark = pytest.mark.anyio


async def test_models_are_listed_with_what_clients_need_to_know(client: httpx.AsyncClient) -> None:
    (model,) = (await client.get("/v1/models")).json()["models"]
    assert (model["name"], model["default"], model["release"]) == ("default", True, "brats2020")
    assert model["modalities"] == list(MODALITIES)
    assert model["card"]["identity"]["bundles"] == BUNDLES


async def test_the_phantom_is_a_case_that_the_service_segments(client: httpx.AsyncClient) -> None:
    phantom = await client.get("/v1/phantom")
    assert phantom.headers["content-type"] == "application/zip"
    names = zipfile.ZipFile(io.BytesIO(phantom.content)).namelist()
    assert len(names) >= len(MODALITIES)
    headers = {"content-type": "application/zip"}
    answer = await client.post("/v1/segmentations", content=phantom.content, headers=headers)
    assert answer.status_code == 200, answer.text


async def test_readiness_names_what_is_not_up(double: Double, client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).status_code == 200
    double.missing.append("model-default")
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "model-default" in answer.json()["error"]
    assert int(answer.headers["retry-after"]) >= 1


async def test_metrics_count_cases_of_requests_and_of_jobs(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    await client.post("/v1/segmentations", files=parts(files))
    await client.post("/v1/segmentations", files=parts({**files, "t2": b"no scan"}))
    for _ in range(2):
        job = (await client.post("/v1/jobs", files=parts(files))).json()["id"]
        await state_of(client, job, "done")
    lines = (await client.get("/metrics")).text.splitlines()
    route = 'method="POST",route="/v1/segmentations"'
    assert f'ray_brats_requests_total{{{route},status="200"}} 1.0' in lines
    assert f'ray_brats_requests_total{{{route},status="422"}} 1.0' in lines
    assert 'ray_brats_cases_total{model="default"} 1.0' in lines
    assert 'ray_brats_jobs_cases_total{model="default"} 2.0' in lines
    assert 'ray_brats_pending{model="default"} 0.0' in lines
    assert "ray_brats_jobs_waiting 0.0" in lines
    assert 'ray_brats_seconds_count{stage="segment"} 1.0' in lines
    assert 'ray_brats_volume_ml_count{region="WT"} 1.0' in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


async def test_the_page_and_its_modules_come_with_the_service(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    module = await client.get("/page/main.js")
    assert (module.status_code, "javascript" in module.headers["content-type"]) == (200, True)
    assert (await client.get("/page/nothing.js")).status_code == 404


async def test_the_3d_viewer_of_the_page_comes_where_there_is_one(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = await client.get("/page/vendor/niivue.js")
    assert (viewer.status_code, "javascript" in viewer.headers["content-type"]) == (200, True)
    assert b"Niivue" in viewer.content[-100:]
    monkeypatch.setattr(niivue, "module", lambda: None)
    absent = await client.get("/page/vendor/niivue.js")
    assert absent.status_code == 404
    assert "python -m ray_brats.serve.niivue" in absent.json()["error"]
