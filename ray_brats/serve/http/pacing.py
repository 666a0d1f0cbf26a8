"""Strangers take turns: a burst of calls without a key leaves the way free for all others.

Serve's proxies pass on some three hundred calls a second, in the order in which they come. Of a
burst of refused ones all others would wait for the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

SLOTS = 16
"""Calls of strangers that a proxy passes on at a time."""
HOLD_SECONDS = 0.25
"""Longest that one of them holds its slot: what takes longer was not refused, and is work."""
_KEYS = (b"authorization", b"x-api-key")


class Paced:
    """An ASGI application around a proxy of Serve."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app, self._slots = app, asyncio.Semaphore(SLOTS)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one call, once it is its turn."""
        if not _is_strangers(scope):
            await self._app(scope, receive, send)
            return
        await self._slots.acquire()
        slot = _Slot(self._slots)

        async def sending(message: MutableMapping[str, Any]) -> None:
            slot.free()
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            slot.free()


class _Slot:
    """A slot that is given back once, at the latest after a while."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots: asyncio.Semaphore | None = slots
        self._timer = asyncio.get_running_loop().call_later(HOLD_SECONDS, self.free)

    def free(self) -> None:
        """Give it back."""
        slots, self._slots = self._slots, None
        if slots is not None:
            self._timer.cancel()
            slots.release()


def _is_strangers(scope: MutableMapping[str, Any]) -> bool:
    """Whether a call that writes names no key; whether a key is one, the application knows."""
    if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
        return False
    return not any(name.lower() in _KEYS for name, _ in scope["headers"])
