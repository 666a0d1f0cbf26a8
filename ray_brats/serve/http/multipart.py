"""Multipart bodies, parsed as they come; the parser itself is python-multipart's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from ray_brats.cases.naming import MODALITIES
from ray_brats.serve.http import uploads
from ray_brats.serve.http.body import Body
from ray_brats.serve.http.uploads import ZIP_MAGICS, Files
from ray_brats.serve.limits import Limits, Refusal
from ray_brats.serve.models import RAW, Submission

MAX_PARTS = 16
PARSING_SECONDS, PARSING_SECONDS_A_MIB = 0.5, 0.02
"""Most of this process's time for a body; the parser stops at what may be a boundary, and files
have such a place in some megabytes: they take a fiftieth of it."""
_FIELD_BYTES = 1024
_PARSED_BYTES = 1 << 16


class _Form:
    """A form as the parser's callbacks fill it."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.archive: list[bytes] | None = None
        self.fields: dict[str, bytes] = {}
        self._parts = 0
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._disposition = b""
        self._kind: str | None = None
        self._field: str | None = None
        self._first = b""
        self._name = ""
        self._open = False
        self.complete = False

    def callbacks(self) -> dict[str, object]:
        """The callbacks, by the names that the parser has for them."""
        names = (
            "on_part_begin on_header_begin on_header_field on_header_value on_header_end "
            "on_headers_finished on_part_data on_part_end on_end"
        )
        return {name: getattr(self, name) for name in names.split()}

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Refusal(400, f"more than {MAX_PARTS} parts: expected one file a modality")
        self._disposition, self._open = b"", False

    def on_header_begin(self) -> None:
        self._header = (bytearray(), bytearray())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        if bytes(self._header[0]).lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")[:64]
        file_name = options.get(b"filename", b"").decode("utf-8", "replace")
        self._first, self._field = b"", None
        if self._name == "model":
            raise Refusal(400, uploads.MODEL_IN_QUERY, self._name)
        if self._name in ("case_id", "task", "release", RAW):
            self._kind = None
            if self._name in self.fields:
                raise Refusal(400, "the field came twice", self._name)
            self._field, self.fields[self._name] = self._name, b""
            return
        self._kind = uploads.kind_of(self._name) or uploads.kind_of(file_name)
        self._file_name = file_name

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        piece = bytes(data[start:end])
        if self._field is not None:
            self.fields[self._field] += piece
            if len(self.fields[self._field]) > _FIELD_BYTES:
                raise Refusal(413, "the field is too long", self._field)
        elif self._open:
            self._add(piece)
        else:
            self._first += piece
            if len(self._first) >= len(ZIP_MAGICS[0]):
                self._start()

    def _start(self) -> None:
        """Take the first bytes of a file: an archive's, or those of a modality."""
        self._open = True
        if self._first.startswith(ZIP_MAGICS):
            if self.archive is not None:
                raise Refusal(400, "two archives: expected one", self._name)
            self.archive, self._kind = [], None
        elif self._kind is None:
            raise Refusal(
                400,
                f"the part is neither a zip archive nor named by a modality: expected one of "
                f"{', '.join(MODALITIES)}, or a zip; that of a raw study with raw=true",
                self._name,
            )
        else:
            self.files.begin(self._kind, self._file_name)
        self._add(self._first)

    def _add(self, piece: bytes) -> None:
        if self._kind is None:
            assert self.archive is not None
            self.archive.append(piece)
        else:
            self.files.add(self._kind, piece)

    def on_part_end(self) -> None:
        if self._field is None and not self._open:
            self._start()
        if self._field is None and self._kind is not None:
            self.files.end(self._kind)

    def on_end(self) -> None:
        self.complete = True


async def read(
    body: Body,
    headers: Mapping[str, str],
    modalities: Sequence[str],
    limits: Limits,
    *,
    raw: bool = False,
) -> Submission:
    """The case in a `multipart/form-data` body.

    Args:
        raw: whether it is a raw study; a field of that name may say so too.

    Raises:
        Refusal: as `uploads`, or 400 where the body is no such.
    """
    _, options = parse_options_header(headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise Refusal(400, "the Content-Type names no usable multipart boundary")
    form = _Form(Files(modalities, limits))
    parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
    left = PARSING_SECONDS
    try:
        async for piece in body.pieces():
            for at in range(0, len(piece), _PARSED_BYTES):
                part, began = piece[at : at + _PARSED_BYTES], time.thread_time()
                parser.write(part)
                left += PARSING_SECONDS_A_MIB * len(part) / 2**20 - (time.thread_time() - began)
                if left < 0:
                    raise Refusal(400, "the body is nothing but starts of boundaries")
        parser.finalize()
    except (MultipartParseError, UnicodeDecodeError) as error:
        raise Refusal(400, "the body is no valid multipart/form-data") from error
    if not form.complete:
        raise Refusal(400, "the multipart body breaks off before its last boundary")
    content = b"".join(form.archive or ())
    form.archive = None
    given = {name: text.decode("utf-8", "replace") for name, text in form.fields.items() if text}
    task = given.get("task", given.get("release"))
    if raw or uploads.is_yes(given.get(RAW)):
        case_id = uploads.checked_id(given["case_id"]) if "case_id" in given else None
        form.files.check_none()
        return uploads.raw_study(content, case_id, task, limits)
    if content:
        await asyncio.to_thread(uploads.unzip, content, form.files, limits)
    case_id = uploads.checked_id(given["case_id"]) if "case_id" in given else form.files.case_id
    return Submission(case_id=case_id, images=form.files.whole(), task=task)


async def read_archive(
    body: Body, modalities: Sequence[str], limits: Limits, *, raw: bool = False
) -> Submission:
    """The case, or the raw study, in an `application/zip` body; raises `Refusal`."""
    files = Files(modalities, limits)
    content = b"".join([piece async for piece in body.pieces()])
    if raw:
        return uploads.raw_study(content, None, None, limits)
    await asyncio.to_thread(uploads.unzip, content, files, limits)
    return Submission(case_id=files.case_id, images=files.whole())
