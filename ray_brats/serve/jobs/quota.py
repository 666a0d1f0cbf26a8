"""How much the state may hold: a running count, counted anew at every look at all jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray_brats.serve.limits import Refusal


class Quota:
    """The bytes of all jobs, as one process knows them; used by its event loop alone.

    Args:
        most_bytes: all inputs, masks and notes together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._counted = most_bytes, 0
        # Written after that count began, and not written yet: what it may have missed.
        self._since = self._writing = 0

    def check(self, size_bytes: int) -> None:
        """Do nothing where so much more may be kept; raises `Refusal` 507."""
        if self._counted + self._since + self._writing + size_bytes > self._most:
            raise Refusal(
                507,
                f"the server keeps as much as it may, {self._most / (1 << 30):g} GiB: delete jobs "
                "that have ended (DELETE /v1/jobs/ID), or try again later",
                "",
                60,
            )

    @contextlib.contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        """So much is written inside; raises `Refusal` 507 where it may not be."""
        self.check(size_bytes)
        self._writing += size_bytes
        try:
            yield
            self._since += size_bytes
        finally:
            self._writing -= size_bytes

    def add(self, size_bytes: int) -> None:
        """So much was written, which nobody may refuse: the mask of an accepted job."""
        self._since += size_bytes

    @contextlib.contextmanager
    def counting(self) -> Iterator[list[int]]:
        """Sizes are put into the list inside: all that there is now."""
        before, sizes = self._since, list[int]()
        yield sizes
        self._counted = sum(sizes)
        self._since -= before
