"""Calls that write take turns, those without a key by themselves; all others pass by."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ray_brats.serve.http import pacing
from ray_brats.serve.http.pacing import Paced

pytestmark = pytest.mark.anyio
KEY = [(b"Authorization", b"Bearer x")]


class Proxy:
    """Answers when it is told to; counts the calls that it is passed."""

    def __init__(self) -> None:
        self.calls, self.most = 0, 0
        self.answering = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        self.most = max(self.most, self.calls)
        await self.answering.wait()
        await send({"type": "http.response.start", "status": 401})
        # The body of a refused call is read on for a while.
        await asyncio.sleep(0.01)
        self.calls -= 1


async def call(app: Paced, method: str = "POST", headers: Any = ()) -> None:
    async def nothing(_: Any = None) -> None: ...

    await app({"type": "http", "method": method, "headers": headers}, nothing, nothing)


async def test_a_burst_of_strangers_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "HOLD_SECONDS", 60)
    proxy = Proxy()
    app = Paced(proxy)
    burst = [asyncio.create_task(call(app, "POST", [(b"x-api-key", b"")])) for _ in range(200)]
    await asyncio.sleep(0.05)
    assert proxy.calls == pacing.SLOTS
    others = [
        asyncio.create_task(call(app, "GET")),
        asyncio.create_task(call(app, "HEAD")),
        asyncio.create_task(call(app, "POST", KEY)),
        asyncio.create_task(call(app, "DELETE", [(b"X-API-Key", b"x")])),
    ]
    await asyncio.sleep(0.05)
    assert proxy.calls == pacing.SLOTS + len(others)
    named = [asyncio.create_task(call(app, "POST", KEY)) for _ in range(200)]
    await asyncio.sleep(0.05)
    assert proxy.calls == 2 * pacing.SLOTS + 2
    proxy.answering.set()
    await asyncio.wait_for(asyncio.gather(*burst, *others, *named), 20)
    assert proxy.calls == 0


async def test_work_holds_no_slot_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "HOLD_SECONDS", 0.05)
    proxy = Proxy()
    app = Paced(proxy)
    calls = [asyncio.create_task(call(app)) for _ in range(3 * pacing.SLOTS)]
    await asyncio.sleep(0.5)
    assert proxy.calls == 3 * pacing.SLOTS
    proxy.answering.set()
    await asyncio.wait_for(asyncio.gather(*calls), 20)


async def test_slots_outlive_calls_that_fail_or_are_cancelled() -> None:
    async def failing(*_: Any) -> None:
        raise RuntimeError("gone")

    app = Paced(failing)
    for _ in range(2 * pacing.SLOTS):
        with pytest.raises(RuntimeError):
            await call(app)
    proxy = Proxy()
    app = Paced(proxy)
    for _ in range(3):
        tasks = [asyncio.create_task(call(app)) for _ in range(2 * pacing.SLOTS)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert app._slots[False]._value == pacing.SLOTS
