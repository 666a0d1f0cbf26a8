"""Jobs that wait in this process, those that came first ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class Line:
    """A queue whose jobs have a time of arrival, and may leave it before it is their turn."""

    def __init__(self) -> None:
        self._arrived: dict[str, float] = {}
        self._some = asyncio.Event()

    def __len__(self) -> int:
        return len(self._arrived)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._arrived

    def add(self, job_id: str, arrived_unix: float) -> None:
        """Let a job wait; one that does so already keeps its place."""
        self._arrived.setdefault(job_id, arrived_unix)
        self._some.set()

    def drop(self, job_ids: Iterable[str]) -> None:
        """Let jobs go that need not wait any more."""
        for job_id in job_ids:
            self._arrived.pop(job_id, None)

    async def next(self) -> str:
        """The job that came first, once there is one; it waits no longer."""
        while not self._arrived:
            self._some.clear()
            await self._some.wait()
        job_id = min(self._arrived, key=self._arrived.__getitem__)
        del self._arrived[job_id]
        return job_id
