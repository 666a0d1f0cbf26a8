"""A model as the service knows it: what clients see of it, how it is asked, what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_brats.cases import naming
from ray_brats.errors import UsageError
from ray_brats.labels import Task
from ray_brats.recipes import tasks
from ray_brats.serve.limits import Refusal

RAW = "raw"
"""Key, in place of a modality, of the zip of a study as it left the scanner."""


@dataclass(frozen=True, kw_only=True)
class AtHome:
    """What comes with the mask of a raw study, which lies on the grid of one of its series."""

    modality: str
    """Of that series."""
    scan: bytes
    """The series, a `.nii.gz`."""
    dicom: bytes | None = None
    """The mask as a DICOM Segmentation; None of a study in NIfTI."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The mask of a case, and what made it."""

    mask: bytes
    """A `.nii.gz`."""
    volumes_ml: Mapping[str, float]
    """Volume of each region."""
    bundles: tuple[str, ...]
    """sha256 of the card of each bundle."""
    remarks: tuple[str, ...] = ()
    """What was not as usual in the scans."""
    home: AtHome | None = None
    """Of a raw study alone."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time of each stage; empty for a mask that was kept."""


Segment = Callable[[str, Mapping[str, bytes | str], str], Awaitable[Answer | Refusal]]
"""Model name, images (canonical modality to bytes or URI) and task's name to a replica's answer.

A replica returns the refusal of a case and does not raise it: Serve logs what is raised, with the
names of files. Who asks may raise one, where there is no replica to answer.
"""


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """An answer, with the model that was asked and the name of the task of its mask."""

    answer: Answer
    model: str
    task: str


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model as clients see it."""

    name: str
    modalities: tuple[str, ...]
    task: Task
    """Whose labels it writes where nothing else is asked for."""
    card: Mapping[str, Any]
    default: bool = False
    capacity: int = 2
    """Cases that its replicas work on at a time."""

    def task_named(self, name: str) -> Task:
        """Its own task or one of the field; raises `Refusal` 422 for one that it has not learnt."""
        try:
            task = self.task if name == self.task.name else tasks.named(name)
        except UsageError as error:
            raise Refusal(422, str(error), "task") from error
        if task.targets != self.task.targets:
            raise Refusal(
                422,
                f"the model {self.name} segments {', '.join(self.task.targets.region_names)} as in "
                f"{self.task.name}, and has not learnt {task.name}",
                "task",
            )
        return task

    def check_knows(self, task: Task) -> None:
        """`UsageError` where it writes other integers under a task's name, or none."""
        if self.integers().get(task.name) != task.integers:
            raise UsageError(
                f"the model {self.name} does not know the task {task.name} with the labels "
                f"{', '.join(map(str, task.integers))}: ask for one of {', '.join(self.integers())}"
            )

    def integers(self) -> dict[str, tuple[int, ...]]:
        """Task to the integer of each class, for every task that it can write."""
        alike = (task for task in tasks.TASKS.values() if task.targets == self.task.targets)
        return {task.name: task.integers for task in (self.task, *alike)}

    def task_of(self, case_id: str) -> Task:
        """The task of a case by its name, else its own; raises `Refusal` 422 as `task_named`."""
        possible = naming.tasks_of(case_id)
        if not possible:
            return self.task
        return tasks.fitting(possible, self.task.targets) or self.task_named(possible[0])

    @property
    def bundles(self) -> tuple[str, ...]:
        """sha256 of the card of each of its bundles."""
        return tuple(self.card["identity"]["bundles"])


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a client asks for: the files or URIs of a case, or a whole cohort."""

    case_id: str | None = None
    images: Mapping[str, bytes | str] = field(default_factory=dict)
    """Canonical modality to the bytes of its file or its URI; `RAW` to a raw study."""
    cohort: str | None = None
    output: str | None = None
    task: str | None = None
    """Whose labels the body asks for; the query may do so too, and comes first."""
