"""Jobs as files: what was accepted is there after the death of every process.

<state>/jobs/<id>/request.json      what is to be done; written after the inputs
<state>/jobs/<id>/<modality>.bin    the files of a case, until the job has ended
<state>/jobs/<id>/job.json          the state, as clients read it
<state>/jobs/<id>/mask.nii.gz       the result, written before the state says `done`
<state>/jobs/<id>/cancel            somebody asked to stop

Ended jobs stay until `forget` removes them: masks are patient data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ray_brats.files import storage
from ray_brats.serve.models import Answer, Segmentation

FOLDER = "jobs"
STATES = ("queued", "running", "done", "failed", "cancelled")
ENDED = ("done", "failed", "cancelled")
MAX_STARTS = 3
"""A job that was begun so often, and got no further, is given up."""
_LATER = ("owner", "starts")
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What a job is to do: `request.json`."""

    model: str
    release: str
    """Whose labels the mask of a case carries."""
    asked_release: str | None = None
    """The release that the client named, if any; a cohort may tell another."""
    case_id: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    """Canonical modality to URI."""
    files: Sequence[str] = ()
    """Modalities whose bytes came with the job, as `JobsStore.add` noted."""
    cohort: str | None = None
    output: str | None = None
    owner: str = ""
    """Name of the key that sent it."""
    arrived_unix: float = 0.0
    """When it was accepted; jobs go on in this order."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as clients read it: `job.json`."""

    id: str
    state: str
    progress: float | None = None
    volumes_ml: Mapping[str, float] | None = None
    error: str | None = None
    owner: str = ""
    """Name of the key that sent it; empty where there were none, and in older jobs."""
    starts: int = 0
    """How often it was begun since it last got further."""

    def as_json(self) -> dict[str, Any]:
        """The job as the service tells it."""
        own = ("owner", "starts")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in own}

    def belongs_to(self, caller: str) -> bool:
        """Whether whoever has this key (empty where there are none) may know and change it."""
        return not caller or self.owner in ("", caller)


Kept = TypeVar("Kept", Job, JobRequest)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What becomes of a job; None leaves a field as it is."""

    state: str | None = None
    progress: float | None = None
    volumes_ml: Mapping[str, float] | None = None
    error: str | None = None
    starts: int | None = None
    bundles: Sequence[str] | None = None
    """What made the mask; kept with the job, and told with the mask alone."""


class JobsStore:
    """The jobs below a folder or `s3://` prefix.

    Args:
        state_uri: where they are kept.
    """

    def __init__(self, state_uri: str) -> None:
        self._root = storage.join(state_uri, FOLDER)
        # A lock of threads: a late note of progress must not overwrite that the job was cancelled.
        self._changing = threading.Lock()

    def _uri(self, job_id: str, name: str) -> str:
        return storage.join(self._root, job_id, name)

    def add(self, request: JobRequest, files: Mapping[str, bytes]) -> Job:
        """Keep a new job, and the files of its case by modality; then no death loses it.

        Raises:
            OSError: the storage does not take it, and nothing of it stays.
        """
        job_id = secrets.token_hex(16)
        request = dataclasses.replace(request, files=sorted(files), arrived_unix=time.time())
        job = Job(id=job_id, state="queued", progress=0.0, owner=request.owner)
        try:
            for kind, content in files.items():
                storage.write_bytes(self._uri(job_id, f"{kind}.bin"), content)
            storage.write_json(self._uri(job_id, "job.json"), _kept(job))
            storage.write_json(self._uri(job_id, "request.json"), _kept(request))
        except OSError:
            with contextlib.suppress(OSError):
                self.remove(job_id)
            raise
        return job

    def get(self, job_id: str) -> Job | None:
        """A job as clients see it, or None where there is none of that name."""
        if not _ID.fullmatch(job_id):
            return None
        values = storage.read_json_or_none(self._uri(job_id, "job.json"))
        if values is None or not storage.exists(self._uri(job_id, "request.json")):
            return None
        return _rebuilt(Job, values)

    def request(self, job_id: str) -> JobRequest:
        """What a job is to do."""
        return _rebuilt(JobRequest, storage.read_json(self._uri(job_id, "request.json")))

    def files(self, job_id: str, kinds: Sequence[str]) -> dict[str, bytes]:
        """The files of its case."""
        return {kind: storage.read_bytes(self._uri(job_id, f"{kind}.bin")) for kind in kinds}

    def update(self, job_id: str, change: Change) -> Job:
        """Change a job; an ended job forgets its inputs, and never changes again."""
        with self._changing:
            job = self.get(job_id)
            if job is None:
                raise FileNotFoundError(job_id)
            if job.state in ENDED:
                return job
            changed = {k: v for k, v in dataclasses.asdict(change).items() if v is not None}
            if change.progress:
                changed["starts"] = 0
            values = _without_empty(dataclasses.asdict(job) | changed)
            job = _rebuilt(Job, values)
            if job.state in ENDED:
                values["ended_unix"] = time.time()
            storage.write_json(self._uri(job_id, "job.json"), values)
        if job.state in ENDED:
            for kind in self.request(job_id).files:
                storage.delete(self._uri(job_id, f"{kind}.bin"))
        return job

    def begin(self, job_id: str) -> Job:
        """Note that a job is begun, before its work; one that was too often has failed.

        A job that ends the process of the queue would else be begun for ever.
        """
        job = self.get(job_id)
        if job is not None and job.starts >= MAX_STARTS:
            reason = f"the process of the queue died {job.starts} times at this job"
            return self.update(job_id, Change(state="failed", error=reason))
        return self.update(job_id, Change(state="running", starts=job.starts + 1 if job else 1))

    def put_mask(self, job_id: str, mask: bytes) -> None:
        """Keep the result."""
        storage.write_bytes(self._uri(job_id, "mask.nii.gz"), mask)

    def result(self, job_id: str) -> Segmentation | None:
        """The mask of a job over one case, with what made it."""
        try:
            mask = storage.read_bytes(self._uri(job_id, "mask.nii.gz"))
        except FileNotFoundError:
            return None
        job = storage.read_json(self._uri(job_id, "job.json"))
        request = self.request(job_id)
        bundles, volumes_ml = job.get("bundles") or (), job.get("volumes_ml") or {}
        answer = Answer(mask=mask, volumes_ml=volumes_ml, bundles=tuple(bundles))
        return Segmentation(answer=answer, model=request.model, release=request.release)

    def remove(self, job_id: str) -> None:
        """Forget a job and its mask."""
        storage.delete(storage.join(self._root, job_id))

    def ask_to_cancel(self, job_id: str) -> None:
        """Leave word that the job is to stop."""
        storage.write_bytes(self._uri(job_id, "cancel"), b"")

    def is_cancelled(self, job_id: str) -> bool:
        """Whether somebody asked to stop it."""
        return storage.exists(self._uri(job_id, "cancel"))

    def unfinished(self) -> list[str]:
        """Jobs that have not ended, as they came; what half-written submissions left is removed."""
        arrived: dict[str, float] = {}
        for job_id, names in self._files().items():
            if "request.json" not in names:
                storage.delete(storage.join(self._root, job_id))
            elif (job := self.get(job_id)) and job.state not in ENDED:
                arrived[job_id] = self.request(job_id).arrived_unix
        return sorted(arrived, key=arrived.__getitem__)

    def forget(self, ended_before_unix: float) -> int:
        """Remove the jobs that ended before a moment, masks and all; how many these were."""
        count = 0
        for job_id, names in self._files().items():
            if not {"request.json", "job.json"} <= names:
                continue
            job = storage.read_json_or_none(self._uri(job_id, "job.json")) or {}
            # Jobs of before this was written down count as just ended, from the first look on.
            if job.get("state") in ENDED and "ended_unix" not in job:
                storage.write_json(self._uri(job_id, "job.json"), job | {"ended_unix": time.time()})
            elif job.get("state") in ENDED and job["ended_unix"] < ended_before_unix:
                # First what makes it a job: a death in between leaves a half-written submission.
                storage.delete(self._uri(job_id, "request.json"))
                storage.delete(storage.join(self._root, job_id))
                count += 1
        return count

    def _files(self) -> dict[str, set[str]]:
        """Name of each job to the names of its files."""
        names: dict[str, set[str]] = {}
        for file in storage.list_files(self._root):
            job_id, _, name = file.uri.removeprefix(self._root + "/").rpartition("/")
            if _ID.fullmatch(job_id):
                names.setdefault(job_id, set()).add(name)
        return dict(sorted(names.items()))


def _kept(value: Job | JobRequest) -> dict[str, Any]:
    """The JSON of a dataclass, without what earlier versions do not know where it is empty."""
    return _without_empty(dataclasses.asdict(value))


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value or name not in _LATER}


def _rebuilt(kind: type[Kept], values: Mapping[str, Any]) -> Kept:
    """A dataclass from the JSON of this version or an earlier one; other values are left out."""
    names = {attribute.name for attribute in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})
