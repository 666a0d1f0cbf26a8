"""A stopped process is ended, a running one is not, and nothing stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
WATCHED = """
import time
from ray_brats.engine import companion

print(companion.watch(2).pid, flush=True)
assert companion.watch(2) is companion.watch(2)
time.sleep(60)
"""


def started() -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen([sys.executable, "-c", WATCHED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def check_gone(pid: int) -> None:
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":  # Nobody's child any more, and this machine's init may be slow.
            return
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_stopped_process_is_ended() -> None:
    process, companion = started()
    process.send_signal(signal.SIGSTOP)
    assert process.wait(15) == -signal.SIGKILL
    check_gone(companion)


def test_a_process_that_was_stopped_for_a_moment_goes_on() -> None:
    process, companion = started()
    for _ in range(2):
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        process.send_signal(signal.SIGCONT)
        time.sleep(1.2)
    assert process.poll() is None
    process.kill()
    process.wait(10)
    check_gone(companion)


def test_ctrl_c_leaves_the_companion_to_its_process() -> None:
    process, companion = started()
    time.sleep(1)  # It ignores Ctrl-C from its first moments on, but not from before them.
    subprocess.run(["kill", "-INT", str(companion)], check=True)
    process.send_signal(signal.SIGSTOP)
    assert process.wait(15) == -signal.SIGKILL
    check_gone(companion)


ORPHAN = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {WATCHED!r}])
print(child.pid, flush=True)
sys.stdin.read(1)
"""


def test_a_process_whose_parent_has_gone_is_ended() -> None:
    command = [sys.executable, "-c", ORPHAN]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child, companion = (int(parent.stdout.readline()) for _ in range(2))
        time.sleep(3)
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    check_gone(child)
    check_gone(companion)
