"""Calls that write take turns, so that probes and readers pass by a burst of refused ones.

Serve's proxies pass on some three hundred calls a second, in the order in which they come. Those
without a key have turns of their own: whoever names one does not wait for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

SLOTS = 6
"""Calls of either kind that a proxy passes on at a time."""
HOLD_SECONDS = 0.25
"""Longest that one of them holds its slot: what takes longer was not refused, and is work."""
_KEYS = (b"authorization", b"x-api-key")


class Paced:
    """An ASGI application around a proxy of Serve."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._slots = {names_key: asyncio.Semaphore(SLOTS) for names_key in (True, False)}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one call, once it is its turn."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        slots = self._slots[_names_key(scope)]
        await slots.acquire()
        slot = _Slot(slots)

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


def _names_key(scope: MutableMapping[str, Any]) -> bool:
    """Whether a call names a key; whether it is one, the application knows."""
    return any(value and name.lower() in _KEYS for name, value in scope["headers"])
