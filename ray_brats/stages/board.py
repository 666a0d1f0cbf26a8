"""What the ranks of a run tell the driver: progress to show, and failures that end the run."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from ray_brats.progress import Progress, say

WAITING_SECONDS = 60.0
"""So long it holds that a rank waits for its input; it says so every ten."""


class Board:
    """A Ray actor on which ranks leave events, and errors that another try cannot mend."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._failures: dict[int, str] = {}
        self._waited = -math.inf

    def put(self, event: dict[str, Any]) -> None:
        """Add an event; steps overwrite each other, only the newest matters."""
        if "event" not in event and self._events and "event" not in self._events[-1]:
            self._events.pop()
        self._events.append(event)

    def take(self) -> list[dict[str, Any]]:
        """All events since the last call."""
        taken, self._events = self._events, []
        return taken

    def wait(self) -> None:
        """A rank waits for its input: those that wait for it in a step do not hang."""
        self._waited = time.monotonic()

    def is_waiting(self) -> bool:
        """Whether a rank said so a moment ago."""
        return time.monotonic() - self._waited < WAITING_SECONDS

    def fail(self, rank: int, reason: str) -> None:
        """The run cannot go on; every later start of a rank ends at once."""
        self._failures.setdefault(rank, reason)

    def failure(self) -> str | None:
        """Why the run cannot go on, if so: each reason once, in order of ranks."""
        reasons = dict.fromkeys(self._failures[rank] for rank in sorted(self._failures))
        return "; ".join(reasons) or None


def root_cause(error: BaseException) -> str:
    """The innermost message, without the engine's tracebacks."""
    failures = getattr(error, "worker_failures", None) or {}
    inner = next(iter(failures.values()), error)
    lines = [line for line in str(inner).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(inner).__name__


class Follower:
    """Shows what the ranks report while the driver waits for the end; a context manager.

    Args:
        board: where they report.
        moved: called where something was reported.
    """

    def __init__(self, board: Any, moved: Callable[[], None] = lambda: None) -> None:
        self._board, self._ended, self._moved = board, threading.Event(), moved
        self._validated = ""
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=10)

    def _follow(self) -> None:
        with Progress("train", None, unit="steps") as progress:
            while True:
                last = self._ended.wait(1.0)
                try:
                    events = ray.get(self._board.take.remote())
                except ray.exceptions.RayError:
                    return  # it died, or has no memory; the end of the training says why
                if events:
                    self._moved()
                for event in events:
                    self._show(event, progress)
                if last:
                    return

    def _show(self, event: Mapping[str, Any], progress: Progress) -> None:
        kind, step = event.get("event"), event["step"]
        if kind is None:
            note = (
                f"loss {event['loss']:.4f}, Dice {_dice(event['soft_dice'])}, "
                f"{event['patches_per_second']:.2f} patches/s, "
                f"input wait {event['input_wait_share']:.1%}"
            )
            progress.update(step, total=event["total_steps"], note=note)
        elif kind == "plan":
            say(
                f"train: {event['total_steps']} steps of {event['step_seconds']:.2f} s, about "
                f"{event['seconds_left'] / 60:.1f} minutes left; validation after "
                f"{', '.join(map(str, event['validate_at']))}; a checkpoint every "
                f"{event['checkpoint_every']} steps"
            )
        elif kind == "validation":
            say(
                f"train: step {step}: validation Dice {_dice(event['dice'])} "
                f"({event['cases']} cases, {event['seconds']:.0f} s)"
            )
        elif kind == "early stop":
            say(f"train: step {step}: no better validation for so long; ends here")
        elif kind == "resume":
            say(f"train: goes on from step {step}")
            before, now = event.get("batch_before"), event.get("batch")
            if before and before != now:
                say(
                    f"train: steps are of {now} patch(es) now, and were of {before}: the learning "
                    "rate goes with their square root where the recipe has AdamW, a length in "
                    "patches stays"
                )
            progress.starts_at(step)
        elif kind == "leaving":
            say(f"train: step {step}: a node is told to leave; the state is kept")
        elif kind == "hang":
            say(f"train: rank {event['rank']} hangs after step {step}: {event['text']}")
            say("train: its process ends now; training goes on from the last checkpoint")


def _dice(scores: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in scores.items())
