"""Who works on a job: numbered leases, of which the newest holds; of several processes one gets it.

<job>/lease-000001         {"owner": …, "beats": 7}: its owner alone writes it, every BEAT_SECONDS
<job>/lease-000001.free    its owner has let go
<job>/end.json             the job has ended, and nobody holds it

Processes that share a state may have clocks that differ: a lease is stale when whoever looks has
seen the same one for STALE_SECONDS, by its own clock.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping

from ray_brats.files import storage

BEAT_SECONDS = 5.0
"""How often an owner shows that it lives."""
STALE_SECONDS = 20.0
"""An owner that has not shown it for so long has lost the job: four beats."""
END = "end.json"
_LEASE, _FREE = "lease-", ".free"


class Lost(Exception):
    """The job is another process's by now, or has ended: whoever worked on it just stops."""


class Lease:
    """The right to work on one job, until another process has a newer one or the job has ended.

    Args:
        folder_uri: the job's.
        number: 1 for the first that worked on it.
        owner: the process.
    """

    def __init__(self, folder_uri: str, number: int, owner: str) -> None:
        self.number = number
        self._folder, self._owner = folder_uri, owner
        self._beats, self._over = 0, threading.Event()

    def check(self) -> None:
        """Do nothing while the job is ours; raises `Lost` from then on."""
        if not self._over.is_set():
            names = {storage.name_of(file.uri) for file in storage.list_files(self._folder)}
            # A job that somebody removed has no files at all.
            if END in names or newest(names) != self.number:
                self._over.set()
        if self._over.is_set():
            raise Lost(storage.name_of(self._folder))

    def beat(self) -> None:
        """Show that the owner lives; raises `Lost`."""
        self.check()
        self._beats += 1
        storage.write_bytes(_uri(self._folder, self.number), self._content(), synced=False)

    def free(self) -> None:
        """Let go, so that another process need not wait; whatever else works for it is `Lost`."""
        self._over.set()
        storage.write_bytes(_uri(self._folder, self.number) + _FREE, b"")

    def claim(self) -> bool:
        """Whether the lease is ours: of several processes that ask, it is one's."""
        uri = _uri(self._folder, self.number)
        if storage.create(uri, self._content()):
            return True
        # A put that S3 answered too late was sent twice: the second finds the first.
        return (storage.read_json_or_none(uri) or {}).get("owner") == self._owner

    def _content(self) -> bytes:
        return json.dumps({"owner": self._owner, "beats": self._beats}).encode() + b"\n"


class Watch:
    """How long things have looked the same, from one look to the next."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float]] = {}

    def seconds(self, name: str, look: str, began: float) -> float:
        """How long what has this name has looked so; 0 at the first look.

        Args:
            began: `time.monotonic()` before the look. What changes while it takes is not missed.
        """
        before, since = self._seen.get(name, ("", 0.0))
        if before != look:
            self._seen[name] = look, time.monotonic()
            return 0.0
        return max(0.0, began - since)

    def keep(self, names: Iterable[str]) -> None:
        """Forget all others."""
        kept = set(names)
        self._seen = {name: seen for name, seen in self._seen.items() if name in kept}


def newest(names: Iterable[str]) -> int:
    """Number of the newest lease among the files of a job; 0 where there is none."""
    numbers = (name.removeprefix(_LEASE) for name in names if name.startswith(_LEASE))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def look(etags: Mapping[str, str]) -> str | None:
    """What a lease looks like that somebody holds; None where the job is free.

    Args:
        etags: of the files of the job, by name.
    """
    number = newest(etags)
    name = _name(number)
    return None if not number or name + _FREE in etags else f"{name} {etags[name]}"


def _name(number: int) -> str:
    return f"{_LEASE}{number:06d}"


def _uri(folder_uri: str, number: int) -> str:
    return storage.join(folder_uri, _name(number))
