"""`score --endpoint`: a cohort through a running service, with the files of direct scoring.

The service runs the same Predictor over the same bytes, so masks, sidecars and ledger are those
that `score --bundle` writes, and either goes on where the other ended.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import httpx

from ray_brats.cases import preprocess
from ray_brats.cases.case import Cohort
from ray_brats.errors import CaseFailed, CaseGivenUp, CaseRejected, UsageError
from ray_brats.files import channels, retry, storage
from ray_brats.files.ledger import CaseRow, Work
from ray_brats.labels import Task
from ray_brats.model import card, predictions
from ray_brats.model.predictions import Predictions, ScoreSummary
from ray_brats.progress import Progress, say
from ray_brats.recipes import jsonform, tasks
from ray_brats.recipes.config import Recipe

KEY_VARIABLE = "RAY_BRATS_API_KEY"
CONCURRENCY = 4
PATIENCE_SECONDS = 1800.0
"""How long a case keeps knocking at a busy service."""
_MOST_PAUSE_SECONDS = 60.0
_AGAIN = (408, 429, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """One model of a running service."""

    client: httpx.Client
    model: str
    task: Task
    """Whose labels it writes where nothing else is asked for."""
    recipe: Recipe
    integers: Mapping[str, Sequence[int]]
    """Task to the integers of its classes, for every task that the service writes."""
    identity: Mapping[str, Any]
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when the user ends the command: nobody knocks at a busy service any more."""


def connect(url: str, model: str | None = None) -> Remote:
    """The model of that name, or the service's default one.

    Raises:
        UsageError: nobody answers there, the key is not valid, or there is no such model.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--endpoint {url}: expected http://HOST:PORT or https://…")
    given = os.environ.get(KEY_VARIABLE)
    client = httpx.Client(
        base_url=url.rstrip("/"),
        headers={"Authorization": f"Bearer {given}"} if given else {},
        timeout=httpx.Timeout(30.0, read=PATIENCE_SECONDS),
        follow_redirects=False,
    )
    try:
        answer = client.get("/v1/models", timeout=30.0)
    except httpx.HTTPError as error:
        raise UsageError(f"--endpoint {url}: nobody answers there ({error})") from error
    if answer.status_code == 401:
        raise UsageError(f"--endpoint {url} asks for a key: put it into {KEY_VARIABLE}")
    try:
        served = answer.raise_for_status().json()["models"]
        named = [
            item for item in served if item["name"] == model or (not model and item["default"])
        ]
        if not named:
            names = ", ".join(str(item["name"]) for item in served)
            raise UsageError(f"--endpoint {url} has no model {model!r}: there are {names}")
        (chosen,) = named
        return Remote(
            client=client,
            model=chosen["name"],
            task=tasks.from_json(chosen["task_definition"]),
            recipe=jsonform.from_json(Recipe, chosen["card"]["recipe"]),
            integers=chosen["integers"],
            identity=chosen["card"]["identity"],
        )
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--endpoint {url} is no ray-brats service, or one of an earlier version: {error!r}"
        ) from error


def score_through(
    remote: Remote,
    cohort: Cohort,
    predictions_uri: str,
    *,
    task: Task | None = None,
    workers: int | None = None,
) -> ScoreSummary:
    """Segment every case that is not segmented yet; the summary of `score.score`.

    Args:
        remote: who segments.
        cohort: the cases; its rejected rows enter the ledger.
        predictions_uri: where the masks go.
        task: whose labels the masks carry, where the cohort's names do not tell.
        workers: requests side by side.
    """
    wanted = task or cohort.task_or(remote.task) or remote.task
    card.check_task(wanted, remote.recipe, f"the model {remote.model}")
    if tuple(remote.integers.get(wanted.name, ())) != wanted.integers:
        raise UsageError(
            f"the service does not know the task {wanted.name} with the labels "
            f"{', '.join(map(str, wanted.integers))}: it writes {', '.join(remote.integers)}; pass "
            "one of them as --task, or score with a bundle here"
        )
    _check_files(cohort, remote.recipe.preprocess.modalities)
    target = Predictions(
        uri=predictions_uri,
        identity=remote.identity,
        preprocessing=remote.recipe.preprocess,
        task=wanted,
    )
    finished, todo = target.split_finished(cohort)
    concurrency = workers or CONCURRENCY
    say(f"score: {len(todo)} case(s) through {remote.client.base_url}, {concurrency} at a time")
    done: list[CaseRow] = []
    with (
        contextlib.closing(remote.client),
        Progress("score", len(todo)) as progress,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        calls = [
            pool.submit(retry.complete, item, lambda item: _segment(remote, item), timed=True)
            for item in todo
        ]
        try:
            for call in as_completed(calls):
                done.append(call.result())
                progress.update(len(done))
        except KeyboardInterrupt:
            remote.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            say("score: stopping; cases that the service has in work are waited for")
            raise
    return target.conclude(cohort, finished, done)


def _check_files(cohort: Cohort, modalities: Sequence[str]) -> None:
    """`UsageError` for a cohort whose scans are no files of their own, which cannot be uploaded."""
    if any(
        kind in modalities and channels.file_of(uri) != uri
        for case in cohort.cases
        for kind, uri in case.images.items()
    ):
        raise UsageError(
            f"{cohort.uri}: the scans of a case are channels of one file, which score --endpoint "
            "does not upload: score with a bundle here"
        )


def _segment(remote: Remote, item: Work) -> tuple[CaseRow, list[str]]:
    """One case there and back: its row, and the name of its mask."""
    case, config = predictions.case_of(item), remote.recipe.preprocess
    uris = preprocess.files_of(case, config, with_mask=False)
    files = {kind: (f"{kind}.nii.gz", _content(uri)) for kind, uri in uris.items()}
    answer = _knock(remote, files, predictions.task_of(item).name)
    if answer.status_code != httpx.codes.OK:
        raise _refused(answer, uris)
    made_by = answer.headers.get("X-Ray-Brats-Bundle", "").split(",")
    if made_by != list(remote.identity["bundles"]):
        raise CaseGivenUp("the service has other bundles than at the start: score once more")
    volumes_ml = {
        region: float(answer.headers[f"X-Ray-Brats-{region}-ML"])
        for region in remote.recipe.targets.region_names
    }
    return predictions.put(item, answer.content, volumes_ml)


def _content(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise CaseRejected("no such file", uri) from error


def _knock(remote: Remote, files: Mapping[str, Any], task: str) -> httpx.Response:
    """The answer of a service that may be busy or starting again; it says itself when to ask."""
    query = urllib.parse.urlencode({"model": remote.model, "task": task})
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, 1.0
    while True:
        why, asked = "", 0.0
        try:
            answer = remote.client.post(f"/v1/segmentations?{query}", files=files)
            if answer.status_code not in _AGAIN:
                return answer
            why = f"status {answer.status_code}"
            seconds = answer.headers.get("Retry-After", "")
            asked = float(seconds) if seconds.isdecimal() else 0.0
        except httpx.TransportError as error:
            why = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise CaseGivenUp(f"the service did not segment the case ({why})")
        # Spread, so that clients that were refused together do not come again together.
        remote.stop.wait(min(_MOST_PAUSE_SECONDS, max(asked, pause)) * random.uniform(0.75, 1.25))
        if remote.stop.is_set():
            raise KeyboardInterrupt
        pause *= 2


def _refused(answer: httpx.Response, uris: Mapping[str, str]) -> CaseRejected | CaseFailed:
    try:
        message = answer.json()
        reason, file = str(message["error"]), uris.get(str(message.get("file")), "")
    except (ValueError, KeyError, TypeError):
        return CaseFailed(f"the service answered with status {answer.status_code}")
    if answer.status_code in (400, 413, 415, 422):
        return CaseRejected(reason, file)
    return CaseFailed(f"the service answered with status {answer.status_code}: {reason}", file)
