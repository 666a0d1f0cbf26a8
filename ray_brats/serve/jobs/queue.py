"""The one process that takes jobs through: a queue over `JobsStore`.

What it finds unfinished when it starts is queued again, so a job outlives this process, the
models' and the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from ray_brats.errors import UsageError
from ray_brats.progress import say
from ray_brats.serve.jobs import cohort
from ray_brats.serve.jobs.store import ENDED, Change, Job, JobRequest, JobsStore
from ray_brats.serve.limits import Limits, Refusal
from ray_brats.serve.models import Answer, Segment, Segmentation, ServedModel
from ray_brats.serve.telemetry import Telemetry

PAUSES_SECONDS = (1.0, 5.0, 15.0)
TIDY_SECONDS = 3600.0
DAY_SECONDS = 86400.0


class Jobs:
    """Accepts, runs and cancels jobs.

    Args:
        store: where they are kept.
        models: those that jobs may name.
        segment: asks a model.
        limits: the deployment's.
        at_once: single cases that are under way side by side; beside them, one cohort is.
    """

    def __init__(
        self,
        store: JobsStore,
        models: Mapping[str, ServedModel],
        segment: Segment,
        limits: Limits,
        *,
        at_once: int = 1,
    ) -> None:
        self._store, self._segment, self._limits = store, segment, limits
        self._models, self._at_once = models, at_once
        self._starting = asyncio.Lock()
        self._telemetry = Telemetry("ray_brats_jobs")
        # A cohort takes hours: single cases do not wait for it.
        self._cases: asyncio.Queue[str] = asyncio.Queue()
        self._cohorts: asyncio.Queue[str] = asyncio.Queue()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._workers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Queue what an earlier process left, and begin; does nothing the second time."""
        async with self._starting:
            # Before any job is taken in: what is new is no leftover.
            if self._workers:
                return
            for job_id in await asyncio.to_thread(self._store.unfinished):
                queued = Change(state="queued", progress=0.0)
                await asyncio.to_thread(self._store.update, job_id, queued)
                request = await asyncio.to_thread(self._store.request, job_id)
                self._queue_of(request).put_nowait(job_id)
            queues = [self._cohorts, *[self._cases] * self._at_once]
            self._workers = [asyncio.create_task(self._work(queue)) for queue in queues]
            self._workers.append(asyncio.create_task(self._tidy()))

    async def submit(self, request: JobRequest, files: Mapping[str, bytes]) -> Job:
        """Keep and queue a job; raises `Refusal` 429 where too many wait, 507 without room."""
        await self.start()
        if self._waiting() >= self._limits.queued_jobs:
            raise Refusal(429, "too many jobs wait: try again later", "", 60)
        try:
            job = await asyncio.to_thread(self._store.add, request, files)
        except OSError as error:
            say(f"serve: a job could not be kept: {type(error).__name__}")
            raise Refusal(507, "the server cannot keep the job: try again later", "", 60) from error
        self._queue_of(request).put_nowait(job.id)
        return job

    def _queue_of(self, request: JobRequest) -> asyncio.Queue[str]:
        return self._cohorts if request.cohort else self._cases

    def _waiting(self) -> int:
        return self._cases.qsize() + self._cohorts.qsize()

    async def get(self, job_id: str) -> Job | None:
        """The state of a job."""
        return await asyncio.to_thread(self._store.get, job_id)

    async def result(self, job_id: str) -> Segmentation | None:
        """The mask of a job that is done, with what made it; see `JobsStore.result`."""
        job = await self.get(job_id)
        if job is None or job.state != "done":
            return None
        return await asyncio.to_thread(self._store.result, job_id)

    async def cancel(self, job_id: str) -> Job | None:
        """Stop a job, or forget one that has ended, with its mask; how it was or is then."""
        job = await self.get(job_id)
        if job is None:
            return None
        if job.state in ENDED:
            await asyncio.to_thread(self._store.remove, job_id)
            return job
        await asyncio.to_thread(self._store.ask_to_cancel, job_id)
        if job_id in self._running:
            self._running[job_id].cancel()
        return await asyncio.to_thread(self._store.update, job_id, Change(state="cancelled"))

    async def metrics(self) -> bytes:
        """Metrics of this process, in Prometheus's text format."""
        self._telemetry.waiting.set(self._waiting())
        return self._telemetry.text()

    async def _counted(
        self, model: str, images: Mapping[str, bytes | str], release: str
    ) -> Answer | Refusal:
        answer = await self._segment(model, images, release)
        if isinstance(answer, Answer):
            self._telemetry.case_done(model, answer)
        return answer

    async def _work(self, queue: asyncio.Queue[str]) -> None:
        while True:
            job_id = await queue.get()
            task = self._running[job_id] = asyncio.create_task(self._run(job_id))
            try:
                # A cancelled job must not end its worker.
                await asyncio.wait([task])
                if not task.cancelled() and task.exception() is not None:
                    say(f"serve: job {job_id}: {type(task.exception()).__name__}")
            finally:
                del self._running[job_id]
                if not task.done():
                    task.cancel()

    async def _tidy(self) -> None:
        """Every hour, remove what ended long enough ago."""
        while True:
            oldest = time.time() - self._limits.keep_days * DAY_SECONDS
            try:
                count = await asyncio.to_thread(self._store.forget, oldest)
            except OSError as error:
                say(f"serve: old jobs could not be removed: {type(error).__name__}")
            else:
                if count:
                    say(f"serve: {count} job(s) ended over {self._limits.keep_days:g} days ago")
            await asyncio.sleep(TIDY_SECONDS)

    async def _run(self, job_id: str) -> None:
        store = self._store
        try:
            if await asyncio.to_thread(store.is_cancelled, job_id):
                await asyncio.to_thread(store.update, job_id, Change(state="cancelled"))
                return
            job = await asyncio.to_thread(store.begin, job_id)
            if job.state != "running":
                return
            request = await asyncio.to_thread(store.request, job_id)
            if request.model not in self._models:
                raise Refusal(404, f"the model {request.model} is no longer served")
            work = self._cohort if request.cohort else self._case
            end = await work(job_id, request)
        except Refusal as error:
            reason = f"{error.file}: {error.reason}" if error.file else error.reason
            end = Change(state="failed", error=reason)
        except UsageError as error:
            end = Change(state="failed", error=str(error))
        except Exception as error:  # noqa: BLE001 - an accepted job always comes to an end
            end = Change(state="failed", error=f"the job cannot be done: {type(error).__name__}")
        await asyncio.to_thread(store.update, job_id, end)

    async def _case(self, job_id: str, request: JobRequest) -> Change:
        images: Mapping[str, bytes | str] = request.images
        if request.files:
            images = await asyncio.to_thread(self._store.files, job_id, request.files)
        answer = await self._patiently(request.model, images, request.release)
        await asyncio.to_thread(self._store.put_mask, job_id, answer.mask)
        return Change(
            state="done", progress=1.0, volumes_ml=answer.volumes_ml, bundles=answer.bundles
        )

    async def _cohort(self, job_id: str, request: JobRequest) -> Change:
        async def note(progress: float) -> None:
            await asyncio.to_thread(self._store.update, job_id, Change(progress=progress))

        model = self._models[request.model]
        return await cohort.run(request, model, self._counted, self._limits, note)

    async def _patiently(
        self, model: str, images: Mapping[str, bytes | str], release: str
    ) -> Answer:
        """Ask a model, again where a process died or the storage did not answer."""
        for pause in (*PAUSES_SECONDS, None):
            try:
                answer = await self._counted(model, images, release)
            except Refusal as error:
                if error.status < 429 or pause is None:
                    raise
            else:
                if isinstance(answer, Answer):
                    return answer
                if answer.status < 500 or pause is None:
                    raise answer
            await asyncio.sleep(pause or 0)
        raise AssertionError("unreachable")
