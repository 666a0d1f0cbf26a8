"""A process that hangs ends itself and shows where it was."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from ray_brats.engine.watchdog import EXIT_STATUS, Watchdog

HANGS = """
import time
from ray_brats.engine.watchdog import Watchdog

def stuck_here():
    time.sleep(60)

with Watchdog(0.5, lambda text: print("told:", text, flush=True)):
    stuck_here()
"""


def test_a_hang_ends_the_process_with_its_stacks() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == EXIT_STATUS
    assert time.monotonic() - began < 30
    for text in (done.stdout, done.stderr):
        assert "stuck_here" in text
        assert "limit 0.5 s" in text


def test_beats_keep_a_process_alive() -> None:
    told: list[str] = []
    # Wide of what a busy machine delays: a bite would end the test's own process.
    with Watchdog(3.0, told.append) as watchdog:
        for _ in range(8):
            time.sleep(0.5)
            watchdog.beat()
        threads = threading.enumerate()
    (thread,) = [item for item in threads if item.name == "ray-brats-watchdog"]
    thread.join(10)
    assert not thread.is_alive(), "nothing is left that could bite"
    assert not told


def test_a_silence_that_is_excused_goes_on_and_no_longer() -> None:
    code = HANGS.replace(
        '"told:", text, flush=True))',
        '"told:", text, flush=True), lambda: next(excuses))',
    ).replace("with Watchdog", "excuses = iter([True] * 4 + [False])\nwith Watchdog")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == EXIT_STATUS
    assert time.monotonic() - began > 2
    assert "stuck_here" in done.stdout
