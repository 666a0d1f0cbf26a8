"""The files of one case as they come in: multipart parts, a zip archive, or URIs.

Headers are judged by `nifti` as soon as their bytes are there, before anything is inflated and
before the rest is kept.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from ray_brats.cases import naming, nifti, volume
from ray_brats.cases.geometry import Geometry, same_grid
from ray_brats.cases.naming import ALIASES, MODALITIES, SEGMENTATION
from ray_brats.errors import CaseRejected
from ray_brats.files import channels
from ray_brats.serve.jobs.records import JobRequest
from ray_brats.serve.limits import (
    Limits,
    Refusal,
    check_image,
    check_output,
    check_uri,
    check_voxels,
)
from ray_brats.serve.models import RAW, Submission

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
"""How a zip begins, and one without files."""
ZIP_ENTRY = b"PK\x01\x02"
"""Starts each entry of an archive's directory."""
MAX_ENTRIES = 64
MAX_RATIO = 200
"""Bytes of a file a compressed one; scans without skull have 5 to 20, and deflate reaches 1032."""
MODEL_IN_QUERY = "the model is named in the query, before the body is read: ?model=NAME"
_PIECE_BYTES = 1 << 20
ONE_ARCHIVE = "expected a raw study as one zip of its DICOM or NIfTI files"
_UNNAMED = (
    "names of files tell them, as CASE_t1ce.nii.gz; a study as it left the scanner, in DICOM or "
    "with its skull on, comes as a zip with raw=true"
)


def kind_of(name: str) -> str | None:
    """Canonical modality (or `seg`) that a part or file name tells, or None."""
    base = name.rsplit("/", 1)[-1]
    parts = naming.case_and_kind(base)
    if parts:
        return parts[1]
    stem = base.lower().removesuffix(".gz").removesuffix(".nii")
    kind = ALIASES.get(stem, stem)
    return kind if kind in (*MODALITIES, SEGMENTATION) else None


def case_of(name: str) -> str | None:
    """Id of the case that a file name tells, or None."""
    parts = naming.case_and_kind(name.rsplit("/", 1)[-1])
    return naming.id_of_name(parts[0]) if parts and not naming.problem_of_name(parts[0]) else None


def checked_id(value: object) -> str:
    """The id of a case by the id or the name that a client gives; raises `Refusal` 422."""
    if not isinstance(value, str):
        raise Refusal(422, "case_id: expected a text")
    # Also one with escapes, as an answer says it.
    if naming.problem_of_id(value) is None:
        return value
    if problem := naming.problem_of_name(value):
        raise Refusal(422, f"case_id: {problem[0]}")
    return naming.id_of_name(value)


class Files:
    """The files of one case, judged as they arrive.

    Args:
        modalities: the model's; other kinds are skipped.
        limits: the deployment's.
    """

    def __init__(self, modalities: Sequence[str], limits: Limits) -> None:
        self._modalities, self._limits = tuple(modalities), limits
        self._parts: dict[str, list[bytes]] = {}
        self._sizes: dict[str, int] = {}
        self._seen: set[str] = set()
        self._headers: dict[str, nifti.Header] = {}
        self.case_id: str | None = None

    def begin(self, kind: str, file_name: str = "") -> None:
        """A file of this kind starts; raises `Refusal` 400 where there was one."""
        if kind in self._seen:
            raise Refusal(400, f"{kind} came twice: expected one file for each modality", kind)
        self._seen.add(kind)
        if self.takes(kind):
            self._parts[kind], self._sizes[kind] = [], 0
        self.case_id = self.case_id or case_of(file_name)

    def takes(self, kind: str) -> bool:
        """Whether the model looks at files of this kind."""
        return kind in self._modalities

    def add(self, kind: str, piece: bytes) -> None:
        """More bytes of a file; raises `Refusal` as soon as its header shows that it is none."""
        if kind not in self._parts:
            return
        self._parts[kind].append(piece)
        self._sizes[kind] += len(piece)
        if kind not in self._headers and self._sizes[kind] >= nifti.HEAD_BYTES:
            self._judge(kind)
        header = self._headers.get(kind)
        if header and self._sizes[kind] > header.promised_bytes * 1.01 + (2 << 20):
            raise Refusal(422, "the file is longer than its header promises", kind)

    def end(self, kind: str) -> None:
        """The file is whole; raises `Refusal`."""
        if kind not in self._parts:
            return
        if kind not in self._headers:
            self._judge(kind)
        header = self._headers[kind]
        if not header.gzipped and self._sizes[kind] < header.promised_bytes:
            raise Refusal(
                422,
                f"truncated: the header promises {header.promised_bytes} bytes, "
                f"the file holds {self._sizes[kind]}",
                kind,
            )

    def _judge(self, kind: str) -> None:
        head = b"".join(self._parts[kind])[: nifti.HEAD_BYTES]
        if not head:
            raise Refusal(422, "the file is empty", kind)
        try:
            header = nifti.read_header(head, kind)
        except CaseRejected as error:
            raise Refusal(422, error.reason, kind) from error
        check_voxels(header, self._limits, kind)
        promised = header.promised_bytes + sum(
            other.promised_bytes for other in self._headers.values()
        )
        if promised > self._limits.inflated_bytes:
            raise Refusal(
                413,
                f"the files promise {promised} bytes once inflated: at most "
                f"{self._limits.inflated_bytes} are taken",
                kind,
            )
        self._check_grid(kind, header.geometry)
        self._headers[kind] = header

    def _check_grid(self, kind: str, geometry: Geometry) -> None:
        for other, header in self._headers.items():
            difference = same_grid(geometry, header.geometry)
            if difference:
                raise Refusal(422, f"not on the grid of {other}: {difference}", kind)

    def check_none(self) -> None:
        """Raises `Refusal` 400 where there is a file: a raw study comes as one archive."""
        if self._seen:
            raise Refusal(400, ONE_ARCHIVE, min(self._seen))

    def whole(self) -> dict[str, bytes]:
        """All files; raises `Refusal` 422 where a modality is missing."""
        if problem := volume.missing_modality(self._modalities, self._seen):
            sentence, kind = problem
            raise Refusal(422, sentence if self._seen else f"{sentence}; {_UNNAMED}", kind)
        return {kind: b"".join(self._parts.pop(kind)) for kind in self._modalities}


def _check_ratio(inflated_bytes: int, size_bytes: int, kind: str) -> None:
    """Refuse what is nothing but a promise: no scan comes to so much of so little."""
    if inflated_bytes > MAX_RATIO * max(size_bytes, _PIECE_BYTES // MAX_RATIO):
        raise Refusal(
            413,
            f"the file has {size_bytes} bytes and inflates to {inflated_bytes}: at most "
            f"{MAX_RATIO} times as many are taken",
            kind,
        )


def unzip(content: bytes, files: Files, limits: Limits) -> None:
    """Add the files of an archive; nothing is ever written under the names in it.

    Raises:
        Refusal: 400 for a damaged or hostile archive, 413 for one that inflates too far.
    """
    # Before zipfile makes an object of each; twice as many leave room for folders.
    if content.count(ZIP_ENTRY) > 2 * MAX_ENTRIES:
        raise Refusal(400, "the archive has too many entries: expected those of one case", "zip")
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            # `is_dir` fails of a name without a letter.
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
            _check_entries(entries, limits)
            for entry in entries:
                kind = kind_of(entry.filename)
                if kind is None or naming.is_hidden(entry.filename):
                    continue
                files.begin(kind, entry.filename)
                # What the model does not look at is not inflated either.
                if files.takes(kind):
                    _check_ratio(entry.file_size, entry.compress_size, kind)
                    _copy(archive, entry, kind, files)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
        ValueError,
    ) as error:
        raise Refusal(400, "the zip archive is damaged, encrypted or of an unknown kind") from error


def is_yes(text: str | None) -> bool:
    """What a client says of yes or no; raises `Refusal` 422 for anything else."""
    if text is None or text.lower() in ("false", "0"):
        return False
    if text.lower() in ("true", "1"):
        return True
    raise Refusal(422, "expected true or false", RAW)


def raw_study(content: bytes, case_id: str | None, task: str | None, limits: Limits) -> Submission:
    """A study as it left the scanner, which is looked into where it is prepared.

    Raises:
        Refusal: 400 for no archive, 413 for one of too many files.
    """
    if not content.startswith(ZIP_MAGICS):
        raise Refusal(400, ONE_ARCHIVE, RAW)
    # Twice as many leave room for folders; the archive's own directory is counted there.
    if content.count(ZIP_ENTRY) > 2 * limits.raw_files:
        raise Refusal(413, f"the archive has more than {limits.raw_files} files", RAW)
    return Submission(case_id=case_id, images={RAW: content}, task=task)


def _check_entries(entries: Sequence[zipfile.ZipInfo], limits: Limits) -> None:
    if len(entries) > MAX_ENTRIES:
        raise Refusal(
            400, f"the archive has {len(entries)} files: expected those of one case", "zip"
        )
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or ":" in name:
            raise Refusal(400, "the archive has a name that leads out of it", "zip")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refusal(400, "the archive uses another method than deflate", "zip")
    if sum(entry.file_size for entry in entries) > limits.inflated_bytes:
        raise Refusal(413, f"the archive inflates to more than {limits.inflated_bytes} bytes")


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, kind: str, files: Files) -> None:
    with archive.open(entry) as stream:
        # Never more than the entry's size, which was summed up before: zipfile stops there.
        while piece := stream.read(_PIECE_BYTES):
            files.add(kind, piece)
    files.end(kind)


def from_json(value: Mapping[str, Any], modalities: Sequence[str], limits: Limits) -> Submission:
    """A case by URIs, or a cohort; raises `Refusal` 422."""
    if "model" in value:
        raise Refusal(422, MODEL_IN_QUERY, "model")
    asked = value.get("task", value.get("release"))
    if asked is not None and not isinstance(asked, str):
        raise Refusal(422, "expected the name of a task", "task")
    if RAW in value:
        raise Refusal(422, ONE_ARCHIVE, RAW)
    if "cohort" in value:
        cohort = check_uri(value["cohort"], limits, "cohort")
        return Submission(
            cohort=cohort,
            output=check_output(value.get("output"), cohort, limits, "output"),
            task=asked,
        )
    images = value.get("images")
    if not isinstance(images, dict):
        raise Refusal(422, 'expected {"images": {"t1ce": "s3://…", …}}')
    uris: dict[str, str] = {}
    for name, uri in images.items():
        kind = kind_of(name)
        if kind is None:
            raise Refusal(422, f"expected one of {', '.join(MODALITIES)}", name[:64])
        if kind in uris:
            raise Refusal(422, f"{kind} came twice", kind)
        uris[kind] = check_image(uri, limits, kind)
    if problem := volume.missing_modality(modalities, uris):
        raise Refusal(422, *problem)
    case_id = value.get("case_id")
    named = (name for uri in uris.values() if (name := case_of(channels.file_of(uri))))
    return Submission(
        case_id=next(named, None) if case_id is None else checked_id(case_id),
        images={kind: uris[kind] for kind in modalities},
        task=asked,
    )


def request_of(
    submission: Submission, model: str, task: str, asked_task: str | None, owner: str
) -> tuple[JobRequest, dict[str, bytes]]:
    """A submission as what `JobsStore.add` keeps: the request, and the bytes of files."""
    files = {k: v for k, v in submission.images.items() if isinstance(v, bytes)}
    uris = {k: v for k, v in submission.images.items() if isinstance(v, str)}
    request = JobRequest(
        model=model,
        task=task,
        asked_task=asked_task,
        case_id=submission.case_id,
        images=uris,
        cohort=submission.cohort,
        output=submission.output,
        owner=owner,
    )
    return request, files
