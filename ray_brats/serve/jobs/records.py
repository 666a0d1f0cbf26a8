"""What a job is, as its files and its clients know it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ray_brats.recipes import tasks

STATES = ("queued", "running", "done", "failed", "cancelled")
MASK = "mask.nii.gz"
ENDED = ("done", "failed", "cancelled")
_LATER = ("owner", "starts", "remarks")


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What a job is to do: `request.json`."""

    model: str
    task: str
    """Name of the one whose labels the mask of a case carries."""
    asked_task: str | None = None
    """Name of the one that the client asked for, if any; a cohort may tell another."""
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
    remarks: Sequence[str] | None = None
    """What was not as usual in the scans of a case."""
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
    remarks: Sequence[str] | None = None
    """What was not as usual in the scans of a case."""
    starts: int | None = None
    bundles: Sequence[str] | None = None
    """What made the mask; kept with the job, and told with the mask alone."""
    home: str | None = None
    """Of a raw study the modality whose grid its mask lies on; so are what comes with the mask."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at all jobs found."""

    free: frozenset[str]
    """Jobs that have not ended, and that nobody works on."""
    taken: frozenset[str]
    """Jobs that have ended, or that somebody works on."""
    size_bytes: int
    """Of all files of all jobs."""


def kept(value: Job | JobRequest) -> dict[str, Any]:
    """The JSON of a dataclass, without what earlier versions do not know where it is empty."""
    values = without_empty(dataclasses.asdict(value))
    if isinstance(value, JobRequest):
        # As earlier versions, which may share this state, call it.
        task, asked = values.pop("task"), values.pop("asked_task")
        values["release"] = tasks.name_before(task)
        values["asked_release"] = asked and tasks.name_before(asked)
    return values


def without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """The JSON without what earlier versions do not know where it is empty."""
    return {name: value for name, value in values.items() if value or name not in _LATER}


def rebuilt(kind: type[Kept], values: Mapping[str, Any]) -> Kept:
    """A dataclass from the JSON of this version or an earlier one; other values are left out."""
    names = {attribute.name for attribute in dataclasses.fields(kind)}
    if kind is JobRequest:
        release, asked = values.get("release"), values.get("asked_release")
        values = {
            **values,
            "task": tasks.of_release(str(release)),
            "asked_task": None if asked is None else tasks.of_release(str(asked)),
        }
    return kind(**{name: value for name, value in values.items() if name in names})


def mask_of(number: int) -> str:
    """Name of the mask made under a job's lease of this number, which overwrites no other's."""
    return MASK if number == 1 else f"mask-{number:06d}.nii.gz"


def scan_of(mask: str) -> str:
    """Name of the series that the mask of a raw study lies on."""
    return mask.replace("mask", "scan", 1)


def dicom_of(mask: str) -> str:
    """Name of the same mask as a DICOM Segmentation."""
    return mask.replace(".nii.gz", ".dcm")


def named(number: int) -> dict[str, str]:
    """Where that mask lies, if not where earlier versions look for it."""
    return {} if number == 1 else {"mask": mask_of(number)}
