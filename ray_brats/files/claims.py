"""Attempts at a run: each claims a number, and only the newest one may write.

run/attempts/000001.json    {"driver": 1, "step": 0}: who claimed it, and from which step

A node that was cut off from the others does not know that it was replaced. So nothing is written
into a run but by the methods of an `Attempt`, which look first whether it is still the newest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_brats.errors import StageFailed
from ray_brats.files import folders, storage

STALLED_ATTEMPTS = 4
"""So many attempts of one driver from the same step end the run: it makes no progress."""


class Superseded(StageFailed):
    """Another command has taken over the run; this one may not write any more."""


class Replaced(Exception):
    """A newer group of the same command has taken over, so this one was cut off: it just stops."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One claimed number, and what is allowed to it: to write, while nobody has taken over.

    A driver's attempt is good while no other command works on the run, a group's while there is
    none newer at all.

    Raises (from every method, and then nothing is written):
        Superseded: another command has taken over.
        Replaced: a newer group of the same command has.
    """

    run_uri: str
    number: int
    driver: int
    """The number that the command itself claimed first."""

    def check(self) -> None:
        """Do nothing, while this attempt may write."""
        newest = _numbers(self.run_uri)[-1]
        if newest == self.number:
            return
        ours = _driver(_read(self.run_uri, newest)) == self.driver
        if self.number == self.driver:
            if not ours:
                raise _superseded(self.run_uri, newest)
            return
        message = f"attempt {self.number} at {self.run_uri} stops: attempt {newest} has taken over"
        raise Replaced(message) if ours else Superseded(message)

    def write_bytes(self, uri: str, content: bytes) -> None:
        """Write one file, as `storage.write_bytes` does."""
        self.check()
        storage.write_bytes(uri, content)

    def write_json(self, uri: str, value: Any) -> None:
        """Write JSON, as `storage.write_json` does."""
        self.check()
        storage.write_json(uri, value)

    def append(self, uri: str, content: bytes) -> None:
        """Add to the end of a file of this machine; objects cannot grow."""
        self.check()
        path = Path(uri.removeprefix("file://"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(content)

    def put(self, folder: Path, uri: str, *, last: str) -> None:
        """Copy a local folder, as `folders.put` does."""
        self.check()
        folders.put(folder, uri, last=last)

    def delete(self, uri: str) -> None:
        """Remove a file or folder, as `storage.delete` does."""
        self.check()
        storage.delete(uri)


def _superseded(run_uri: str, newer: int) -> Superseded:
    return Superseded(f"another command works on {run_uri} since attempt {newer}; this one stops")


def claim_driver(run_uri: str) -> Attempt:
    """A number for a command that starts or resumes a run."""
    return _claim(run_uri, driver=None, step=None)


def claim_group(run_uri: str, driver: int, *, step: int) -> Attempt:
    """A number for a group of workers that starts from `step`, under a driver's.

    Raises:
        Superseded: another driver came later.
        StageFailed: the last attempts all began from this step and died.
    """
    numbers = _numbers(run_uri)
    claims = [_read(run_uri, number) for number in numbers]
    later = [
        number for number, claim in zip(numbers, claims, strict=True) if _driver(claim) > driver
    ]
    if later:
        raise _superseded(run_uri, later[0])
    mine = [claim["step"] for claim in claims if _driver(claim) == driver and "step" in claim]
    if mine[-STALLED_ATTEMPTS:] == [step] * STALLED_ATTEMPTS:
        raise StageFailed(
            f"{STALLED_ATTEMPTS} attempts in a row died before the first checkpoint after step "
            f"{step}: see the workers' logs; too little memory is the most common reason"
        )
    return _claim(run_uri, driver=driver, step=step)


def _claim(run_uri: str, *, driver: int | None, step: int | None) -> Attempt:
    while True:
        number = (_numbers(run_uri) or [0])[-1] + 1
        owner = driver or number
        claim: dict[str, Any] = {"driver": owner} | ({} if step is None else {"step": step})
        if storage.create(_uri(run_uri, number), json.dumps(claim).encode() + b"\n"):
            return Attempt(run_uri=run_uri, number=number, driver=owner)


def _uri(run_uri: str, number: int) -> str:
    return storage.join(run_uri, "attempts", f"{number:06d}.json")


def _numbers(run_uri: str) -> list[int]:
    files = storage.list_files(storage.join(run_uri, "attempts"))
    names = (storage.name_of(file.uri).removesuffix(".json") for file in files)
    return sorted(int(name) for name in names if name.isdecimal())


def _read(run_uri: str, number: int) -> dict[str, Any]:
    return storage.read_json_or_none(_uri(run_uri, number)) or {}


def _driver(claim: dict[str, Any]) -> int:
    return int(claim.get("driver", 0))
