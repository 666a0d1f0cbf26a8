"""Work that has no place in the cluster: told every minute, with who holds what it waits for.

Looked for from time to time by a thread of the driver, so that it is told whenever it happens: at
the start, where a node with half of the workers died, or where a pool grows.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

import ray

from ray_brats.engine import private
from ray_brats.progress import say

PERIOD_SECONDS = 60.0
UNITS = ("GPU", "CPU")
_COMMAND_LETTERS = 80
_SHOWN = 3


class Waiting:
    """Tells every minute what the work inside waits for; a context manager.

    Args:
        title: of the stage.
        task: what one of its tasks needs, by Ray's names, where it has tasks: they stand in no
            table of Ray's. They wait where nothing was done for a whole period, and none has room.
        period_seconds: between two looks.
    """

    def __init__(
        self,
        title: str,
        task: Mapping[str, float] | None = None,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._title, self._task, self._period = title, task, period_seconds
        self._over, self._moved = threading.Event(), False
        self._thread = threading.Thread(target=self._look, daemon=True, name="ray-brats-waiting")

    def __enter__(self) -> Waiting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=10)

    def moved(self) -> None:
        """Something was done: tasks do not wait."""
        self._moved = True

    def _look(self) -> None:
        while not self._over.wait(self._period):
            moved, self._moved = self._moved, False
            # A cluster that does not answer is told by the work itself.
            with contextlib.suppress(Exception):
                told = sentence(None if moved else self._task)
                if told and not self._over.is_set():
                    say(f"{self._title}: {told}")


def sentence(task: Mapping[str, float] | None = None) -> str | None:
    """What this job waits for, what is free, and who holds the rest; None where it does not wait.

    Args:
        task: what one task needs, which waits where no node has so much.
    """
    own = ray.get_runtime_context().get_job_id()
    free = ray.available_resources()
    places = private.waited_for(own)
    if not places and task and any(free.get(unit, 0) < task.get(unit, 0) for unit in UNITS):
        places = [task]
    if not places:
        return None
    total = ray.cluster_resources()
    here = ", ".join(f"{free.get(unit, 0):g} of {total.get(unit, 0):g} {unit}" for unit in UNITS)
    told = f"waiting for {_places(places)}; free now: {here}"
    everybody = private.held_by_jobs()
    held = [one for one in everybody if one.job_id != own]
    if not held:
        return f"{told}; held by work of this command itself" if everybody else told
    by = "; ".join(_holder(one) for one in held[:_SHOWN])
    more = f" and {len(held) - _SHOWN} more jobs" if held[_SHOWN:] else ""
    return f"{told}; held by {by}{more}"


def _places(places: Sequence[Mapping[str, float]]) -> str:
    """`2 × {1 GPU, 8 CPU}`."""
    counts = Counter(map(_amounts, places))
    return " and ".join(f"{count} × {amounts}" for amounts, count in counts.items())


def _holder(held: private.Held) -> str:
    command = held.command[:_COMMAND_LETTERS] or "started without a command"
    return f"job {held.job_id} ({command}): {_amounts(held.amounts)}"


def _amounts(amounts: Mapping[str, float]) -> str:
    found = [f"{amounts[unit]:g} {unit}" for unit in UNITS if amounts.get(unit)]
    return f"{{{', '.join(found) or 'no CPU'}}}"
