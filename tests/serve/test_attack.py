"""A real service whom strangers, and clients with a key, try to hold up by real sockets."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

pytest.importorskip("tensorflow")
from model.test_bundle import RECIPE, make_model

from ray_brats.engine import cluster
from ray_brats.serve import deploy
from ray_brats.serve import settings as deployments
from ray_brats.serve.http import access
from ray_brats.training import export

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.slow]
URL = "/v1/segmentations"
STRANGERS, SLOW = 600, 16


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("attacked")
    export.write(make_model(), RECIPE, str(folder / "bundle"), facts={"release": "brats2020"})
    keys = "".join(f"{access.line_of(name, name)}\n" for name in ("ward", "lab"))
    (folder / "keys.txt").write_text(keys)
    settings = deployments.ServeSettings(
        models={"default": (str(folder / "bundle"),)},
        state=deployments.state_of(str(folder / "state")),
        api_keys=str(folder / "keys.txt"),
    )
    port = deployments.free_port("127.0.0.1", 0)
    with cluster.running() as there:
        fitted = deployments.fitting(settings, there, None)
        with deploy.served(fitted, port=port) as found:
            yield found


@contextlib.contextmanager
def posts(url: str, count: int, key: str = "") -> Iterator[list[socket.socket]]:
    """So many connections that promise a body of 50,000 bytes, and send none of it."""
    place = urlsplit(url)
    head = f"POST {URL} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 50000\r\n"
    head += f"Content-Type: application/zip\r\nX-API-Key: {key}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            made = socket.create_connection((place.hostname, place.port), timeout=30)
            found.append(stack.enter_context(made))
            made.sendall(head.encode())
        yield found


def seconds_of_health(url: str) -> float:
    began = time.monotonic()
    assert httpx.get(f"{url}/healthz", timeout=30).status_code == 200
    return time.monotonic() - began


def test_silent_strangers_keep_nobody_waiting(url: str) -> None:
    with posts(url, STRANGERS) as found:
        burst = seconds_of_health(url)
        slowest = max(seconds_of_health(url) for _ in range(20))
        assert found[0].recv(100).startswith(b"HTTP/1.1 401")
    sys.stdout.write(
        f"/healthz beside {STRANGERS} silent strangers: {burst:.2f} s as they come, then "
        f"{slowest:.2f} s at most\n"
    )
    assert burst < 1
    assert slowest < 1


def test_slow_bodies_of_one_key_hold_no_place_of_another(url: str, cohort_folder: Path) -> None:
    case = cohort_folder / "BraTS20_Training_001"
    names = RECIPE.preprocess.modalities
    files = {name: (case / f"{case.name}_{name}.nii.gz").read_bytes() for name in names}
    end = threading.Event()

    def trickle(sockets: list[socket.socket]) -> None:
        while not end.wait(0.5):
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.sendall(b"P")

    with posts(url, SLOW, key="ward") as found:
        thread = threading.Thread(target=trickle, args=(found,), daemon=True)
        thread.start()
        time.sleep(2)
        began = time.monotonic()
        answer = httpx.post(url + URL, files=files, headers={"x-api-key": "lab"}, timeout=120)
        took = time.monotonic() - began
        # Those within the key's share are cut, as they come at less than the least rate.
        found[0].settimeout(60)
        assert found[0].recv(100).startswith(b"HTTP/1.1 408")
        end.set()
        thread.join()
    sys.stdout.write(f"a case beside {SLOW} slow bodies of another key: {took:.1f} s\n")
    assert answer.status_code == 200
