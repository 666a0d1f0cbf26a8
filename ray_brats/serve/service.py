"""What the routes stand on: the models by name, places for cases and uploads, and who answers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from fastapi import Request

from ray_brats.serve.counts import Counts
from ray_brats.serve.jobs.records import Job, JobRequest
from ray_brats.serve.limits import Limits, Refusal
from ray_brats.serve.models import Answer, Segment, Segmentation, ServedModel, Submission
from ray_brats.serve.telemetry import Telemetry

LOOK_SECONDS = 1.0
_PENDING, _UPLOADS = "pending ", "uploads "
"""What the names of places begin with: a model's, and those of a key's bodies."""
ENDING_SECONDS = 10.0
"""How long after the last word that it ends the service takes nothing."""


class JobsApi(Protocol):
    """`jobs.Jobs`, or its handle in another process."""

    async def check_room(self, size_bytes: int) -> None:
        """Do nothing where a body of this size may be kept; raises `Refusal` 507."""
        ...

    async def submit(self, request: JobRequest, files: Mapping[str, bytes]) -> Job:
        """Keep and queue a job."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """The state of a job."""
        ...

    async def result(self, job_id: str) -> Segmentation | None:
        """The mask of a job that is done, with what made it."""
        ...

    async def cancel(self, job_id: str) -> Job | None:
        """Stop a job, or forget one that has ended."""
        ...

    async def metrics(self) -> bytes:
        """Metrics of the queue's process, in Prometheus's text format."""
        ...


class Service:
    """Everything that the routes need.

    Args:
        models: the first default one answers where none is named.
        segment: asks a model's replica.
        jobs: the queue.
        limits: the deployment's.
        telemetry: this process's.
        missing: what is not up, by name: asked for by `/readyz`.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        segment: Segment,
        jobs: JobsApi,
        limits: Limits,
        telemetry: Telemetry,
        missing: Callable[[], Awaitable[Sequence[str]]],
    ) -> None:
        self.models, self.jobs, self.limits, self.telemetry = models, jobs, limits, telemetry
        self._segment, self._missing = segment, missing
        self._looked: asyncio.Task[Sequence[str]] | None = None
        self._looked_at = -math.inf
        self._pending = dict.fromkeys(models, 0)
        self._uploads: Counter[str] = Counter()
        self._elsewhere: Counts = {}
        self._ending_until = 0.0
        self._mean_seconds = 5.0

    def model(self, request: Request) -> ServedModel:
        """The model that a request names; raises `Refusal` 404."""
        name = request.query_params.get("model")
        if name is None:
            return next(model for model in self.models.values() if model.default)
        if name not in self.models:
            raise Refusal(404, f"no such model: there are {', '.join(self.models)}")
        return self.models[name]

    @contextlib.asynccontextmanager
    async def admitted(self, model: ServedModel) -> AsyncIterator[None]:
        """A place for one case; raises `Refusal` 429 at once where there is none.

        Also in a service that has begun to end: it took the case's body, and waits for its answer.
        """
        self._check_free(model)
        self._pending[model.name] += 1
        self.telemetry.pending.labels(model.name).inc()
        try:
            yield
        finally:
            self._pending[model.name] -= 1
            self.telemetry.pending.labels(model.name).dec()

    def check_place(self, model: ServedModel) -> None:
        """Do nothing while there is a place for a case; raises `Refusal` 429 where there is none.

        Before its body is read, and without holding it: whoever sends slowly keeps no model idle.
        """
        self._check_open()
        self._check_free(model)

    def _check_free(self, model: ServedModel) -> None:
        pending = self._pending[model.name] + self._elsewhere.get(_PENDING + model.name, 0)
        if pending >= model.capacity + self.limits.waiting:
            wait = self._mean_seconds * self.limits.waiting / model.capacity / 2
            raise Refusal(
                429, "all places are taken: try again later", "", max(1, min(60, round(wait)))
            )

    @contextlib.asynccontextmanager
    async def uploading(self, caller: str) -> AsyncIterator[None]:
        """A place for a body while it comes; raises `Refusal` 429.

        Args:
            caller: name of the key that sends it; empty where there are none.
        """
        self._check_open()
        most = self.limits.uploads_a_key if caller else self.limits.uploads
        own = self._uploads[caller] + self._elsewhere.get(_UPLOADS + caller, 0)
        others = sum(n for name, n in self._elsewhere.items() if name.startswith(_UPLOADS))
        if self._uploads.total() + others >= self.limits.uploads or own >= most:
            raise Refusal(429, "too many uploads at a time: try again later", "", 5)
        self._uploads[caller] += 1
        try:
            yield
        finally:
            self._uploads[caller] -= 1

    def held(self) -> Counts:
        """The places that this process has given away; see `counts`."""
        pending = {_PENDING + name: count for name, count in self._pending.items()}
        return pending | {_UPLOADS + name: count for name, count in self._uploads.items()}

    def hear(self, counts: Counts) -> None:
        """Those that the other ingresses have given away."""
        self._elsewhere = counts

    def end(self) -> int:
        """Take no more cases for a while; how many of those accepted still wait for their answer.

        Whoever ends the service asks again and again: should it die, the service lives on.
        """
        self._ending_until = time.monotonic() + ENDING_SECONDS
        return sum(self._pending.values()) + self._uploads.total()

    def _is_ending(self) -> bool:
        return time.monotonic() < self._ending_until

    def _check_open(self) -> None:
        if self._is_ending():
            raise Refusal(503, "the service is ending: try again once it is back", "", 30)

    async def missing(self) -> Sequence[str]:
        """What is not up, by name; whoever asks, it is looked for once in `LOOK_SECONDS`.

        A service that ends is not up either, though it still answers what it accepted.
        """
        if self._is_ending():
            return ["the service, which is ending"]
        now = time.monotonic()
        if self._looked is None or now - self._looked_at >= LOOK_SECONDS:
            self._looked, self._looked_at = asyncio.ensure_future(self._missing()), now
        # A client that goes away must not take the answer from the others.
        return await asyncio.shield(self._looked)

    async def segment(self, model: ServedModel, submission: Submission, task: str) -> Answer:
        """The answer of a model; raises `Refusal` where it has none."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                answer = await self._segment(model.name, submission.images, task)
        except TimeoutError:
            raise Refusal(503, "the model did not answer in time", "", 60) from None
        if isinstance(answer, Refusal):
            raise answer
        self._mean_seconds += 0.2 * (clock() - began - self._mean_seconds)
        self.telemetry.case_done(model.name, answer)
        return answer
