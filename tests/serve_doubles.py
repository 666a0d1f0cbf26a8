"""A service without Ray or TensorFlow: a network that thresholds; and what its clients do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from ray_brats import labels
from ray_brats.cases.volume import encode
from ray_brats.labels import Task
from ray_brats.model.predict import Predictor
from ray_brats.model.windows import Forward
from ray_brats.recipes import jsonform, named
from ray_brats.recipes.config import Recipe
from ray_brats.recipes.tasks import TASKS
from ray_brats.serve.http.access import Keys, Pseudonyms
from ray_brats.serve.http.app import build
from ray_brats.serve.http.gate import Gate
from ray_brats.serve.jobs import leases, queue
from ray_brats.serve.jobs.queue import Jobs
from ray_brats.serve.jobs.store import JobsStore
from ray_brats.serve.limits import Limits, Refusal
from ray_brats.serve.models import Answer, ServedModel
from ray_brats.serve.replica import Model
from ray_brats.serve.service import Service
from ray_brats.serve.telemetry import Telemetry

SMOKE = named.get("smoke")
MODALITIES = tuple(SMOKE.preprocess.modalities)

BUNDLES = ["f" * 64]
SERVED = ServedModel(
    name="default",
    modalities=MODALITIES,
    task=TASKS["gli-2020"],
    card={
        "recipe": json.loads(json.dumps(jsonform.as_json(SMOKE))),
        "identity": {"bundles": BUNDLES, "options": {"tta": None, "overlap": None}},
    },
    default=True,
)


def threshold(batch: np.ndarray) -> np.ndarray:
    """Regions by intensity: enough to have some of each."""
    return np.stack([batch[..., 2] > limit for limit in (0.5, 1.0, 1.5)], -1).astype(np.float32)


def threshold_of(recipe: Recipe) -> Forward:
    """The same for any number of regions."""
    limits = [0.5 * number for number in range(1, len(recipe.targets.learnt) + 1)]

    def network(batch: np.ndarray) -> np.ndarray:
        return np.stack([batch[..., 2] > limit for limit in limits], -1).astype(np.float32)

    return network


def served_of(task: Task) -> ServedModel:
    """`SERVED` for another task."""
    recipe = dataclasses.replace(SMOKE, targets=task.targets)
    card = {**SERVED.card, "recipe": json.loads(json.dumps(jsonform.as_json(recipe)))}
    return dataclasses.replace(SERVED, task=task, card=card)


def predictor() -> Predictor:
    return Predictor([threshold], SMOKE)


def files_of(case: Path) -> dict[str, bytes]:
    return {name: (case / f"{case.name}_{name}.nii.gz").read_bytes() for name in MODALITIES}


def parts(files: Mapping[str, bytes]) -> dict[str, tuple[str, bytes]]:
    """The files of a case as the parts of a form."""
    return {name: (f"{name}.nii.gz", content) for name, content in files.items()}


def expected(files: Mapping[str, bytes], task: str = "gli-2020") -> bytes:
    """The mask that the Predictor alone makes."""
    prediction = predictor().segment(files)
    raw = labels.from_class_index(prediction.mask_native, TASKS[task])
    return encode(raw, prediction.geometry)


async def state_of(client: httpx.AsyncClient, job: str, *states: str) -> dict[str, Any]:
    """A job as the service tells it, once it is in one of these states."""
    for _ in range(1200):
        answer = (await client.get(f"/v1/jobs/{job}")).json()
        if answer["state"] in states:
            return dict(answer)
        await asyncio.sleep(0.05)
    raise AssertionError(f"the job did not end: {answer}")


def limited(**limits: Any) -> pytest.MarkDecorator:
    """Gives the service of a test these limits."""
    return pytest.mark.parametrize("limits", [Limits(**limits)], ids=[" ".join(limits)])


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def hasten(monkeypatch: pytest.MonkeyPatch, stale_seconds: float = 0.5) -> None:
    """Owners of jobs that died are found out within tenths of a second."""
    monkeypatch.setattr(leases, "BEAT_SECONDS", stale_seconds / 10)
    monkeypatch.setattr(leases, "STALE_SECONDS", stale_seconds)
    monkeypatch.setattr(queue, "LOOK_SECONDS", stale_seconds / 5)


class Double:
    """The application with everything in this process."""

    def __init__(
        self,
        state: Path | str,
        *,
        limits: Limits | None = None,
        keys: Path | None = None,
        host: str | None = None,
        served: ServedModel = SERVED,
    ) -> None:
        self.limits = limits or Limits()
        recipe = jsonform.from_json(Recipe, served.card["recipe"])
        made = (Predictor([threshold_of(recipe)], recipe), recipe)
        self.model = Model(lambda: made, BUNDLES, self.limits, served.task)
        self.hold = asyncio.Event()
        self.hold.set()
        self.asked: list[dict[str, Any]] = []
        self.waiting = 0
        self.broken = False
        self.store = JobsStore(str(state))
        telemetry, models = Telemetry(), {"default": served}
        self.jobs = Jobs(self.store, models, self.segment, self.limits)
        self.missing: list[str] = []
        self.service = Service(models, self.segment, self.jobs, self.limits, telemetry, self.not_up)
        self.gate = Gate(
            Keys(str(keys) if keys else None),
            Pseudonyms(b"secret"),
            telemetry,
            self.limits,
            host=host,
        )
        self.app = build(self.service, self.gate)

    async def not_up(self) -> list[str]:
        return self.missing

    async def segment(self, name: str, images: Mapping[str, Any], task: str) -> Answer | Refusal:
        self.waiting += 1
        await self.hold.wait()
        if self.broken:
            raise MemoryError("something nobody expects")
        self.waiting -= 1
        self.asked.append(dict(images))
        return await self.model.segment(images, task)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://test", timeout=60
        )


@contextlib.contextmanager
def listening(app: Any) -> Iterator[str]:
    """The application on a free port of loopback, in a thread."""
    options = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(options)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    (listener,) = server.servers
    yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
