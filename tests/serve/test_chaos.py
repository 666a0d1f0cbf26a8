"""The service under Ray Serve while its processes die, are replaced, or speak HTTPS."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytest.importorskip("tensorflow")
from model.test_bundle import RECIPE, make_model
from ray import serve

from ray_brats import labels
from ray_brats.cases.volume import encode
from ray_brats.engine import cluster
from ray_brats.model import bundle
from ray_brats.recipes.tasks import TASKS
from ray_brats.serve import deploy
from ray_brats.serve import settings as deployments
from ray_brats.serve.jobs.store import JobsStore
from ray_brats.serve.limits import Limits
from ray_brats.serve.settings import ServeSettings
from ray_brats.training import export

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.slow]
URL = "/v1/segmentations"


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "bundle"
    export.write(make_model(), RECIPE, str(folder), facts={"release": "brats2020"})
    return folder


@pytest.fixture(scope="module")
def case(cohort_folder: Path) -> dict[str, bytes]:
    folder = cohort_folder / "BraTS20_Training_001"
    names = RECIPE.preprocess.modalities
    return {name: (folder / f"{folder.name}_{name}.nii.gz").read_bytes() for name in names}


@pytest.fixture(scope="module")
def mask(bundle_folder: Path, case: dict[str, bytes]) -> bytes:
    found = bundle.load_predictor((str(bundle_folder),)).segment(case)
    return encode(labels.from_class_index(found.mask_native, TASKS["gli-2020"]), found.geometry)


@contextlib.contextmanager
def served(
    bundle_folder: Path, state: Path, *, names: tuple[str, ...] = ("default",),
    replicas: int | None = None, tls: tuple[str, str] | None = None,
    overlap: float | None = None, told: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, ServeSettings]]:  # fmt: skip
    settings = ServeSettings(
        models=dict.fromkeys(names, (str(bundle_folder),)),
        state=deployments.state_of(str(state)),
        limits=Limits(answer_seconds=240),
        overlap=overlap,
    )
    port = deployments.free_port("127.0.0.1", 0)
    with cluster.running() as there:
        fitted = deployments.fitting(settings, there, replicas)
        with deploy.served(fitted, port=port, tls=tls, told=told) as url:
            yield url, fitted


class Load(threading.Thread):
    """Posts one case after the other until told to end."""

    def __init__(self, url: str, case: dict[str, bytes], mask: bytes) -> None:
        super().__init__(daemon=True)
        self._url, self._case, self._mask = url, case, mask
        self.seen: Counter[str] = Counter()
        self.end = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=300) as client:
            while not self.end.is_set():
                self.seen[self._once(client)] += 1

    def _once(self, client: httpx.Client) -> str:
        try:
            answer = client.post(URL, files=self._case)
        except httpx.HTTPError as error:
            return type(error).__name__
        if answer.status_code == 200:
            return "mask" if answer.content == self._mask else "another mask"
        if answer.headers.get("Retry-After"):
            time.sleep(0.5)
            return "told to come again"
        return f"{answer.status_code} {answer.text[:200]}"


@contextlib.contextmanager
def loaded(url: str, case: dict[str, bytes], mask: bytes, clients: int) -> Iterator[Counter[str]]:
    """So many clients at work inside; what they met, complete once the block is left."""
    seen: Counter[str] = Counter()
    threads = [Load(url, case, mask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    yield seen
    for thread in threads:
        thread.end.set()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive(), "a request hangs"
        seen.update(thread.seen)


def processes(deployment: str) -> list[psutil.Process]:
    """The replicas of a deployment that this test started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if f"ServeReplica:{deploy.NAME}:{deployment}" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_one(deployment: str) -> None:
    deadline = time.monotonic() + 120
    while not processes(deployment):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    processes(deployment)[0].kill()


def ready(url: str) -> bool:
    return httpx.get(f"{url}/readyz", timeout=60).status_code == 200


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 180
    while not ready(url):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def ended(client: httpx.Client, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + 300
    while True:
        answer = client.get(f"/v1/jobs/{job}")
        if answer.status_code == 200 and answer.json()["state"] in ("done", "failed"):
            return dict(answer.json())
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)


def test_killed_replicas_lose_no_job(
    bundle_folder: Path, case: dict[str, bytes], mask: bytes, tmp_path: Path
) -> None:
    with served(bundle_folder, tmp_path) as (url, _):
        client, jobs = httpx.Client(base_url=url, timeout=300), list[str]()

        def submit(number: int) -> None:
            for _ in range(number):
                answer = client.post("/v1/jobs", files=case)
                if answer.status_code == 202:
                    jobs.append(answer.json()["id"])

        with loaded(url, case, mask, clients=3) as seen:
            submit(6)
            unready = False
            for victim in ("model-default", deploy.JOBS, "ingress", "model-default"):
                kill_one(victim)
                for _ in range(20):
                    unready = unready or not ready(url)
                    time.sleep(0.1)
                submit(4)
                wait_until_ready(url)
            states = [ended(client, job) for job in jobs]
        assert unready
        assert len(jobs) >= 10
        assert [state["state"] for state in states] == ["done"] * len(jobs), states
        assert {client.get(f"/v1/jobs/{job}/mask").content for job in jobs} == {mask}
        assert seen["mask"] > 10
        # The last is Serve's own proxy's, for what was in the ingress that died.
        assert set(seen) <= {"mask", "told to come again", "500 Internal Server Error"}, seen
        assert seen["500 Internal Server Error"] <= 3


def test_at_the_end_all_that_was_accepted_is_answered(
    bundle_folder: Path, case: dict[str, bytes], tmp_path: Path
) -> None:
    def post(url: str) -> httpx.Response:
        return httpx.post(f"{url}{URL}", files=case, timeout=300)

    told = list[str]()
    # Two in the model, six that wait for it; windows that overlap by far make them slow.
    with ThreadPoolExecutor(8) as pool:
        with served(bundle_folder, tmp_path, overlap=0.9, told=told.append) as (url, _):
            post(url)
            began = time.monotonic()
            first = post(url)
            each = time.monotonic() - began
            answers = [pool.submit(post, url) for _ in range(8)]
            time.sleep(each)
        left = time.monotonic() - began
        assert {answer.result().status_code for answer in answers} == {200}
        assert {answer.result().content for answer in answers} == {first.content}
    assert len(told) == 10, "a call that was answered while it drained is told like any other"
    assert left > 5 * each, "they were slow enough for some to wait"


def test_at_the_end_jobs_under_way_are_given_back(
    bundle_folder: Path, case: dict[str, bytes], tmp_path: Path
) -> None:
    with served(bundle_folder, tmp_path, overlap=0.9) as (url, _):
        jobs = [httpx.post(f"{url}/v1/jobs", files=case, timeout=300).json() for _ in range(12)]
        while httpx.get(f"{url}/v1/jobs/{jobs[0]['id']}").json()["state"] == "queued":
            time.sleep(0.1)
    store = JobsStore(str(tmp_path))
    known = [found for job in jobs if (found := store.get(job["id"]))]
    waiting = {job.id for job in known if job.state == "queued"}
    assert waiting
    assert {job.state for job in known if job.id not in waiting} <= {"done"}
    assert {job.starts for job in known if job.id in waiting} == {0}
    # Nobody has to wait until an owner seems dead.
    assert store.look().free == waiting


def test_a_rolling_update_under_load_fails_no_request(
    bundle_folder: Path, case: dict[str, bytes], mask: bytes, tmp_path: Path
) -> None:
    with served(bundle_folder, tmp_path) as (url, settings):
        with loaded(url, case, mask, clients=3) as seen:
            before = processes("model-default") + processes("ingress")
            # Every deployment takes the settings: all processes are replaced.
            new = dataclasses.replace(settings, log_names=True)
            serve.run(deploy.application(new), name=deploy.NAME, route_prefix="/")
            time.sleep(5)
            after = processes("model-default") + processes("ingress")
        assert not {process.pid for process in before} & {process.pid for process in after}
        assert set(seen) == {"mask"}, seen
        assert seen["mask"] > 10


def test_https_two_models_and_several_replicas(
    bundle_folder: Path, case: dict[str, bytes], mask: bytes, tmp_path: Path
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    made = [str(tmp_path / name) for name in ("cert.pem", "key.pem")]
    asked = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    asked += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*asked, "-out", made[0], "-keyout", made[1]], check=True, capture_output=True)
    trusted = ssl.create_default_context(cafile=made[0])
    how = {"names": ("one", "two"), "replicas": 2, "tls": (made[0], made[1])}
    with served(bundle_folder, tmp_path / "state", **how) as (url, settings):  # type: ignore[arg-type]
        assert url.startswith("https://")
        assert settings.replicas == 2
        with httpx.Client(base_url=url, verify=trusted, timeout=300) as client:
            for name in ("one", "two"):
                answer = client.post(f"{URL}?model={name}", files=case)
                assert answer.content == mask
                assert answer.headers["X-Ray-Brats-Model"] == name
            assert client.post(f"{URL}?model=three", files=case).status_code == 404
        with pytest.raises(httpx.HTTPError):
            httpx.get(url.replace("https://", "http://") + "/healthz", timeout=20)
