"""A cohort as a job: the masks, sidecars and ledger of `score`, made by the model's replicas.

Direct scoring of the same cohort with the same bundle therefore finds everything done, and a job
goes on where direct scoring, another job or a death ended.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ray_brats.cases import cohort as cohorts
from ray_brats.cases import preprocess, volume
from ray_brats.cases.case import Cohort, Guard
from ray_brats.errors import CaseError, CaseFailed, CaseRejected
from ray_brats.files import retry
from ray_brats.files.ledger import CaseRow, Work
from ray_brats.labels import Task
from ray_brats.model import predictions
from ray_brats.model.card import check_task
from ray_brats.model.predictions import TABLE, Predictions
from ray_brats.recipes import jsonform
from ray_brats.recipes.config import Recipe
from ray_brats.serve.jobs.leases import Lost
from ray_brats.serve.jobs.records import Change, JobRequest
from ray_brats.serve.limits import Limits, Refusal, check_uri
from ray_brats.serve.models import Answer, Segment, ServedModel

CSV_BYTES, CSV_ROWS, CSV_COLUMNS = 32 << 20, 50_000, 64
"""Most of a client's CSV: it is read by the one process of all jobs."""
Told = Callable[[float], Awaitable[Any]]
"""Takes the share of the cases that are done."""
Fence = Callable[[], None]
"""Raises `Lost` once the job is another process's: nothing may be written any more."""


class _Stopped(BaseException):
    """The job was cancelled, or is another process's: leaves a case without a sidecar."""


async def run(
    request: JobRequest,
    model: ServedModel,
    segment: Segment,
    limits: Limits,
    told: Told,
    fence: Fence,
) -> Change:
    """Score the cohort of a job; how the job ended.

    Args:
        request: names the cohort and its output.
        model: who segments.
        segment: asks it.
        limits: whose prefixes hold for a CSV's files too.
        told: called after every case.
        fence: asked before anything is written.

    Raises:
        Lost: the job is another process's.
    """
    asked = model.task_named(request.asked_task) if request.asked_task else None
    cohort = await asyncio.to_thread(_find, request, asked, limits)
    task = asked or cohort.task_or(model.task) or model.task
    recipe = jsonform.from_json(Recipe, model.card["recipe"])
    check_task(task, recipe, f"the model {model.name}")
    model.check_knows(task)
    target = Predictions(
        uri=str(request.output),
        identity=model.card["identity"],
        preprocessing=recipe.preprocess,
        task=task,
    )
    finished, todo = await asyncio.to_thread(target.split_finished, cohort)

    async def tell(done: int) -> None:
        await told(round((len(finished) + done) / len(cohort.cases), 4))

    done = await _Scorer(model, segment, target, fence).score(todo, tell)
    await asyncio.to_thread(fence)
    summary = await asyncio.to_thread(target.conclude, cohort, finished, done)
    failed, rows = len(summary.failures), len(finished) + len(done) + len(cohort.rejected)
    error = f"{failed} of {rows} cases failed: see {TABLE}" if failed else None
    return Change(state="failed" if failed else "done", progress=1.0, error=error)


class _Scorer:
    """Takes cases through the model, as many at a time as its replicas work on.

    Each is a thread's, which waits for the answer that the event loop asks for.
    """

    def __init__(
        self, model: ServedModel, segment: Segment, target: Predictions, fence: Fence
    ) -> None:
        self._model, self._segment, self._target = model, segment, target
        self._fence = fence
        self._loop = asyncio.get_running_loop()
        self._under_way: set[Future[Answer | Refusal]] = set()

    async def score(
        self, todo: Sequence[Work], told: Callable[[int], Awaitable[None]]
    ) -> list[CaseRow]:
        """A row for every case; `told` hears how many there are, after each."""
        left, done = iter(todo), list[CaseRow]()
        pool = ThreadPoolExecutor(self._model.capacity, thread_name_prefix="cohort")

        async def work_off() -> None:
            for item in left:
                done.append(await self._loop.run_in_executor(pool, self._complete, item))
                await told(len(done))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._model.capacity):
                    group.create_task(work_off())
        finally:
            for future in list(self._under_way):
                future.cancel()
            pool.shutdown(wait=False, cancel_futures=True)
        return done

    def _complete(self, item: Work) -> CaseRow:
        try:
            return retry.complete(item, self._one_case, timed=True)
        except _Stopped:
            # Nobody waits for this thread any more, and none of its loop's tasks may see this.
            return CaseRow(case_id=item.case_id, status="error", reason="cancelled")

    def _one_case(self, item: Work) -> tuple[CaseRow, list[str]]:
        """The task: what the model's replicas make of one case."""
        case = predictions.case_of(item)
        uris = preprocess.files_of(case, self._target.preprocessing, with_mask=False)
        if case.channels is not None:
            # A replica sees files, and not what their cohort says of them.
            headers = {kind: volume.read_header(uri) for kind, uri in uris.items()}
            preprocess.check_channels(case, {kind: item.channels for kind, item in headers.items()})
        asking = _asking(self._segment, self._model.name, uris, predictions.task_of(item).name)
        future = asyncio.run_coroutine_threadsafe(asking, self._loop)
        self._under_way.add(future)
        try:
            answer = future.result()
        except concurrent.futures.CancelledError:
            raise _Stopped from None
        finally:
            self._under_way.discard(future)
        if isinstance(answer, Refusal):
            raise _error_of(answer, uris)
        if answer.bundles != self._model.bundles:
            raise CaseFailed("the model is being replaced: its old process answered")
        try:
            self._fence()
        except Lost:
            raise _Stopped from None
        return predictions.put(item, answer.mask, answer.volumes_ml, answer.remarks)


def _find(request: JobRequest, task: Task | None, limits: Limits) -> Cohort:
    def refusal(uri: str) -> str | None:
        try:
            check_uri(uri, limits)
        except Refusal as error:
            return error.reason
        return None

    guard = Guard(
        refusal=refusal, most_bytes=CSV_BYTES, most_rows=CSV_ROWS, most_columns=CSV_COLUMNS
    )
    return cohorts.find(str(request.cohort), task=task, guard=guard)


async def _asking(
    segment: Segment, model: str, uris: Mapping[str, str], task: str
) -> Answer | Refusal:
    try:
        return await segment(model, uris, task)
    except Refusal as error:
        return error


def _error_of(refusal: Refusal, uris: Mapping[str, str]) -> CaseError:
    # What only this service refuses is no fault of the files: direct scoring may take them.
    kind = CaseRejected if refusal.status == 422 else CaseFailed
    return kind(refusal.reason, uris.get(refusal.file, ""))
