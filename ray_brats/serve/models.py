"""A model as the service knows it: what clients see of it, how it is asked, what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_brats.serve.limits import Refusal


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
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time of each stage; empty for a mask that was kept."""


Segment = Callable[[str, Mapping[str, bytes | str], str], Awaitable[Answer | Refusal]]
"""Model name, images (canonical modality to bytes or URI) and release to a replica's answer.

A replica returns the refusal of a case and does not raise it: Serve logs what is raised, with the
names of files. Who asks may raise one, where there is no replica to answer.
"""


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """An answer, with the model that was asked and the release whose labels its mask carries."""

    answer: Answer
    model: str
    release: str


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model as clients see it."""

    name: str
    modalities: tuple[str, ...]
    release: str
    card: Mapping[str, Any]
    default: bool = False
    capacity: int = 2
    """Cases that its replicas work on at a time."""

    @property
    def bundles(self) -> tuple[str, ...]:
        """sha256 of the card of each of its bundles."""
        return tuple(self.card["identity"]["bundles"])


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a client asks for: the files or URIs of a case, or a whole cohort."""

    case_id: str | None = None
    images: Mapping[str, bytes | str] = field(default_factory=dict)
    """Canonical modality to the bytes of its file or its URI."""
    cohort: str | None = None
    output: str | None = None
    release: str | None = None
    """Whose labels the body asks for; the query may do so too, and comes first."""
