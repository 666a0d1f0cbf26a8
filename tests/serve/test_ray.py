"""The service under Ray Serve on a free port: masks of the Predictor, jobs, `score --endpoint`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty_s3
import httpx
import pytest

pytest.importorskip("tensorflow")
from model.test_bundle import RECIPE, make_model

from ray_brats import labels
from ray_brats.cases.volume import encode
from ray_brats.commands import masks
from ray_brats.engine import cluster
from ray_brats.errors import UsageError
from ray_brats.files import ledger, storage
from ray_brats.model import bundle
from ray_brats.recipes.tasks import TASKS
from ray_brats.serve import deploy
from ray_brats.serve import settings as deployments
from ray_brats.serve.http import access
from ray_brats.training import export

pytestmark = [pytest.mark.ray, pytest.mark.tf]
KEY = access.make_key()
TOLD: list[str] = []


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "bundle"
    export.write(make_model(), RECIPE, str(folder), facts={"release": "brats2020"})
    return folder


@pytest.fixture(scope="module")
def url(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("state")
    (folder / "keys.txt").write_text(access.line_of("tests", KEY) + "\n")
    settings = deployments.ServeSettings(
        models={"default": (str(bundle_folder),)},
        state=deployments.state_of(str(folder / "state")),
        api_keys=str(folder / "keys.txt"),
    )
    port = deployments.free_port("127.0.0.1", 0)
    with cluster.running() as there:
        fitted = deployments.fitting(settings, there, None)
        with deploy.served(fitted, port=port, told=TOLD.append) as found:
            yield found


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=url, headers=headers, timeout=300) as made:
        yield made


def files_of(case: Path) -> dict[str, Any]:
    names = RECIPE.preprocess.modalities
    return {name: (case / f"{case.name}_{name}.nii.gz").read_bytes() for name in names}


@pytest.fixture(scope="module")
def case(cohort_folder: Path) -> Path:
    return cohort_folder / "BraTS20_Training_001"


@pytest.fixture(scope="module")
def mask(bundle_folder: Path, case: Path) -> bytes:
    found = bundle.load_predictor((str(bundle_folder),)).segment(files_of(case))
    return encode(labels.from_class_index(found.mask_native, TASKS["gli-2020"]), found.geometry)


def test_the_served_mask_is_the_predictors(client: httpx.Client, case: Path, mask: bytes) -> None:
    answer = client.post("/v1/segmentations", files=files_of(case))
    assert answer.status_code == 200, answer.text
    assert answer.content == mask
    assert client.get("/v1/models").json()["models"][0]["name"] == "default"


def test_a_bad_file_and_a_missing_key_are_refused(client: httpx.Client, case: Path) -> None:
    bad = client.post("/v1/segmentations", files={**files_of(case), "t2": b"no scan"})
    assert (bad.status_code, bad.json()["file"]) == (422, "t2")
    nobody = httpx.post(f"{client.base_url}/v1/segmentations", files=files_of(case))
    assert nobody.status_code == 401


def test_calls_are_told_to_whoever_started_the_service(client: httpx.Client) -> None:
    assert client.get("/v1/jobs/no-such-job").status_code == 404
    deadline = time.monotonic() + 30
    while not (seen := [line for line in TOLD if "/v1/jobs/{job_id}" in line]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    told = json.loads(seen[0])
    assert (told["method"], told["status"], told["key"]) == ("GET", 404, "tests")


def test_a_job_gives_the_same_mask(client: httpx.Client, case: Path, mask: bytes) -> None:
    accepted = client.post("/v1/jobs", files=files_of(case))
    assert accepted.status_code == 202
    where = accepted.headers["location"]
    deadline = time.monotonic() + 120
    while client.get(where).json()["state"] not in ("done", "failed"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert client.get(f"{where}/mask").content == mask


def test_score_through_the_endpoint_is_direct_scoring(
    url: str, bundle_folder: Path, cohort_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("RAY_BRATS_API_KEY", KEY)
    far = tmp_path / "far"
    asked = masks.ScoreOptions(cohort=str(cohort_folder), predictions=str(far), endpoint=url)
    summary = masks.score(asked)
    assert summary.counts == {"ok": 5}
    again = masks.score(asked)
    assert again.processed == 0
    # Direct scoring takes what is there for its own work.
    own = masks.Bundles(bundle=(str(bundle_folder),))
    direct = masks.score(dataclasses.replace(asked, endpoint=None, bundles=own))
    assert (direct.processed, direct.skipped) == (0, 5)
    predictor = bundle.load_predictor((str(bundle_folder),))
    for row in ledger.read_table(str(far / "scores.parquet")):
        folder = cohort_folder / row["case_id"]
        found = predictor.segment(files_of(folder))
        raw = labels.from_class_index(found.mask_native, TASKS["gli-2020"])
        name = f"{row['case_id']}.nii.gz"
        assert (far / name).read_bytes() == encode(raw, found.geometry)
        assert row["wt_ml"] == pytest.approx(found.region_ml()["WT"], abs=1e-6)


def test_a_cluster_that_serves_is_left_alone(url: str, client: httpx.Client) -> None:
    second = deployments.ServeSettings(models={"default": ("anything",)}, state="anywhere")
    with pytest.raises(UsageError, match=r"runs on this cluster already .*ray-brats"):
        deploy.served(second, port=1).__enter__()
    assert client.get("/readyz").status_code == 200


@pytest.mark.slow
def test_from_bucket_to_bucket_the_endpoint_gives_the_direct_masks(
    url: str, bundle_folder: Path, cohort_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    monkeypatch.setenv("RAY_BRATS_API_KEY", KEY)
    with faulty_s3.running() as server:
        for name, value in faulty_s3.credentials(server.url).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="ward")
        for file in sorted(cohort_folder.rglob("*.nii.gz")):
            name = file.relative_to(cohort_folder).as_posix()
            storage.write_bytes(f"s3://ward/cohort/{name}", file.read_bytes())
        # Ray's workers have the environment it was started in: each way is a command of its own.
        ways = {"far": ("--endpoint", url), "near": ("--bundle", str(bundle_folder))}
        for name, way in ways.items():
            command = ("-m", "ray_brats.cli", "score", "s3://ward/cohort", f"s3://ward/{name}")
            done = subprocess.run(
                [sys.executable, *command, *way, "--json"],
                capture_output=True,
                text=True,
                check=False,
                timeout=500,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            assert json.loads(done.stdout)["counts"] == {"ok": 5}
        far, near = (written("s3://ward/far"), written("s3://ward/near"))
        assert far == near
        assert sum(name.endswith(".nii.gz") for name in far) == 5


def written(uri: str) -> dict[str, Any]:
    """Masks as bytes, and of sidecars and ledger all that a repeated attempt may not change."""
    found: dict[str, Any] = {}
    for file in storage.list_files(uri):
        name = storage.name_of(file.uri)
        if name == "scores.parquet":
            found[name] = [timeless(row) for row in ledger.read_table(file.uri)]
        elif name.endswith(".json") and name != "score.json":
            sidecar = storage.read_json(file.uri)
            found[name] = sidecar | {"row": timeless(sidecar["row"])}
        else:
            found[name] = storage.read_bytes(file.uri)
    return found


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("attempts", "seconds")}


@pytest.mark.browser
def test_the_page_shows_the_mask_of_the_real_service(
    url: str, browser: Any, case: Path, mask: bytes, tmp_path: Path
) -> None:
    page = browser.new_context(accept_downloads=True).new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.fill("#key", KEY)
    page.press("#key", "Enter")
    files = [case / f"{case.name}_{name}.nii.gz" for name in RECIPE.preprocess.modalities]
    page.set_input_files("#files", [str(file) for file in files])
    page.wait_for_selector("#segment:enabled", timeout=60_000)
    page.click("#segment")
    page.wait_for_selector("#download", timeout=180_000)
    with page.expect_download() as download:
        page.click("#download")
    saved = tmp_path / "mask.nii.gz"
    download.value.save_as(saved)
    assert saved.read_bytes() == mask
    assert said == []
    assert [name for name in asked if not name.startswith((url, f"blob:{url}", "data:"))] == []
