"""A model as the service knows it: what clients see of it, and how it is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Answer = dict[str, Any]
"""`mask` (bytes of a `.nii.gz`), `volumes_ml`, `bundles` (sha256 of each card) and `seconds` by
stage; or `status`, `error` and `file` as HTTP tells them."""

Segment = Callable[[str, Mapping[str, bytes | str], str], Awaitable[Answer]]
"""Model name, images (canonical modality to bytes or URI) and release to a replica's answer."""


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
