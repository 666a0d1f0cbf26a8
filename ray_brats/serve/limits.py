"""What one request may cost and name, and the refusal of one that wants more."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ray_brats.arrays import Spacing
from ray_brats.cases.geometry import with_spacing
from ray_brats.cases.nifti import Header
from ray_brats.errors import RayBratsError
from ray_brats.files import channels


class Refusal(RayBratsError):
    """A request that is not served.

    Args:
        status: HTTP's, 4xx, 503 or 507.
        reason: a sentence: what is wrong and what was expected.
        file: the modality or part at fault, or "".
        retry_seconds: when to come again, or 0.
    """

    def __init__(self, status: int, reason: str, file: str = "", retry_seconds: int = 0) -> None:
        super().__init__(status, reason, file, retry_seconds)
        self.status = status
        self.reason = reason
        self.file = file
        self.retry_seconds = retry_seconds

    def __str__(self) -> str:
        return f"{self.status} {self.file}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a deployment gives to one request, and to all of them together."""

    body_bytes: int = 256 << 20
    inflated_bytes: int = 1 << 30
    """All files of a case together, as their headers promise and as archives inflate."""
    voxels: int = 32_000_000
    """Of one file; a BraTS volume has 8.9 million."""
    least_bytes_s: int = 32 << 10
    """Slowest rate of a body, on the whole."""
    idle_seconds: float = 20.0
    """Longest pause between two pieces of a body."""
    upload_seconds: float = 300.0
    """Longest time that a whole body takes to come."""
    answer_seconds: float = 600.0
    """Longest time from the last byte of the body to the mask."""
    raw_files: int = 20_000
    """Of one raw study."""
    raw_seconds: float = 300.0
    """Longest time that a raw study takes to be prepared, and so its DICOM Segmentation."""
    raw_memory_bytes: int = 4 << 30
    """What the process that prepares one may hold."""
    waiting: int = 6
    """Cases accepted beyond those that models work on."""
    uploads: int = 16
    """Bodies read side by side."""
    uploads_a_key: int = 8
    """Those of them that one key may send, where there are keys."""
    queued_jobs: int = 1000
    state_bytes: int = 64 << 30
    """Of all jobs that are kept, inputs and masks; more are refused."""
    keep_days: float = 30.0
    """How long an ended job and its mask are kept."""
    uri_prefixes: tuple[str, ...] = ()
    """Prefixes of the `s3://` URIs that clients may have read; none by default."""
    output_prefixes: tuple[str, ...] = ()
    """Prefixes of those that cohort jobs may write to; none by default."""
    kept_uris: tuple[str, ...] = ()
    """The state and the bundles: nothing is written over or beside them."""


def check_voxels(
    header: Header, limits: Limits, file: str = "", spacing_mm: Spacing | None = None
) -> None:
    """`Refusal` 413 for a file of more voxels than a deployment takes.

    Args:
        header: what the file promises.
        limits: how many may be.
        file: the modality.
        spacing_mm: that of the model, at which there may be more of them.
    """
    voxels = math.prod(header.geometry.native_shape)
    if voxels > limits.voxels:
        raise Refusal(413, f"the file has {voxels} voxels: at most {limits.voxels} are taken", file)
    voxels = math.prod(with_spacing(header.geometry, spacing_mm).grid_shape)
    if voxels > limits.voxels:
        why = f"the file would have {voxels} voxels of the model's size: at most {limits.voxels}"
        raise Refusal(413, f"{why} are taken", file)


def check_uri(uri: object, limits: Limits, file: str = "") -> str:
    """The URI of what is to be read, below an allowed prefix; raises `Refusal` 422 otherwise."""
    return _check(uri, limits.uri_prefixes, file, "read")


def check_image(uri: object, limits: Limits, file: str = "") -> str:
    """`check_uri` for a scan, which may be a channel of a 4-D file: `s3://b/SCANS.nii.gz#0`."""
    check_uri(channels.file_of(uri) if isinstance(uri, str) else uri, limits, file)
    return str(uri)


def check_output(uri: object, cohort: str, limits: Limits, file: str = "") -> str:
    """The URI of a folder to be written; raises `Refusal` 422 where that may not be.

    Whoever may read a cohort may not therefore write beside it: outputs have prefixes of their
    own, and a place that is, holds or lies in the cohort, a bundle or the state is none.
    """
    output = _check(uri, limits.output_prefixes, file, "write to").rstrip("/")
    for kept in (cohort, *limits.kept_uris):
        if _overlap(output, kept.rstrip("/")):
            raise Refusal(
                422,
                "the output is, holds or lies in the cohort or what the server itself keeps: "
                "expected a folder apart from them",
                file,
            )
    return output


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def _check(uri: object, prefixes: tuple[str, ...], file: str, purpose: str) -> str:
    """Only `s3://` is ever allowed: no local path, and nothing that could redirect elsewhere."""
    if not isinstance(uri, str) or not uri.startswith("s3://") or len(uri) > 2048:
        raise Refusal(422, "expected an s3:// URI: local paths and other servers are refused", file)
    parts = uri.removeprefix("s3://").split("/")
    odd = set(uri) & set("\\?#%*[]{}") or any(ord(letter) < 33 for letter in uri)
    if odd or "::" in uri or any(part in ("", ".", "..") for part in parts[:-1]):
        raise Refusal(422, "the URI is not a plain s3://bucket/key", file)
    if parts[-1] in (".", ".."):
        raise Refusal(422, "the URI is not a plain s3://bucket/key", file)
    for prefix in prefixes:
        root = prefix.rstrip("/")
        if uri == root or uri.startswith(root + "/"):
            return uri
    raise Refusal(422, f"the URI is outside the prefixes that this server may {purpose}", file)
