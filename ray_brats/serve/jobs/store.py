"""Jobs as files: what was accepted is there after the death of every process.

<state>/jobs/<id>/request.json      what is to be done; written after the inputs
<state>/jobs/<id>/<modality>.bin    the files of a case, until the job has ended
<state>/jobs/<id>/job.json          the state, as clients read it
<state>/jobs/<id>/mask.nii.gz       the result, written before the state says `done`
<state>/jobs/<id>/cancel            somebody asked to stop

Ended jobs stay until `forget` removes them: masks are patient data.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Mapping
from typing import Any

from ray_brats.files import storage
from ray_brats.serve.models import Answer

STATES = ("queued", "running", "done", "failed", "cancelled")
ENDED = ("done", "failed", "cancelled")
_ID = re.compile(r"[0-9a-f]{32}")
_FACTS = ("id", "state", "progress", "volumes_ml", "error")

Job = dict[str, Any]


class JobsStore:
    """The jobs below a folder or `s3://` prefix.

    Args:
        state_uri: where they are kept.
    """

    def __init__(self, state_uri: str) -> None:
        self._root = storage.join(state_uri, "jobs")
        # Of threads: a late note of progress must not overwrite that the job was cancelled.
        self._changing = threading.Lock()

    def _uri(self, job_id: str, name: str) -> str:
        return storage.join(self._root, job_id, name)

    def add(self, request: Mapping[str, Any], files: Mapping[str, bytes]) -> Job:
        """Keep a new job; when this returns, no death loses it.

        Args:
            request: JSON values: `model`, `release`, `case_id`, and `images` by URI or a
                `cohort` and its `output`.
            files: modality to the bytes of its file.
        """
        job_id = secrets.token_hex(16)
        for kind, content in files.items():
            storage.write_bytes(self._uri(job_id, f"{kind}.bin"), content)
        stored = {**request, "files": sorted(files)}
        job: Job = {
            "id": job_id,
            "state": "queued",
            "progress": 0.0,
            "volumes_ml": None,
            "error": None,
        }
        storage.write_json(self._uri(job_id, "job.json"), job)
        storage.write_json(self._uri(job_id, "request.json"), stored)
        return job

    def get(self, job_id: str) -> Job | None:
        """A job as clients see it, or None where there is none of that name."""
        if not _ID.fullmatch(job_id):
            return None
        job = storage.read_json_or_none(self._uri(job_id, "job.json"))
        if job is None or not storage.exists(self._uri(job_id, "request.json")):
            return None
        return {name: job.get(name) for name in _FACTS}

    def request(self, job_id: str) -> dict[str, Any]:
        """What a job is to do."""
        return storage.read_json(self._uri(job_id, "request.json"))

    def files(self, job_id: str, kinds: list[str]) -> dict[str, bytes]:
        """The files of its case."""
        return {kind: storage.read_bytes(self._uri(job_id, f"{kind}.bin")) for kind in kinds}

    def update(self, job_id: str, **facts: Any) -> Job:
        """Change the state; an ended job forgets its inputs, and never changes again."""
        with self._changing:
            job = self.get(job_id)
            if job is None:
                raise FileNotFoundError(job_id)
            if job["state"] in ENDED:
                return job
            job |= facts
            when = {"ended_unix": time.time()} if job["state"] in ENDED else {}
            storage.write_json(self._uri(job_id, "job.json"), {**job, **when})
        if job["state"] in ENDED:
            for kind in self.request(job_id).get("files", []):
                storage.delete(self._uri(job_id, f"{kind}.bin"))
        return job

    def put_mask(self, job_id: str, mask: bytes) -> None:
        """Keep the result."""
        storage.write_bytes(self._uri(job_id, "mask.nii.gz"), mask)

    def result(self, job_id: str) -> Answer | None:
        """The mask of a job over one case, with what made it: `model` and `release` besides."""
        try:
            mask = storage.read_bytes(self._uri(job_id, "mask.nii.gz"))
        except FileNotFoundError:
            return None
        job = storage.read_json(self._uri(job_id, "job.json"))
        request = self.request(job_id)
        return {
            "mask": mask,
            "model": request["model"],
            "release": request["release"],
            "bundles": job.get("bundles") or [],
            "volumes_ml": job.get("volumes_ml") or {},
        }

    def ask_to_cancel(self, job_id: str) -> None:
        """Leave word that the job is to stop."""
        storage.write_bytes(self._uri(job_id, "cancel"), b"")

    def is_cancelled(self, job_id: str) -> bool:
        """Whether somebody asked to stop it."""
        return storage.exists(self._uri(job_id, "cancel"))

    def unfinished(self) -> list[str]:
        """Jobs that have not ended; what half-written submissions left is removed."""
        found = []
        for job_id, there in self._files().items():
            if "request.json" not in there:
                storage.delete(storage.join(self._root, job_id))
            elif (job := self.get(job_id)) and job["state"] not in ENDED:
                found.append(job_id)
        return found

    def forget(self, ended_before_unix: float) -> int:
        """Remove the jobs that ended before a moment, masks and all; how many these were."""
        count = 0
        for job_id, there in self._files().items():
            if not {"request.json", "job.json"} <= there:
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
