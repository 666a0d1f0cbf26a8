"""What one request may cost, and the body of a request read within that.

Nothing is kept beyond the caps, whatever a client promises or sends; a body is read as it comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_brats.errors import RayBratsError

Receive = Callable[[], Awaitable[Any]]
JSON_BYTES = 1 << 20


class Refusal(RayBratsError):
    """A request that is not served.

    Args:
        status: of HTTP, 4xx or 503.
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
    idle_seconds: float = 20.0
    """Without a byte of the body."""
    upload_seconds: float = 300.0
    """For the whole body."""
    answer_seconds: float = 600.0
    """From the last byte of the body to the mask."""
    waiting: int = 6
    """Cases accepted beyond those that models work on."""
    uploads: int = 16
    """Bodies of jobs read side by side."""
    queued_jobs: int = 1000
    keep_days: float = 30.0
    """How long an ended job and its mask are kept."""
    uri_prefixes: tuple[str, ...] = ()
    """Of `s3://` URIs that clients may name; none by default."""


class Body:
    """The body of one request, piece by piece.

    Args:
        receive: ASGI's.
        headers: of the request, names in lower case.
        limits: the caps and time-outs.

    Raises:
        Refusal: 400 for a Content-Length that is no number, 413 for one over the cap.
    """

    def __init__(self, receive: Receive, headers: Mapping[str, str], limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._read_bytes, self._ended = 0, False
        self._deadline = time.monotonic() + limits.upload_seconds
        self.promised_bytes = _content_length(headers)
        if self.promised_bytes is not None and self.promised_bytes > limits.body_bytes:
            raise Refusal(
                413,
                f"the body has {self.promised_bytes} bytes: at most {limits.body_bytes} are taken",
            )

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            Refusal: 413 beyond the cap, 408 when it comes too slowly, 400 when it breaks off.
        """
        while not self._ended:
            piece = await self._next()
            if self._read_bytes > self._limits.body_bytes:
                raise Refusal(413, f"the body exceeds {self._limits.body_bytes} bytes")
            if piece:
                yield piece
        if self.promised_bytes not in (None, self._read_bytes):
            raise Refusal(400, "the body ended before its Content-Length")

    async def all(self, most_bytes: int) -> bytes:
        """The whole of a short body; `Refusal` 413 beyond `most_bytes`."""
        parts, length = [], 0
        async for piece in self.pieces():
            length += len(piece)
            if length > most_bytes:
                raise Refusal(413, f"the body exceeds the {most_bytes} bytes of this kind")
            parts.append(piece)
        return b"".join(parts)

    async def _next(self) -> bytes:
        left = min(self._limits.idle_seconds, self._deadline - time.monotonic())
        try:
            async with asyncio.timeout(max(left, 0)):
                message = await self._receive()
        except TimeoutError:
            self._ended = True
            raise Refusal(
                408,
                f"the body came too slowly: expected it within {self._limits.upload_seconds:g} s "
                f"and no pause of {self._limits.idle_seconds:g} s",
            ) from None
        if message["type"] == "http.disconnect":
            self._ended = True
            raise Refusal(400, "the client went away before the end of the body")
        self._ended = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        self._read_bytes += len(piece)
        return piece


def _content_length(headers: Mapping[str, str]) -> int | None:
    told = headers.get("content-length")
    if told is None:
        return None
    if not (told.isascii() and told.isdecimal()) or len(told) > 18:
        raise Refusal(400, "Content-Length is no number of bytes")
    return int(told)


def check_uri(uri: object, limits: Limits, file: str = "") -> str:
    """The URI, where it stands below an allowed prefix; raises `Refusal` 422 otherwise.

    Only `s3://` is ever allowed: no local path, and nothing that could redirect elsewhere.
    """
    if not isinstance(uri, str) or not uri.startswith("s3://") or len(uri) > 2048:
        raise Refusal(422, "expected an s3:// URI: local paths and other servers are refused", file)
    parts = uri.removeprefix("s3://").split("/")
    odd = set(uri) & set("\\?#%*[]{}") or any(ord(letter) < 33 for letter in uri)
    if odd or any(part in ("", ".", "..") for part in parts[:-1]) or parts[-1] in (".", ".."):
        raise Refusal(422, "the URI is not a plain s3://bucket/key", file)
    for prefix in limits.uri_prefixes:
        root = prefix.rstrip("/")
        if uri == root or uri.startswith(root + "/"):
            return uri
    raise Refusal(422, "the URI is outside the prefixes that this server may read", file)
