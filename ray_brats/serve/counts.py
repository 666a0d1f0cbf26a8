"""What several ingresses have taken, so that each admits as one that had all calls would.

Each tells the process of the queue what it holds, and learns what the others do, twice a second:
what two of them take at the same moment can pass the limits by as much. One that says nothing for
some seconds is taken to be gone; and while the queue starts again each goes by what it heard last.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

PERIOD_SECONDS: Final = 0.5
FRESH_SECONDS: Final = 5.0
Counts = Mapping[str, int]
"""Name of a kind of place to how many of them are taken."""


class Exchange:
    """Where ingresses meet.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, tuple[float, Counts]] = {}

    def tell(self, who: str, counts: Counts) -> dict[str, int]:
        """Keep what an ingress holds; what all others do, together."""
        now = self._clock()
        self._told[who] = (now, counts)
        self._told = {
            name: (at, held) for name, (at, held) in self._told.items() if now - at < FRESH_SECONDS
        }
        others: Counter[str] = Counter()
        for name, (_, held) in self._told.items():
            if name != who:
                others.update(held)
        return dict(others)


async def keep_told(
    tell: Callable[[Counts], Awaitable[Counts]],
    own: Callable[[], Counts],
    heard: Callable[[Counts], None],
) -> None:
    """Tell and hear, for ever.

    Args:
        tell: as `Exchange.tell`, elsewhere.
        own: what this ingress holds.
        heard: gets what the others do; nothing where that could not be heard for long.
    """
    last = time.monotonic()
    while True:
        try:
            async with asyncio.timeout(FRESH_SECONDS):
                heard(await tell(own()))
            last = time.monotonic()
        except Exception:  # noqa: BLE001 - whatever ails the queue, calls are answered
            if time.monotonic() - last > FRESH_SECONDS:
                heard({})
        await asyncio.sleep(PERIOD_SECONDS)
