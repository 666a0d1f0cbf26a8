"""A watchdog for hangs that raise nothing: no sign of life for too long ends the process.

A rank that is alive but absent from a collective makes the others wait for ever, and
TensorFlow ignores SIGTERM then. The process shows its stacks and ends itself; whoever
started it starts it again from the last checkpoint.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType

EXIT_STATUS = 86
BACKSTOP_SECONDS = 30.0
"""After this long on top, the interpreter's own timer ends a process whose Python is stuck."""


class Watchdog:
    """Ends this process when `beat` is not called for `limit_seconds`; a context manager.

    Args:
        limit_seconds: longest time between two beats.
        tell: gets the stacks of all threads as text, before the process ends.
        excused: whether the silence is somebody else's doing, who has told so; it counts as a beat.
    """

    def __init__(
        self,
        limit_seconds: float,
        tell: Callable[[str], None],
        excused: Callable[[], bool] = lambda: False,
    ) -> None:
        self._limit, self._tell, self._excused = limit_seconds, tell, excused
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="ray-brats-watchdog")

    def __enter__(self) -> Watchdog:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """A sign of life."""
        self._last = time.monotonic()
        # Runs without the interpreter's lock: native code that holds it cannot stop this one.
        faulthandler.dump_traceback_later(
            self._limit + BACKSTOP_SECONDS, exit=True, file=sys.__stderr__ or 2
        )

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self._limit / 4)):
            silent = time.monotonic() - self._last
            if silent < self._limit:
                continue
            if self._is_excused():
                self.beat()
                continue
            text = f"no step for {silent:.0f} s (limit {self._limit:g} s); stacks:\n{stacks()}"
            try:
                print(text, file=sys.__stderr__, flush=True)
                self._tell(text)
            finally:
                os._exit(EXIT_STATUS)

    def _is_excused(self) -> bool:
        try:
            return self._excused()
        except Exception:  # noqa: BLE001 - nobody answers who could excuse it
            return False


def stacks() -> str:
    """Where each thread of this process is, newest call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        lines = "".join(traceback.format_stack(frame))
        parts.append(f"thread {names.get(ident, ident)}:\n{lines}")
    return "\n".join(parts)
