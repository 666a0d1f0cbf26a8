"""The body of a request, read piece by piece within its limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from ray_brats.serve.limits import Limits, Refusal

Receive = Callable[[], Awaitable[Any]]


JSON_BYTES = 1 << 20


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
