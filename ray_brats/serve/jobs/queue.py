"""The process that takes jobs through: a queue over `JobsStore`.

What nobody works on is queued, at the start and again and again: a job outlives this process, the
models' and the server. Several of these may share a state, as during an upgrade: each works only on
jobs whose lease it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping

from ray_brats.errors import UsageError
from ray_brats.progress import say
from ray_brats.serve.jobs import cohort
from ray_brats.serve.jobs.holding import Held
from ray_brats.serve.jobs.leases import Lease, Lost
from ray_brats.serve.jobs.line import Line
from ray_brats.serve.jobs.quota import Quota
from ray_brats.serve.jobs.records import ENDED, Change, Job, JobRequest
from ray_brats.serve.jobs.store import JobsStore
from ray_brats.serve.limits import Limits, Refusal
from ray_brats.serve.models import Answer, Segment, Segmentation, ServedModel
from ray_brats.serve.telemetry import Telemetry

PAUSES_SECONDS = (1.0, 5.0, 15.0)
NOTE_SECONDS = 1.0
"""Between two notes of how far a cohort is: each is some requests to the storage."""
LOOK_SECONDS = 10.0
"""How often jobs are looked for that others left."""
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
        self._cases, self._cohorts = Line(), Line()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._held = Held(self._lost, threads=at_once + 1)
        self._workers: list[asyncio.Task[None]] = []
        self._stopped = False
        self._quota = Quota(limits.state_bytes)

    async def start(self) -> None:
        """Queue what others left, and begin; does nothing the second time."""
        async with self._starting:
            if self._workers or self._stopped:
                return
            await self._look()
            lines = [self._cohorts, *[self._cases] * self._at_once]
            self._workers = [asyncio.create_task(self._work(line)) for line in lines]
            for care in (self._look_again(), self._held.beat(), self._tidy()):
                self._workers.append(asyncio.create_task(care))

    async def stop(self) -> None:
        """Take no more, and give back what is under way: another process goes on at once."""
        self._stopped = True
        async with self._starting:
            held, tasks = self._held.all(), [*self._workers, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for job_id, lease in held.items():
            # What ended at the last moment is lost in this sense too.
            with contextlib.suppress(Lost, OSError):
                await asyncio.to_thread(self._store.let_go, job_id, lease)

    async def check_room(self, size_bytes: int) -> None:
        """Do nothing where a body of this size may be kept; raises `Refusal` 507."""
        await self.start()
        self._quota.check(size_bytes)

    async def submit(self, request: JobRequest, files: Mapping[str, bytes]) -> Job:
        """Keep and queue a job; raises `Refusal` 429 where too many wait, 507 without room."""
        await self.start()
        if self._stopped:
            raise Refusal(503, "the service is ending: try again once it is back", "", 30)
        if self._waiting() >= self._limits.queued_jobs:
            raise Refusal(429, "too many jobs wait: try again later", "", 60)
        try:
            with self._quota.taken(sum(map(len, files.values()))):
                job = await asyncio.to_thread(self._store.add, request, files)
        except OSError as error:
            say(f"serve: a job could not be kept: {type(error).__name__}")
            raise Refusal(507, "the server cannot keep the job: try again later", "", 60) from error
        self._line_of(request).add(job.id, time.time())
        return job

    def _line_of(self, request: JobRequest) -> Line:
        return self._cohorts if request.cohort else self._cases

    def _waiting(self) -> int:
        return len(self._cases) + len(self._cohorts)

    async def _look(self) -> None:
        """Let jobs wait that nobody works on, and those go that others took or ended."""
        with self._quota.counting() as sizes:
            found = await asyncio.to_thread(self._store.look)
            sizes.append(found.size_bytes)
        for line in (self._cases, self._cohorts):
            line.drop(found.taken)
        for job_id in found.free:
            if job_id in self._running or job_id in self._cases or job_id in self._cohorts:
                continue
            try:
                request = await asyncio.to_thread(self._store.request, job_id)
            except FileNotFoundError:
                continue
            self._line_of(request).add(job_id, request.arrived_unix)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - the next look may find what this one did not
                say(f"serve: jobs could not be looked for: {type(error).__name__}")

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
        try:
            job = await asyncio.to_thread(self._store.update, job_id, Change(state="cancelled"))
        except FileNotFoundError:
            return None
        for line in (self._cases, self._cohorts):
            line.drop([job_id])
        self._lost(job_id)
        return job

    async def metrics(self) -> bytes:
        """Metrics of this process, in Prometheus's text format."""
        self._telemetry.waiting.set(self._waiting())
        return self._telemetry.text()

    async def _counted(
        self, model: str, images: Mapping[str, bytes | str], task: str
    ) -> Answer | Refusal:
        answer = await self._segment(model, images, task)
        if isinstance(answer, Answer):
            self._telemetry.case_done(model, answer)
        return answer

    async def _work(self, line: Line) -> None:
        while True:
            job_id = await line.next()
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
        lease = await asyncio.to_thread(self._store.claim, job_id)
        if lease is None:
            return
        with self._held.holding(job_id, lease):
            await self._run_with(job_id, lease)

    async def _run_with(self, job_id: str, lease: Lease) -> None:
        try:
            job = await asyncio.to_thread(self._store.begin, job_id, lease)
            if job.state == "running":
                end = await self._end_of(job_id, lease)
                await asyncio.to_thread(self._store.update, job_id, end, lease)
        except (Lost, FileNotFoundError):
            # Another process goes on with it, or somebody wants it no more.
            say(f"serve: job {job_id} is no longer this process's")

    def _lost(self, job_id: str) -> None:
        if job_id in self._running:
            self._running[job_id].cancel()

    async def _end_of(self, job_id: str, lease: Lease) -> Change:
        """Do a job; how it ends. Raises `Lost`."""
        try:
            request = await asyncio.to_thread(self._store.request, job_id)
            if request.model not in self._models:
                raise Refusal(404, f"the model {request.model} is no longer served")
            work = self._cohort if request.cohort else self._case
            return await work(job_id, request, lease)
        except Lost:
            raise
        except Refusal as error:
            reason = f"{error.file}: {error.reason}" if error.file else error.reason
            return Change(state="failed", error=reason)
        except UsageError as error:
            return Change(state="failed", error=str(error))
        except Exception as error:  # noqa: BLE001 - an accepted job always comes to an end
            reason = f"the job cannot be done: {type(error).__name__}"
            return Change(state="failed", error=reason)

    async def _case(self, job_id: str, request: JobRequest, lease: Lease) -> Change:
        images: Mapping[str, bytes | str] = request.images
        if request.files:
            images = await asyncio.to_thread(self._store.files, job_id, request.files)
        answer = await self._patiently(request.model, images, request.task)
        self._quota.add(await asyncio.to_thread(self._store.put_answer, job_id, answer, lease))
        return Change(
            state="done",
            progress=1.0,
            volumes_ml=answer.volumes_ml,
            remarks=answer.remarks,
            bundles=answer.bundles,
            home=answer.home.modality if answer.home else None,
        )

    async def _cohort(self, job_id: str, request: JobRequest, lease: Lease) -> Change:
        clock, told = asyncio.get_running_loop().time, -math.inf

        async def note(progress: float) -> None:
            nonlocal told
            if clock() - told < NOTE_SECONDS:
                return
            told = clock()
            # Whoever lost the job is told so before it writes the next mask.
            with contextlib.suppress(Lost, FileNotFoundError):
                change = Change(progress=progress)
                await asyncio.to_thread(self._store.update, job_id, change, lease)

        model, fence = self._models[request.model], lease.check
        return await cohort.run(request, model, self._counted, self._limits, note, fence)

    async def _patiently(self, model: str, images: Mapping[str, bytes | str], task: str) -> Answer:
        """Ask a model, again where a process died or the storage did not answer."""
        for pause in (*PAUSES_SECONDS, None):
            try:
                answer = await self._counted(model, images, task)
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
