"""A process that somebody stopped (SIGSTOP) is ended, so that its work begins anew elsewhere.

So is one that hangs at its end after the process that started it has gone.

It cannot help itself, and neither Ray nor a time limit inside it notices: the process is alive,
and its timers stand as still as the rest. A small companion process looks at it once a second;
every worker starts one before its first task (`cluster.WATCH`).
On systems without /proc there is none.

The companion is this file, run without the package: it costs some ten milliseconds to start.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

PATIENCE_SECONDS = 30
"""A debugger's user or a tired scheduler may stop a process for a moment."""
ALONE_SECONDS = 10
"""Ray's workers notice within two that their node has died."""


@functools.cache
def watch(patience_seconds: int = PATIENCE_SECONDS) -> subprocess.Popen[bytes] | None:
    """Start this process's companion, which ends with it; None where there can be none."""
    if not Path("/proc/self/stat").exists():
        return None
    with contextlib.suppress(OSError):
        # In our process group: Ctrl-Z, which stops a whole group, stops the companion too.
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(patience_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return None


def _main(pid: int, patience_seconds: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stopped_seconds, alone_seconds, first = 0, 0, _state(pid)[1]
    # The pipe from the process closes when it ends, before its number can be another's.
    while not select.select([sys.stdin], [], [], 1.0)[0]:
        state, parent = _state(pid)
        # Seconds that were seen, not a clock: this process may have been stopped as well.
        stopped_seconds = stopped_seconds + 1 if state == "T" else 0
        alone_seconds = alone_seconds + 1 if parent != first else 0
        if stopped_seconds >= patience_seconds or alone_seconds >= ALONE_SECONDS:
            os.kill(pid, signal.SIGKILL)


def _state(pid: int) -> tuple[str, str]:
    """What a process does, by its letter, and the number of its parent."""
    state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return state, parent


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
