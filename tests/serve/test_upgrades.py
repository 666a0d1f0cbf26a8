"""Ten upgrades on one state, under load: every accepted job ends, once and for all.

The new service starts beside the old one, which then ends in peace or is killed. Once all of a
service but Ray and the network is tried so: real processes, each with the HTTP application, its
queue of jobs and its own signs of life, on one real folder, with beats ten times as fast as
outside; each gives masks that tell whose they are. And once `ray-brats serve` itself, two Ray
clusters at a time, with a model.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from serve_doubles import Double, hasten, parts

from ray_brats.serve.jobs import leases
from ray_brats.serve.jobs.store import JobsStore
from ray_brats.serve.models import Answer
from ray_brats.serve.settings import free_port

pytestmark = pytest.mark.slow
UPGRADES, CLIENTS = 10, 3
Command = Callable[[Path, int], list[str]]
"""From a state and a port to the arguments of Python."""
STALE_SECONDS = 2.0


class Stub(Double):
    """Makes a mask that says which process made it, in some tenths of a second."""

    async def segment(self, name: str, images: Mapping[str, Any], task: str) -> Answer:
        await asyncio.sleep(random.uniform(0.02, 0.3))
        who = str(os.getpid())
        return Answer(mask=who.encode(), volumes_ml={}, bundles=(who,))


async def serve(state: str, port: int) -> None:
    """One service, until SIGTERM."""
    double, ended = Stub(state), asyncio.Event()
    await double.jobs.start()
    server = uvicorn.Server(uvicorn.Config(double.app, port=port, log_level="error"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    serving = asyncio.create_task(server.serve())
    await ended.wait()
    while double.service.end():
        await asyncio.sleep(0.05)
    await double.jobs.stop()
    server.should_exit = True
    await serving


def stub_of(state: Path, port: int) -> list[str]:
    """The command of a service without Ray."""
    return ["-m", "serve.test_upgrades", str(state), str(port)]


class Service:
    """A process that serves a state."""

    def __init__(self, state: Path, command: Command = stub_of) -> None:
        port = free_port("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{port}"
        folders = [str(Path(__file__).parents[1]), *sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
        self.process = subprocess.Popen(
            [sys.executable, *command(state, port)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if command is not stub_of else None,
        )
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.1)

    def end(self, *, killed: bool) -> None:
        self.process.send_signal(signal.SIGKILL if killed else signal.SIGTERM)
        assert self.process.wait(150) == (-signal.SIGKILL if killed else 0)


class Client(threading.Thread):
    """Sends jobs to a service that is there, and remembers those that one accepted."""

    def __init__(self, files: Mapping[str, bytes], pause_seconds: float) -> None:
        super().__init__(daemon=True)
        self._files, self._pause_seconds = files, pause_seconds
        self.urls: list[str] = []
        self.accepted: list[str] = []
        self.refused = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(self._pause_seconds):
            try:
                answer = httpx.post(
                    f"{self.urls[-1]}/v1/jobs", files=parts(self._files), timeout=30
                )
            except httpx.HTTPError:
                self.refused += 1
                continue
            if answer.status_code == 202:
                self.accepted.append(answer.json()["id"])
            else:
                assert answer.headers["retry-after"]
                self.refused += 1


class Witness(threading.Thread):
    """Looks at all jobs again and again: what has ended must never be seen otherwise."""

    def __init__(self, state: Path, makers: Callable[[bytes], tuple[str, ...]]) -> None:
        super().__init__(daemon=True)
        self._state, self._makers = state, makers
        self.ends: dict[str, tuple[str, bytes | None]] = {}
        self.wrong: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        store = JobsStore(str(self._state))
        while not self.ended.wait(0.5):
            for folder in (self._state / "jobs").iterdir():
                self._look(store, folder.name)

    def _look(self, store: JobsStore, name: str) -> None:
        job = store.get(name)
        if job is None or job.state in ("queued", "running"):
            if name in self.ends:
                self.wrong.append(f"{name} is {job} again")
            return
        result = store.result(name)
        mask = result.answer.mask if result else None
        if result and result.answer.bundles != self._makers(result.answer.mask):
            self.wrong.append(f"{name} has a mask of another: {result}")
        if self.ends.setdefault(name, (job.state, mask)) != (job.state, mask):
            self.wrong.append(f"{name} ended twice")


def upgraded(
    state: Path,
    files: Mapping[str, bytes],
    witness: Witness,
    command: Command,
    pause_seconds: float,
    patience_seconds: float,
) -> set[str]:
    """The jobs that were accepted while a service was replaced ten times; all of them ended."""
    (state / "jobs").mkdir()
    service = Service(state, command)
    clients = [Client(files, pause_seconds) for _ in range(CLIENTS)]
    for thread in clients:
        thread.urls = [service.url]
    for thread in (*clients, witness):
        thread.start()
    for number in range(UPGRADES):
        new = Service(state, command)
        time.sleep(1)
        for client in clients:
            client.urls.append(new.url)
        service.end(killed=number % 2 == 1)
        service = new
    for client in clients:
        client.ended.set()
        client.join(60)
    accepted = {job for client in clients for job in client.accepted}
    deadline = time.monotonic() + 600
    while not accepted <= witness.ends.keys():
        assert time.monotonic() < deadline, f"{len(accepted - witness.ends.keys())} jobs hang"
        time.sleep(0.5)
    time.sleep(patience_seconds)
    witness.ended.set()
    witness.join(60)
    service.end(killed=False)
    return accepted


def test_ten_upgrades_under_load_end_every_accepted_job_once(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    witness = Witness(tmp_path, lambda mask: (mask.decode(),))
    accepted = upgraded(tmp_path, files, witness, stub_of, 0.2, 2 * STALE_SECONDS)
    assert witness.wrong == []
    assert len(accepted) > 5 * UPGRADES
    assert {state for state, _ in witness.ends.values()} == {"done"}
    assert len({mask for _, mask in witness.ends.values()}) > UPGRADES / 2


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    from model.test_bundle import RECIPE, make_model

    from ray_brats.training import export

    folder = tmp_path / "bundle"
    export.write(make_model(), RECIPE, str(folder), facts={"release": "brats2020"})
    return folder


@pytest.mark.ray
@pytest.mark.tf
def test_ten_upgrades_of_clusters_end_every_accepted_job_once(
    tmp_path: Path, files: dict[str, bytes], bundle_folder: Path
) -> None:
    def command(state: Path, port: int) -> list[str]:
        options = ["--bundle", str(bundle_folder), "--state", str(state), "--port", str(port)]
        return ["-m", "ray_brats.cli", "serve", *options]

    sha256 = hashlib.sha256((bundle_folder / "bundle.json").read_bytes()).hexdigest()
    state = tmp_path / "state"
    state.mkdir()
    witness = Witness(state, lambda _: (sha256,))
    accepted = upgraded(state, files, witness, command, 2.0, 2 * leases.STALE_SECONDS)
    assert witness.wrong == []
    assert len(accepted) > 5 * UPGRADES
    assert {state for state, _ in witness.ends.values()} == {"done"}
    # One model, one case, one mask.
    assert len({mask for _, mask in witness.ends.values()}) == 1


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch, STALE_SECONDS)
        asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
