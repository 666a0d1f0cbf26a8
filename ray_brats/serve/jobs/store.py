"""Jobs as files: what was accepted is there after the death of every process.

<state>/jobs/<id>/request.json      what is to be done; written after the inputs
<state>/jobs/<id>/<modality>.bin    the files of a case, until the job has ended
<state>/jobs/<id>/job.json          the state, as clients read it until the job has ended
<state>/jobs/<id>/lease-…           who works on it: see `leases`
<state>/jobs/<id>/mask.nii.gz       the result; mask-000002.nii.gz that of the second lease
                 /scan.nii.gz       of a raw study the series that its mask lies on
                 /mask.dcm          of one in DICOM the mask as a DICOM Segmentation
<state>/jobs/<id>/end.json          how it ended: of all who end it the first writes this

Several services may share a state. Ended jobs stay until `forget` removes them: masks are patient
data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray_brats.files import storage
from ray_brats.serve.jobs import leases
from ray_brats.serve.jobs.leases import END, Lease, Lost, Watch
from ray_brats.serve.jobs.records import (
    ENDED,
    MASK,
    Change,
    Job,
    JobRequest,
    Look,
    dicom_of,
    kept,
    mask_of,
    named,
    rebuilt,
    scan_of,
    without_empty,
)
from ray_brats.serve.models import Answer, AtHome, Segmentation

FOLDER = "jobs"
MAX_STARTS = 3
"""A job that was begun so often, and got no further, is given up."""
YOUNG_SECONDS = 3600.0
"""What is no job, and has changed within so long, is one that another service is taking in."""
_ID = re.compile(r"[0-9a-f]{32}")


class JobsStore:
    """The jobs below a folder or `s3://` prefix.

    Args:
        state_uri: where they are kept.
    """

    def __init__(self, state_uri: str) -> None:
        self._root = storage.join(state_uri, FOLDER)
        self._owner = secrets.token_hex(8)
        self._watch = Watch()
        self._open = set[str]()
        """Jobs that were looked at, and which no earlier version had ended."""
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
            storage.write_json(self._uri(job_id, "job.json"), kept(job))
            storage.write_json(self._uri(job_id, "request.json"), kept(request))
        except OSError:
            with contextlib.suppress(OSError):
                self.remove(job_id)
            raise
        return job

    def get(self, job_id: str) -> Job | None:
        """A job as clients see it, or None where there is none of that name."""
        if not _ID.fullmatch(job_id):
            return None
        values = self._values(job_id)
        if values is None or not storage.exists(self._uri(job_id, "request.json")):
            return None
        return rebuilt(Job, values)

    def _values(self, job_id: str) -> dict[str, Any] | None:
        """The state of a job; what was noted of it before its end, or late, counts no more."""
        files = (self._uri(job_id, name) for name in (END, "job.json"))
        return next(filter(None, map(storage.read_json_or_none, files)), None)

    def request(self, job_id: str) -> JobRequest:
        """What a job is to do."""
        return rebuilt(JobRequest, storage.read_json(self._uri(job_id, "request.json")))

    def files(self, job_id: str, kinds: Sequence[str]) -> dict[str, bytes]:
        """The files of its case."""
        return {kind: storage.read_bytes(self._uri(job_id, f"{kind}.bin")) for kind in kinds}

    def update(self, job_id: str, change: Change, lease: Lease | None = None) -> Job:
        """Change a job; an ended job forgets its inputs, and never changes again.

        Args:
            job_id: the job.
            change: what becomes of it; of several ends the first one holds.
            lease: of whoever works on it.

        Raises:
            Lost: the lease no longer holds, and nothing is changed.
            FileNotFoundError: no such job.
        """
        if lease is not None:
            try:
                lease.check()
            except Lost:
                self._discard(job_id, self._values(job_id) or {}, lease)
                raise
        with self._changing:
            job, values = self.get(job_id), self._values(job_id)
            if job is None or values is None:
                raise FileNotFoundError(job_id)
            if job.state not in ENDED:
                changed = {k: v for k, v in dataclasses.asdict(change).items() if v is not None}
                if change.progress:
                    changed["starts"] = 0
                values = without_empty(dataclasses.asdict(job) | changed)
                if values["state"] in ENDED:
                    values = self._ended(job_id, values | named(lease.number if lease else 1))
                storage.write_json(self._uri(job_id, "job.json"), values)
        if values["state"] in ENDED:
            self._clear(job_id, values, lease)
        return rebuilt(Job, values)

    def _ended(self, job_id: str, values: dict[str, Any]) -> dict[str, Any]:
        """Note how a job ended; how it did, which somebody else may have noted before."""
        uri = self._uri(job_id, END)
        values = {"ended_unix": time.time(), **values}
        content = json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n"
        return values if storage.create(uri, content.encode()) else storage.read_json(uri)

    def _clear(self, job_id: str, values: Mapping[str, Any], lease: Lease | None) -> None:
        """Delete what an ended job does not need: its inputs, and a mask that came too late."""
        try:
            kinds = self.request(job_id).files
        except FileNotFoundError:
            # Somebody removed it as soon as it had ended; what was written since goes too.
            self.remove(job_id)
            return
        for kind in kinds:
            storage.delete(self._uri(job_id, f"{kind}.bin"))
        if lease is not None:
            self._discard(job_id, values, lease)

    def _discard(self, job_id: str, values: Mapping[str, Any], lease: Lease) -> None:
        """Delete the mask that was made under a lease, unless it is the result of the job."""
        own = mask_of(lease.number)
        if values.get("state") != "done" or values.get("mask", MASK) != own:
            for name in (own, scan_of(own), dicom_of(own)):
                storage.delete(self._uri(job_id, name))

    def claim(self, job_id: str) -> Lease | None:
        """A lease of a job that nobody works on; None where it has ended, or somebody does."""
        began = time.monotonic()
        folder = storage.join(self._root, job_id)
        etags = {storage.name_of(file.uri): file.etag for file in storage.list_files(folder)}
        if "request.json" not in etags or not self._is_free(job_id, etags, began):
            return None
        if self._ended_before(job_id):
            return None
        lease = Lease(folder, leases.newest(etags) + 1, self._owner)
        return lease if lease.claim() else None

    def _is_free(self, job_id: str, etags: Mapping[str, str], began: float) -> bool:
        if END in etags:
            return False
        held = leases.look(etags)
        return held is None or self._watch.seconds(job_id, held, began) >= leases.STALE_SECONDS

    def _ended_before(self, job_id: str) -> bool:
        """Whether an earlier version ended the job, which is then noted as this one does."""
        values = self._values(job_id) or {}
        if values.get("state") not in ENDED:
            self._open.add(job_id)
            return False
        self._ended(job_id, values)
        return True

    def begin(self, job_id: str, lease: Lease | None = None) -> Job:
        """Note that a job is begun, before its work; one that was too often has failed.

        A job that ends the process of the queue would else be begun for ever.
        """
        job = self.get(job_id)
        starts = job.starts if job else 0
        if starts >= MAX_STARTS:
            reason = f"the process of the queue died {starts} times at this job"
            return self.update(job_id, Change(state="failed", error=reason), lease)
        begun = Change(state="running", progress=0.0, starts=starts + 1)
        return self.update(job_id, begun, lease)

    def let_go(self, job_id: str, lease: Lease) -> None:
        """Give back a job that has not ended, as if it had not been begun; raises `Lost`."""
        job = self.get(job_id)
        starts = max(0, job.starts - 1) if job else 0
        self.update(job_id, Change(state="queued", progress=0.0, starts=starts), lease)
        lease.free()

    def put_answer(self, job_id: str, answer: Answer, lease: Lease | None = None) -> int:
        """Keep the result; how many bytes these are. Raises `Lost`."""
        if lease is not None:
            lease.check()
        mask = mask_of(lease.number if lease else 1)
        files = {mask: answer.mask}
        if answer.home is not None:
            files[scan_of(mask)] = answer.home.scan
            if answer.home.dicom is not None:
                files[dicom_of(mask)] = answer.home.dicom
        for name, content in files.items():
            storage.write_bytes(self._uri(job_id, name), content)
        return sum(map(len, files.values()))

    def result(self, job_id: str) -> Segmentation | None:
        """The mask of a job over one case, with what made it."""
        job = self._values(job_id) or {}
        name = job.get("mask") or MASK
        mask = self._read_or_none(job_id, name)
        if mask is None:
            return None
        home, scan = None, self._read_or_none(job_id, scan_of(name)) if job.get("home") else None
        if scan is not None:
            dicom = self._read_or_none(job_id, dicom_of(name))
            home = AtHome(modality=job["home"], scan=scan, dicom=dicom)
        request = self.request(job_id)
        bundles, volumes_ml = job.get("bundles") or (), job.get("volumes_ml") or {}
        answer = Answer(
            mask=mask,
            volumes_ml=volumes_ml,
            bundles=tuple(bundles),
            remarks=tuple(job.get("remarks") or ()),
            home=home,
        )
        return Segmentation(answer=answer, model=request.model, task=request.task)

    def _read_or_none(self, job_id: str, name: str) -> bytes | None:
        try:
            return storage.read_bytes(self._uri(job_id, name))
        except FileNotFoundError:
            return None

    def remove(self, job_id: str) -> None:
        """Forget a job and its mask.

        First what makes it a job: what a death in between leaves is then finished by `look`.
        """
        storage.delete(self._uri(job_id, "request.json"))
        storage.delete(storage.join(self._root, job_id))

    def look(self) -> Look:
        """Which jobs wait for somebody; what removals and half-written submissions left goes.

        The latter once they have been the same for `YOUNG_SECONDS`: another service may be at it.
        """
        began = time.monotonic()
        jobs, size_bytes = self._files()
        self._watch.keep(jobs)
        free, taken = set[str](), set[str]()
        for job_id, etags in jobs.items():
            if "request.json" in etags:
                is_free = self._is_free(job_id, etags, began)
                if is_free and job_id not in self._open:
                    is_free = not self._ended_before(job_id)
                (free if is_free else taken).add(job_id)
            elif END in etags or (self._watch.seconds(job_id, str(etags), began) >= YOUNG_SECONDS):
                storage.delete(storage.join(self._root, job_id))
        return Look(free=frozenset(free), taken=frozenset(taken), size_bytes=size_bytes)

    def forget(self, ended_before_unix: float) -> int:
        """Remove the jobs that ended before a moment, masks and all; how many these were."""
        count = 0
        for job_id, etags in self._files()[0].items():
            if not {"request.json", END} <= etags.keys():
                continue
            job = storage.read_json_or_none(self._uri(job_id, END)) or {}
            if job.get("ended_unix", ended_before_unix) < ended_before_unix:
                self.remove(job_id)
                count += 1
        return count

    def _files(self) -> tuple[dict[str, dict[str, str]], int]:
        """Name of each job to the names of its files, and their etags; the bytes of all."""
        names: dict[str, dict[str, str]] = {}
        size_bytes = 0
        for file in storage.list_files(self._root):
            job_id, _, name = file.uri.removeprefix(self._root + "/").rpartition("/")
            if _ID.fullmatch(job_id):
                names.setdefault(job_id, {})[name] = file.etag
                size_bytes += file.size_bytes
        return names, size_bytes
