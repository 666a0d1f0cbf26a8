"""What people read: progress on standard error, a bar or plain lines; and lines of any kind.

Names come from files, buckets and clients, and may hold what a terminal obeys. Whatever is written
for people goes through `say`, `tell` or a `Terminal`, which show it and do not obey.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol

import rich.console
import rich.progress
import rich.text

PLAIN_SECONDS = 10.0
"""Least time between two plain lines."""

_interrupted = threading.Event()


_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0, DEL and C1, which terminals act upon, ends of lines, and what turns the direction of text."""


def plain(text: str) -> str:
    """The text with escapes, as `\\x1b`, in place of what a terminal would obey."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str) -> None:
    """One plain line on standard error, so that standard output stays for results."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def tell(text: str) -> None:
    """One plain line on standard output, which is for results."""
    sys.stdout.write(plain(text) + "\n")


class Terminal(rich.console.Console):
    """A console whose texts are no markup, and are shown as `plain` has them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """What every text of a table or line becomes."""
        return super().render_str(plain(text), **options)

    def on_broken_pipe(self) -> None:
        """Left to the command, whose exit status is about its cases."""
        raise BrokenPipeError


class Counted(Protocol):
    """What tells how many cases were done now, and how many before."""

    @property
    def processed(self) -> int:
        """Cases done now."""
        ...

    @property
    def skipped(self) -> int:
        """Cases found finished."""
        ...


def say_done(stage: str, summary: Counted) -> None:
    """Say how many cases a stage found finished, where it found any."""
    done, skipped = summary.processed, summary.skipped
    if not done and skipped:
        say(f"{stage}: all {skipped} cases were finished before; nothing to do")
    elif skipped:
        say(f"{stage}: {done} cases done now, {skipped} finished before")


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Nothing on standard error inside: for what TensorFlow and Ray say as they start.

    Their C++ side speaks before its logging is set up and obeys no option; errors come as
    exceptions all the same.
    """
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C ends the work even where a callback swallows the exception.

    Ray runs our code's callbacks and finalisers in the main thread; a KeyboardInterrupt that is
    raised in one of those is lost, and Python only prints it. `Progress.update` raises it again.
    """
    print_unraisable = sys.unraisablehook

    def note(number: int, frame: types.FrameType | None) -> None:
        _interrupted.set()
        signal.default_int_handler(number, frame)

    def quieter(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            print_unraisable(lost)

    _interrupted.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, note)
    sys.unraisablehook = quieter
    try:
        yield
    finally:
        sys.unraisablehook = print_unraisable
        signal.signal(signal.SIGINT, before)


class Progress:
    """Counts finished units of one stage; use as a context manager."""

    def __init__(self, title: str, total: int | None, unit: str = "cases") -> None:
        self._title, self._total, self._unit = plain(title), total, unit
        self._done = self._before = 0
        self._began = self._spoke = time.monotonic()
        self._warm = False
        self._bar: rich.progress.Progress | None = None
        self._note = ""

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}", markup=False),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn("{task.fields[rate]}"),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TimeRemainingColumn(),
                rich.progress.TextColumn("{task.fields[note]}", markup=False),
                console=Terminal(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, note="", rate="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            # At the end all that was done counts, with what loading took.
            self._warm = False
            self._speak()

    def starts_at(self, done: int) -> None:
        """So many units were done before: they tell nothing about the rate from now on."""
        self._done = self._before = done
        self._warm = False
        self._began = time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._task, completed=done, total=self._total)

    def update(self, done: int, *, total: int | None = None, note: str = "") -> None:
        """Set how many units are done, and perhaps a new total and a remark.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed before, and something swallowed it.
        """
        if _interrupted.is_set() and threading.current_thread() is threading.main_thread():
            _interrupted.clear()
            raise KeyboardInterrupt
        if done - self._before == 1 and not self._warm:
            # The first unit has all that loads and compiles; the others come at another rate.
            self._warm, self._first = True, time.monotonic()
        self._done, self._note = done, plain(note)
        self._total = total or self._total
        if self._bar is not None:
            rate = f"{self._rate():.2f} {self._unit}/s"
            self._bar.update(
                self._task, completed=done, total=self._total, note=self._note, rate=rate
            )
        # The last is told at the end, with the rate of all.
        elif done != self._total and time.monotonic() - self._spoke >= PLAIN_SECONDS:
            self._speak()

    def _rate(self) -> float:
        """Units a second since the start, or since the first unit was done alone."""
        if self._warm and self._done > self._before + 1:
            since = max(time.monotonic() - self._first, 1e-6)
            return (self._done - self._before - 1) / since
        return (self._done - self._before) / max(time.monotonic() - self._began, 1e-6)

    def _speak(self) -> None:
        self._spoke = time.monotonic()
        rate = self._rate()
        left = ""
        known = not self._warm or self._done > self._before + 1
        if self._total and rate and known and self._done < self._total:
            left = f", {(self._total - self._done) / rate:.0f} s left"
        of = f"/{self._total}" if self._total else ""
        note = f", {self._note}" if self._note else ""
        say(f"{self._title}: {self._done}{of} {self._unit}, {rate:.2f} {self._unit}/s{left}{note}")
