"""Ten upgrades on one state, under load: every accepted job ends, once and for all.

Two clusters with models do not fit on a small machine. What is tried here is all of a service but
Ray and the network: real processes, each with the HTTP application, its queue of jobs and its own
signs of life, on one real folder; each gives masks that tell whose they are. The new one starts
beside the old one, which then ends in peace or is killed. Beats are ten times as fast as outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from serve_doubles import Double, hasten, parts

from ray_brats.serve.jobs.store import JobsStore
from ray_brats.serve.models import Answer
from ray_brats.serve.settings import free_port

pytestmark = pytest.mark.slow
UPGRADES, CLIENTS = 10, 3
STALE_SECONDS = 2.0


class Stub(Double):
    """Makes a mask that says which process made it, in some tenths of a second."""

    async def segment(self, name: str, images: Mapping[str, Any], release: str) -> Answer:
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


class Service:
    """A process that serves a state."""

    def __init__(self, state: Path) -> None:
        port = free_port("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{port}"
        folders = [str(Path(__file__).parents[1]), *sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serve.test_upgrades", state, str(port)], env=environment
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
        assert self.process.wait(60) == (-signal.SIGKILL if killed else 0)


class Client(threading.Thread):
    """Sends jobs to a service that is there, and remembers those that one accepted."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(daemon=True)
        self._files = files
        self.urls: list[str] = []
        self.accepted: list[str] = []
        self.refused = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.2):
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

    def __init__(self, state: Path) -> None:
        super().__init__(daemon=True)
        self._state = state
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
        if result and result.answer.bundles != ((mask or b"").decode(),):
            self.wrong.append(f"{name} has a mask of another: {result}")
        if self.ends.setdefault(name, (job.state, mask)) != (job.state, mask):
            self.wrong.append(f"{name} ended twice")


def test_ten_upgrades_under_load_end_every_accepted_job_once(
    tmp_path: Path, cohort_folder: Path
) -> None:
    case = cohort_folder / "BraTS20_Training_001"
    files = {k: (case / f"{case.name}_{k}.nii.gz").read_bytes() for k in ("t1ce", "t2", "flair")}
    (tmp_path / "jobs").mkdir()
    service, witness = Service(tmp_path), Witness(tmp_path)
    clients = [Client(files) for _ in range(CLIENTS)]
    for thread in clients:
        thread.urls = [service.url]
    for thread in (*clients, witness):
        thread.start()
    for number in range(UPGRADES):
        new = Service(tmp_path)
        time.sleep(1)
        for client in clients:
            client.urls.append(new.url)
        service.end(killed=number % 2 == 1)
        service = new
    for client in clients:
        client.ended.set()
        client.join(60)
    accepted = {job for client in clients for job in client.accepted}
    deadline = time.monotonic() + 300
    while not accepted <= witness.ends.keys():
        assert time.monotonic() < deadline, f"{len(accepted - witness.ends.keys())} jobs hang"
        time.sleep(0.5)
    time.sleep(2 * STALE_SECONDS)
    witness.ended.set()
    witness.join(60)
    service.end(killed=False)
    assert witness.wrong == []
    assert len(accepted) > 5 * UPGRADES
    assert {state for state, _ in witness.ends.values()} == {"done"}
    assert len({mask for _, mask in witness.ends.values()}) > UPGRADES / 2


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch, STALE_SECONDS)
        asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
