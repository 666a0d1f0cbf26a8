"""Several ingresses admit as one that had all calls would."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
import serve_doubles

from ray_brats.serve import counts
from ray_brats.serve.counts import Counts, Exchange, keep_told
from ray_brats.serve.limits import Limits, Refusal


def test_each_hears_what_the_others_hold_and_forgets_who_is_silent() -> None:
    now = [0.0]
    exchange = Exchange(clock=lambda: now[0])
    assert exchange.tell("a", {"x": 2, "y": 1}) == {}
    assert exchange.tell("b", {"x": 1}) == {"x": 2, "y": 1}
    assert exchange.tell("c", {}) == {"x": 3, "y": 1}
    assert exchange.tell("a", {"x": 5}) == {"x": 1}
    now[0] = counts.FRESH_SECONDS - 0.1
    assert exchange.tell("b", {"x": 1}) == {"x": 5}
    now[0] = counts.FRESH_SECONDS + 0.1
    assert exchange.tell("b", {"x": 1}) == {}


def test_what_was_heard_holds_while_the_queue_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(counts, "FRESH_SECONDS", 0.2)
    heard: list[Counts] = []
    answers: list[Any] = [{"x": 1}, OSError("gone"), OSError("gone"), {"x": 2}]

    async def tell(own: Counts) -> Counts:
        assert own == {"mine": 3}
        answer = answers.pop(0) if answers else OSError("gone for good")
        if isinstance(answer, OSError):
            raise answer
        return answer  # type: ignore[no-any-return]

    async def main() -> None:
        task = asyncio.create_task(keep_told(tell, lambda: {"mine": 3}, heard.append))
        while {} not in heard:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(main(), 10))
    assert heard[:3] == [{"x": 1}, {"x": 2}, {}]


def test_what_others_hold_counts_where_places_are_given(tmp_path: Path) -> None:
    limits = Limits(waiting=2, uploads=3, uploads_a_key=2)
    service = serve_doubles.Double(tmp_path, limits=limits).service
    model = next(iter(service.models.values()))

    async def uploads(caller: str) -> int:
        taken = 0
        async with contextlib.AsyncExitStack() as stack:
            with contextlib.suppress(Refusal):
                while True:
                    await stack.enter_async_context(service.uploading(caller))
                    taken += 1
        return taken

    places = model.capacity + 2
    service.hear({f"pending {model.name}": places - 1, "pending another": 100})
    service.check_place(model)
    assert asyncio.run(uploads("key")) == 2
    service.hear({f"pending {model.name}": places, "uploads key": 1, "uploads other": 1})
    with pytest.raises(Refusal) as refused:
        service.check_place(model)
    assert refused.value.status == 429
    assert asyncio.run(uploads("key")) == 1
    assert asyncio.run(uploads("third")) == 1
    service.hear({})
    service.check_place(model)
    assert service.held() == {f"pending {model.name}": 0, "uploads key": 0, "uploads third": 0}
