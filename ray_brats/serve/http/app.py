"""The HTTP application: routes and their order of checks, wherever the models run.

A request passes the key, then admission (before its body is read), then the body's own checks,
then the model. Every refusal is JSON: `{"error": sentence, "file": modality or ""}`.
"""

from __future__ import annotations

import asyncio
import contextlib
from importlib import resources
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

import ray_brats
from ray_brats.cases.phantom import phantom_archive
from ray_brats.recipes import tasks
from ray_brats.serve import niivue
from ray_brats.serve.http import answers, documents, multipart, uploads
from ray_brats.serve.http.body import Body, promised_bytes
from ray_brats.serve.http.gate import Gate
from ray_brats.serve.http.uploads import request_of
from ray_brats.serve.jobs.records import Job
from ray_brats.serve.limits import Limits, Refusal
from ray_brats.serve.models import RAW, Segmentation, ServedModel, Submission
from ray_brats.serve.service import Service

PAGE = Path(str(resources.files("ray_brats.serve"))) / "page"
VIEWER_SECONDS = 86400
"""How long a browser keeps the 3-D viewer, which has five megabytes."""
METRICS_SECONDS = 5.0
"""How long a scrape waits for the process of the queue."""


async def read_submission(request: Request, model: ServedModel, limits: Limits) -> Submission:
    """The body of a request, whatever its kind; raises `Refusal` as soon as there is reason."""
    headers = request.headers
    raw = uploads.is_yes(request.query_params.get(RAW))
    body = Body(request.receive, headers, limits)
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "Content-Encoding is not supported: send the files as they are")
    if kind == "multipart/form-data":
        return await multipart.read(body, headers, model.modalities, limits, raw=raw)
    if kind in ("application/zip", "application/x-zip-compressed"):
        return await multipart.read_archive(body, model.modalities, limits, raw=raw)
    if raw:
        raise Refusal(415, uploads.ONE_ARCHIVE, RAW)
    if kind == "application/json":
        return uploads.from_json(await body.json(), model.modalities, limits)
    raise Refusal(
        415, "expected multipart/form-data, application/zip or application/json as Content-Type"
    )


def _asked_task(request: Request, model: ServedModel) -> str | None:
    """Name of the task that the query asks for, as `task` or, of old, `release`.

    Raises `Refusal` 422, before a body is read, for one that the model has not learnt.
    """
    asked = request.query_params.get("task") or request.query_params.get("release")
    return None if asked is None else model.task_named(asked).name


def _task(asked: str | None, submission: Submission, model: ServedModel) -> str:
    """The task that is asked for, else that of the case's name, else the bundle's; its name.

    Raises `Refusal` 422 for one that the model has not learnt.
    """
    if asked is not None:
        return model.task_named(asked).name
    return model.task_of(submission.case_id or "").name


def build(service: Service, gate: Gate) -> Gate:
    """The application behind its gate."""
    app = FastAPI(
        title="ray-brats",
        version=ray_brats.__version__,
        description=documents.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        # A redirect would come after megabytes, and to a place that the Host names.
        redirect_slashes=False,
    )
    _add_cases(app, service)
    _add_jobs(app, service)
    _add_facts(app, service)
    _add_page(app)
    gate.wrap(app)
    return gate


def _add_cases(app: FastAPI, service: Service) -> None:
    @app.post("/v1/segmentations", **documents.SEGMENTATION)
    async def segment(request: Request) -> Response:
        """Segment one case and answer with its mask, or with volumes where JSON is asked for."""
        model = service.model(request)
        asked_task = _asked_task(request, model)
        form = answers.form_of(request.headers)
        service.check_place(model)
        async with service.uploading(request.state.caller):
            submission = await read_submission(request, model, service.limits)
        if submission.cohort is not None:
            raise Refusal(422, "a cohort is a job: send it to /v1/jobs", "cohort")
        request.state.case = submission.case_id
        answers.check_raw(form, RAW in submission.images)
        task = _task(asked_task or submission.task, submission, model)
        async with service.admitted(model):
            answer = await service.segment(model, submission, task)
        segmentation = Segmentation(answer=answer, model=model.name, task=task)
        if form == answers.JSON:
            return answers.volumes(segmentation, submission.case_id)
        return answers.of(segmentation, form)


def _add_jobs(app: FastAPI, service: Service) -> None:
    @app.post("/v1/jobs", status_code=202, **documents.JOB)
    async def submit(request: Request) -> Response:
        """Accept a case or a cohort to be segmented later; what was accepted is never lost."""
        model = service.model(request)
        asked_task = _asked_task(request, model)
        await service.jobs.check_room(promised_bytes(request.headers) or 0)
        async with service.uploading(request.state.caller):
            submission = await read_submission(request, model, service.limits)
            request.state.case = submission.case_id
            if asked_task is None and submission.task is not None:
                asked_task = model.task_named(submission.task).name
            task = _task(asked_task, submission, model)
            job_request, files = request_of(
                submission, model.name, task, asked_task, request.state.caller
            )
            job = await service.jobs.submit(job_request, files)
        accepted = {"id": job.id, "state": job.state}
        return JSONResponse(accepted, 202, {"Location": f"/v1/jobs/{job.id}"})

    @app.get("/v1/jobs/{job_id}", **documents.JOB_STATE)
    async def state(job_id: str, request: Request) -> Response:
        """State and result of a job."""
        return JSONResponse((await _known(job_id, request, service)).as_json())

    @app.delete("/v1/jobs/{job_id}", **documents.JOB_STATE)
    async def cancel(job_id: str, request: Request) -> Response:
        """Cancel a job; one that has ended is forgotten, and its mask with it."""
        job = await _known(job_id, request, service)
        return JSONResponse((await service.jobs.cancel(job_id) or job).as_json())

    @app.get("/v1/jobs/{job_id}/mask", **documents.MASK)
    async def mask(job_id: str, request: Request) -> Response:
        """The mask of a job that is done."""
        form = answers.form_of(request.headers)
        job = await _known(job_id, request, service)
        result = await service.jobs.result(job_id)
        if result is None:
            raise Refusal(404, f"the job has no mask: it is {job.state}")
        return answers.of(result, form)


async def _known(job_id: str, request: Request, service: Service) -> Job:
    """The job, if the caller may know of it; somebody else's is as good as none."""
    job = await service.jobs.get(job_id)
    if job is None or not job.belongs_to(request.state.caller):
        raise Refusal(404, "no such job")
    return job


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", **documents.MODELS)
    async def models() -> Response:
        """The models that are served."""
        listed = [
            {
                "name": model.name,
                "default": model.default,
                "modalities": list(model.modalities),
                "task": model.task.name,
                "release": tasks.old_name(model.task.name),
                "task_definition": tasks.as_json(model.task),
                "targets": tasks.targets_as_json(model.task.targets),
                "integers": model.integers(),
                "card": dict(model.card),
            }
            for model in service.models.values()
        ]
        return JSONResponse({"models": listed})

    @app.get("/v1/phantom", **documents.PHANTOM)
    async def phantom() -> Response:
        """A synthetic case, as a zip of its files."""
        content = await asyncio.to_thread(phantom_archive)
        return Response(content, media_type="application/zip")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @app.get("/readyz", **documents.READY)
    async def readyz() -> Response:
        """Whether every model has a replica that is up, and the queue of jobs too."""
        missing = await service.missing()
        if missing:
            raise Refusal(503, f"not ready: {', '.join(missing)}", "", 5)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", **documents.METRICS)
    async def metrics() -> Response:
        """Metrics for Prometheus: of this process, and of the queue of jobs while it is there."""
        text = service.telemetry.text()
        with contextlib.suppress(Refusal, TimeoutError):
            async with asyncio.timeout(METRICS_SECONDS):
                text += await service.jobs.metrics()
        return Response(text, media_type="text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """The page for people."""
        return FileResponse(PAGE / "index.html")

    @app.get(f"/page/vendor/{niivue.MODULE}", include_in_schema=False)
    async def viewer() -> Response:
        """The 3-D viewer of the page."""
        content = await asyncio.to_thread(niivue.module)
        if content is None:
            raise Refusal(404, "NiiVue is not installed: run `python -m ray_brats.serve.niivue`")
        headers = {"Cache-Control": f"max-age={VIEWER_SECONDS}"}
        return Response(content, media_type="text/javascript", headers=headers)

    app.mount("/page", StaticFiles(directory=PAGE))
