"""Peak memory and CPU time of this process's descendants, from /proc."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path


class PeakMemory:
    """Highest resident memory of each kind of Ray worker below this process, and of itself.

    Use as a context manager; Linux only, elsewhere nothing is found.
    """

    def __init__(self, pid: int, kinds: dict[str, str]) -> None:
        """`kinds`: name to a regular expression for the title Ray gives such a worker."""
        self._pid, self._kinds = pid, {name: re.compile(rule) for name, rule in kinds.items()}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.gib: dict[str, float] = {}
        """Name to GiB."""

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            for pid in [self._pid, *_descendants(self._pid)]:
                with contextlib.suppress(OSError):
                    self._note(pid)

    def _note(self, pid: int) -> None:
        title = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
        names = [name for name, rule in self._kinds.items() if rule.search(title)]
        if pid == self._pid:
            names = ["driver"]
        for name in names:
            self.gib[name] = max(self.gib.get(name, 0.0), resident_gib(pid, peak=True))


def resident_gib(pid: int, *, peak: bool = False) -> float:
    """Resident memory of a process now, or the highest it had."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", status)
    return int(match[1]) / 2**20 if match else 0.0


def cpu_seconds(pid: int) -> float:
    """CPU time that the living descendants of a process have used so far."""
    ticks = 0
    for child in _descendants(pid):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            # Behind the name, which may hold anything, stand the state and the parent.
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            parents.setdefault(int(parent), []).append(int(folder.name))
    descendants, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        descendants += children
        todo += children
    return descendants
