"""The body of a request, read piece by piece within its limits, and what nobody read of it.

Nothing is kept beyond the caps, whatever a client promises or sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from ray_brats.serve.limits import Limits, Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
JSON_BYTES = 1 << 20
GRACE_SECONDS = 10.0
"""So long a body may come at any rate."""


class Body:
    """The body of one request, piece by piece.

    Args:
        receive: ASGI's.
        headers: the request's, names in lower case.
        limits: the caps and time-outs.

    Raises:
        Refusal: 400 for a Content-Length that is no number, 413 for one over the cap.
    """

    def __init__(self, receive: Receive, headers: Mapping[str, str], limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._read_bytes, self._ended = 0, False
        self._began = time.monotonic()
        self.promised_bytes = promised_bytes(headers)
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

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; `Refusal` 400 where it is none."""
        content = await self.all(JSON_BYTES)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "the body is not valid JSON") from error
        if not isinstance(value, dict):
            raise Refusal(400, "expected a JSON object")
        return value

    async def _next(self) -> bytes:
        limits = self._limits
        # By when more must be there, or the whole has come at less than the least rate.
        due = min(limits.upload_seconds, GRACE_SECONDS + self._read_bytes / limits.least_bytes_s)
        left = min(limits.idle_seconds, self._began + due - time.monotonic())
        try:
            async with asyncio.timeout(max(left, 0)):
                message = await self._receive()
        except TimeoutError:
            self._ended = True
            raise Refusal(
                408,
                f"the body came too slowly: expected it within {limits.upload_seconds:g} s, at "
                f"{limits.least_bytes_s >> 10} KiB/s or more and without a pause of "
                f"{limits.idle_seconds:g} s",
            ) from None
        if message["type"] == "http.disconnect":
            self._ended = True
            raise Refusal(400, "the client went away before the end of the body")
        self._ended = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        self._read_bytes += len(piece)
        return piece


def promised_bytes(headers: Mapping[str, str]) -> int | None:
    """Length of the body as its headers tell it, if they do; raises `Refusal` 400."""
    length = headers.get("content-length")
    if length is None:
        return None
    if not (length.isascii() and length.isdecimal()) or len(length) > 18:
        raise Refusal(400, "Content-Length is no number of bytes")
    return int(length)


@dataclass(kw_only=True)
class Patience:
    """How much is read of bodies after their answer, so that their senders get to read that.

    A connection that is closed with a body that nobody reads takes the answer away.
    """

    seconds: float
    most_bytes: int
    places: int
    """So many bodies are drained at a time; others are not waited for."""

    @contextlib.contextmanager
    def place(self) -> Iterator[bool]:
        """Whether there was a place, which is held inside."""
        if self.places == 0:
            yield False
            return
        self.places -= 1
        try:
            yield True
        finally:
            self.places += 1


class Incoming:
    """The messages of a request, whoever receives them; what is left of its body can be drained.

    Args:
        receive: ASGI's.
        headers: the request's, names in lower case.
    """

    def __init__(self, receive: Receive, headers: Mapping[str, str]) -> None:
        try:
            self._promised = promised_bytes(headers) or 0
        except Refusal:
            self._promised = 0
        self._receive, self._read_bytes = receive, 0
        self._ended = not self._promised and "transfer-encoding" not in headers

    async def receive(self) -> Message:
        """The next message."""
        message = await self._receive()
        self._ended = self._ended or not message.get("more_body", False)
        self._read_bytes += len(message.get("body", b""))
        return message

    async def drain(self, patience: Patience) -> None:
        """Read what is left and forget it, as far as patience goes."""
        most = patience.most_bytes
        if self._ended or self._promised > most:
            return
        with patience.place() as there, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience.seconds):
                while there and not self._ended and self._read_bytes <= most:
                    await self.receive()
