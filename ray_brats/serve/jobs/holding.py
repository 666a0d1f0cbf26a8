"""The leases that this process holds: kept alive while their jobs are under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from ray_brats.progress import say
from ray_brats.serve.jobs import leases
from ray_brats.serve.jobs.leases import Lease, Lost


class Held:
    """Leases by job.

    Args:
        lost: told of a job that is another process's by now.
        threads: leases that are held at a time.
    """

    def __init__(self, lost: Callable[[str], None], *, threads: int) -> None:
        self._lost, self._leases = lost, dict[str, Lease]()
        # Of their own: an owner must not seem dead while other threads wait for a storage.
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="beat")

    @contextlib.contextmanager
    def holding(self, job_id: str, lease: Lease) -> Iterator[None]:
        """A lease is kept alive inside."""
        self._leases[job_id] = lease
        try:
            yield
        finally:
            del self._leases[job_id]

    def all(self) -> dict[str, Lease]:
        """Those held now."""
        return dict(self._leases)

    async def beat(self) -> None:
        """Show all others, for ever, that these jobs have an owner that lives."""
        while True:
            await asyncio.sleep(leases.BEAT_SECONDS)
            await asyncio.gather(*(self._beat_once(*held) for held in self.all().items()))

    async def _beat_once(self, job_id: str, lease: Lease) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, lease.beat)
        except Lost:
            # Not the job that may have come after, under the same name.
            if self._leases.get(job_id) is lease:
                self._lost(job_id)
        except OSError as error:
            say(f"serve: job {job_id}: no sign of life ({type(error).__name__})")
