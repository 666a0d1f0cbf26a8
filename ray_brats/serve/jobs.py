"""The one process that takes jobs through: a queue over `JobsStore`.

What it finds unfinished when it starts is queued again, so a job outlives this process, the
models' and the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ray_brats import cohort as cohorts
from ray_brats import ledger, storage
from ray_brats.errors import RayBratsError
from ray_brats.progress import say
from ray_brats.serve.jobs_store import ENDED, Job, JobsStore
from ray_brats.serve.limits import Limits, Refusal, check_uri
from ray_brats.serve.replica import Answer
from ray_brats.serve.uploads import Submission

Segment = Callable[[str, Mapping[str, bytes | str], str], Awaitable[Answer]]
"""Model name, images and release to the answer of its replica."""
PAUSES_SECONDS = (1.0, 5.0, 15.0)


class Jobs:
    """Accepts, runs and cancels jobs.

    Args:
        store: where they are kept.
        segment: asks a model.
        limits: of the deployment.
        at_once: jobs that run side by side.
    """

    def __init__(
        self, store: JobsStore, segment: Segment, limits: Limits, *, at_once: int = 1
    ) -> None:
        self._store, self._segment, self._limits = store, segment, limits
        self._at_once = at_once
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._workers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Queue what an earlier process left, and begin; does nothing the second time."""
        if self._workers:
            return
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._at_once)]
        for job_id in await asyncio.to_thread(self._store.unfinished):
            await asyncio.to_thread(self._store.update, job_id, state="queued", progress=0.0)
            self._queue.put_nowait(job_id)

    async def submit(self, request: Mapping[str, Any], files: Mapping[str, bytes]) -> Job:
        """Keep and queue a job; raises `Refusal` 429 where too many wait."""
        await self.start()
        if self._queue.qsize() >= self._limits.queued_jobs:
            raise Refusal(429, "too many jobs wait: try again later", "", 60)
        job = await asyncio.to_thread(self._store.add, request, files)
        self._queue.put_nowait(job["id"])
        return job

    async def get(self, job_id: str) -> Job | None:
        """The state of a job."""
        return await asyncio.to_thread(self._store.get, job_id)

    async def mask(self, job_id: str) -> bytes | None:
        """The mask of a job that is done."""
        job = await self.get(job_id)
        if job is None or job["state"] != "done":
            return None
        return await asyncio.to_thread(self._store.mask, job_id)

    async def cancel(self, job_id: str) -> Job | None:
        """Stop a job; one that has ended stays as it is."""
        job = await self.get(job_id)
        if job is None or job["state"] in ENDED:
            return job
        await asyncio.to_thread(self._store.ask_to_cancel, job_id)
        if job_id in self._running:
            self._running[job_id].cancel()
        return await asyncio.to_thread(self._store.update, job_id, state="cancelled")

    def waiting(self) -> int:
        """Jobs in the queue."""
        return self._queue.qsize()

    async def _work(self) -> None:
        while True:
            job_id = await self._queue.get()
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

    async def _run(self, job_id: str) -> None:
        store = self._store
        try:
            if await asyncio.to_thread(store.is_cancelled, job_id):
                await asyncio.to_thread(store.update, job_id, state="cancelled")
                return
            job = await asyncio.to_thread(store.update, job_id, state="running")
            if job["state"] != "running":
                return
            request = await asyncio.to_thread(store.request, job_id)
            done = self._cohort if request.get("cohort") else self._case
            facts = await done(job_id, request)
        except Refusal as error:
            reason = f"{error.file}: {error.reason}" if error.file else error.reason
            facts = {"state": "failed", "error": reason}
        except (RayBratsError, OSError) as error:
            facts = {"state": "failed", "error": f"the job cannot be done: {type(error).__name__}"}
        await asyncio.to_thread(store.update, job_id, **facts)

    async def _case(self, job_id: str, request: Mapping[str, Any]) -> dict[str, Any]:
        images: Mapping[str, bytes | str] = request.get("images") or {}
        if request.get("files"):
            images = await asyncio.to_thread(self._store.files, job_id, request["files"])
        answer = await self._patiently(request["model"], images, request["release"])
        await asyncio.to_thread(self._store.put_mask, job_id, answer["mask"])
        return {"state": "done", "progress": 1.0, "volumes_ml": answer["volumes_ml"]}

    async def _cohort(self, job_id: str, request: Mapping[str, Any]) -> dict[str, Any]:
        found = await asyncio.to_thread(cohorts.find, request["cohort"])
        modalities, output = request["modalities"], request["output"]
        rows = [dict(row) for row in found.rejected]
        for number, case in enumerate(found.cases):
            row = {"case_id": case.case_id, "status": "ok", "reason": "", "file": ""}
            target = storage.join(output, f"{case.case_id}.nii.gz")
            try:
                # A CSV may name files anywhere.
                images = {
                    kind: check_uri(case.images.get(kind), self._limits, kind)
                    for kind in modalities
                }
                if not await asyncio.to_thread(storage.exists, target):
                    answer = await self._patiently(request["model"], images, request["release"])
                    await asyncio.to_thread(storage.write_bytes, target, answer["mask"])
            except Refusal as error:
                status = "error" if error.status >= 500 else "rejected"
                row |= {"status": status, "reason": error.reason, "file": error.file}
            rows.append(row)
            progress = round((number + 1) / len(found.cases), 4)
            await asyncio.to_thread(self._store.update, job_id, progress=progress)
        rows = ledger.in_order(rows)
        ledger_uri = storage.join(output, "cases.json")
        await asyncio.to_thread(storage.write_json, ledger_uri, {"cases": rows})
        failed = sum(row["status"] != "ok" for row in rows)
        told = f"{failed} of {len(rows)} cases failed: see cases.json" if failed else None
        return {"state": "failed" if failed else "done", "progress": 1.0, "error": told}

    async def _patiently(
        self, model: str, images: Mapping[str, bytes | str], release: str
    ) -> Answer:
        """Ask a model, again where a process died or the storage did not answer."""
        for pause in (*PAUSES_SECONDS, None):
            try:
                answer = await self._segment(model, images, release)
            except Refusal as error:
                if error.status < 429 or pause is None:
                    raise
            else:
                if "mask" in answer:
                    return answer
                if answer["status"] < 500 or pause is None:
                    raise Refusal(answer["status"], answer["error"], answer["file"])
            await asyncio.sleep(pause or 0)
        raise AssertionError("unreachable")


def request_of(
    submission: Submission, model: str, release: str, modalities: list[str]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A submission as what `JobsStore.add` keeps: JSON values, and the bytes of files."""
    files = {k: v for k, v in submission.images.items() if isinstance(v, bytes)}
    uris = {k: v for k, v in submission.images.items() if isinstance(v, str)}
    request = {
        "model": model,
        "release": release,
        "modalities": modalities,
        "case_id": submission.case_id,
        "images": uris,
        "cohort": submission.cohort,
        "output": submission.output,
    }
    return request, files
