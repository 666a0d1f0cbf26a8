"""Progress: Ctrl-C is never lost."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import pytest

from ray_brats import progress
from ray_brats.progress import Progress, interruptible


class Interrupted:
    """Its finaliser is where Ctrl-C is pressed."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_in_a_finaliser_is_not_printed_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)

    def work() -> None:
        with interruptible(), Progress("test", 3) as progress:
            thing = Interrupted()
            del thing
            progress.update(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not printed


def test_an_interrupt_that_something_swallowed_comes_back_at_the_next_case() -> None:
    reached: list[int] = []

    def work() -> None:
        with interruptible(), Progress("test", 3) as progress:
            progress.update(1)
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            reached.append(1)
            progress.update(2)
            reached.append(2)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [1]
    with interruptible(), Progress("test", 3) as progress:
        progress.update(1)


def test_what_was_done_before_tells_nothing_about_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("train", 1200, unit="steps") as shown:
        now[0] += 30
        shown.starts_at(1000)
        now[0] += 20
        shown.update(1010)
    assert "train: 1010/1200 steps, 0.50 steps/s, 380 s left" in capsys.readouterr().err


def test_the_first_unit_which_loads_and_compiles_promises_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("train", 101, unit="steps") as shown:
        now[0] += 50
        shown.update(1)
        assert capsys.readouterr().err == "train: 1/101 steps, 0.02 steps/s\n"
        now[0] += 20
        shown.update(41)
    assert "train: 41/101 steps, 2.00 steps/s, 30 s left" in capsys.readouterr().err
