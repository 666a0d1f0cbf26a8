"""Copies of a bucket's prepared cases on a node: what is needed next is there, up to a bound.

A run has a folder on each node, shared by all of its processes there and kept when they die. What
is in it stands in a small database, by which whoever needs room removes what was longest of no
use. A copy that is removed while another process reads it stays readable to that one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ray_brats.arrays import Array
from ray_brats.errors import StageFailed
from ray_brats.files import local, storage
from ray_brats.training.data import (
    DISTANCE,
    IMAGE,
    LABEL,
    LABELLED,
    SIDECAR,
    PreparedCase,
    case_uri,
)

SPARED_BYTES: Final = 1 << 30
"""Room on a node's disk that copies never fill."""
ABANDONED_SECONDS: Final = 24 * 3600.0
"""So long the copies of a run that nobody works on stay, while there is room."""
HELD: Final = "held"
"""The file that a run's workers on a node lock; its time is when the last of them left."""
MOST_AHEAD: Final = 256
"""Cases ahead of their use, at most."""
CONNECTIONS: Final = 16
"""Copies of one process that are made side by side: one connection to a bucket is slow."""
_INDEX: Final = "index.sqlite"
_TRIES: Final = 5


@dataclass(frozen=True, kw_only=True)
class Cache:
    """The copies of a run on this node.

    Args:
        dataset_uri: where the cases are.
        fingerprint: of the dataset's content: another content has other copies.
        run_uri: whose copies.
        most_bytes: what all copies together may take; None: what the disk has.
    """

    dataset_uri: str
    fingerprint: str
    run_uri: str
    most_bytes: int | None = None

    @property
    def folder(self) -> Path:
        """Where they are."""
        words = f"{self.dataset_uri} {self.fingerprint} {self.run_uri}"
        return _root() / hashlib.sha256(words.encode()).hexdigest()[:16]

    def case(self, case_id: str) -> PreparedCase:
        """A case, copied when it is first read; where the dataset is of this machine, itself."""
        if not storage.is_remote(self.dataset_uri):
            folder = Path(case_uri(self.dataset_uri, case_id))
            return PreparedCase(case_id=case_id, folder=folder)
        return CachedCase(case_id=case_id, folder=self.folder / case_id, cache=self)

    def fetch(self, case_id: str) -> None:
        """Have the case here; one that is, counts as used now.

        A process that finds another one copying it waits for that.

        Raises:
            StageFailed: there is no room for it.
        """
        folder = self.folder / case_id
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self._index() as index:
                index.execute("UPDATE cases SET used = ? WHERE name = ?", (time.time(), case_id))
            if not (folder / SIDECAR).exists():
                self._copy(case_id, folder)

    def _copy(self, case_id: str, folder: Path) -> None:
        source = case_uri(self.dataset_uri, case_id)
        sidecar = storage.read_bytes(storage.join(source, SIDECAR))
        kept = set(json.loads(sidecar)["files"]) & {LABELLED, DISTANCE}
        names = (IMAGE, LABEL, *sorted(kept))
        contents = {name: storage.read_bytes(storage.join(source, name)) for name in names}
        size = sum(map(len, contents.values()))
        self._make_room(case_id, size)
        for name, content in contents.items():
            storage.write_bytes(str(folder / name), content, synced=False)
        storage.write_bytes(str(folder / SIDECAR), sidecar, synced=False)

    def _make_room(self, case_id: str, size: int) -> None:
        """Note a case of so many bytes as here, and remove those that were longest of no use."""
        with self._index() as index:
            index.execute("BEGIN IMMEDIATE")
            (here,) = index.execute("SELECT COALESCE(SUM(bytes), 0) FROM cases").fetchone()
            free = self._free(here)
            while size > free:
                row = index.execute(
                    "SELECT name, bytes FROM cases WHERE name != ? ORDER BY used LIMIT 1",
                    (case_id,),
                ).fetchone()
                if row is None:
                    index.execute("ROLLBACK")
                    raise StageFailed(self._no_room(case_id, size, free))
                _remove(self.folder / row[0])
                index.execute("DELETE FROM cases WHERE name = ?", (row[0],))
                free += row[1]
            index.execute(
                "INSERT OR REPLACE INTO cases VALUES (?, ?, ?)", (case_id, size, time.time())
            )
            index.execute("COMMIT")

    def _free(self, here: int) -> int:
        """Bytes that more copies may take, beside those that are here."""
        disk = shutil.disk_usage(self.folder).free - SPARED_BYTES
        if disk < 0:
            drop_abandoned(self.folder.parent, older_than_seconds=0)
            disk = shutil.disk_usage(self.folder).free - SPARED_BYTES
        return disk if self.most_bytes is None else min(disk, self.most_bytes - here)

    def _no_room(self, case_id: str, size: int, free: int) -> str:
        return (
            f"no room in {self.folder.parent} for a copy of {case_uri(self.dataset_uri, case_id)}: "
            f"{size >> 20} MiB needed, {max(0, free) >> 20} MiB free beside the "
            f"{SPARED_BYTES >> 20} MiB that are left to others; set TMPDIR to a larger disk on the "
            "nodes that train, or raise --cache-gib"
        )

    @contextlib.contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.folder / _INDEX, timeout=60, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS cases (name TEXT PRIMARY KEY, bytes INTEGER, used REAL)"
            )
            yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, this process keeps its run's copies from being taken for abandoned ones.

        Those of runs that nobody on this node has worked on for a day go.
        """
        if not storage.is_remote(self.dataset_uri):
            yield
            return
        with _locked(self.folder, fcntl.LOCK_SH):
            drop_abandoned(self.folder.parent, older_than_seconds=ABANDONED_SECONDS)
            yield

    def forget(self) -> None:
        """Remove the copies on this node, if there are any."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class CachedCase(PreparedCase):
    """A case whose copy may have to be made first, or again."""

    cache: Cache

    def image(self) -> Array:
        """As of `PreparedCase`."""
        return self._here(super().image)

    def label(self) -> Array:
        """As of `PreparedCase`."""
        return self._here(super().label)

    def labelled(self) -> Array:
        """As of `PreparedCase`."""
        return self._here(super().labelled)

    def distance(self) -> Array:
        """As of `PreparedCase`."""
        return self._here(super().distance)

    def _here(self, read: Callable[[], Array]) -> Array:
        """What is read; the copy is made where it is not there, or was removed just now."""
        for _ in range(_TRIES):
            if (self.folder / SIDECAR).exists():
                with contextlib.suppress(FileNotFoundError):
                    return read()
            self.cache.fetch(self.case_id)
        raise StageFailed(
            f"the copy of {self.case_id} in {self.folder.parent} is gone whenever it is read: the "
            "processes of this node need more cases at once than fit; raise --cache-gib"
        )


class Ahead:
    """Makes copies before they are needed; a context manager.

    Args:
        cases: those that are needed, in order, for ever.
        depth: how many may be made or waiting, of those that are not yet said to be used.
    """

    def __init__(self, cases: Iterable[PreparedCase], depth: int) -> None:
        self._cases, self._room = iter(cases), threading.Semaphore(depth)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="ray-brats-cache")

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._room.release()
        self._thread.join()

    def used(self, count: int) -> None:
        """So many of the cases are of no use any more."""
        self._room.release(count)

    def _run(self) -> None:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for case in self._cases:
                self._room.acquire()
                if self._over.is_set():
                    pool.shutdown(wait=False, cancel_futures=True)
                    return
                if isinstance(case, CachedCase):
                    future = pool.submit(case.cache.fetch, case.case_id)
                    future.add_done_callback(_seen)


def _seen(future: Future[None]) -> None:
    """Whoever reads the case will have the same error, where it can be told."""
    if not future.cancelled():
        future.exception()


def depth_of(most_bytes: int | None, case_bytes: float, ranks: int) -> int:
    """How many cases ahead of their use each of the ranks of a node may ask for.

    Together they take half of what the copies may take: the other half is in use.
    """
    if most_bytes is None:
        return MOST_AHEAD
    return max(1, min(MOST_AHEAD, math.floor(most_bytes / (2 * ranks * max(case_bytes, 1.0)))))


def _remove(folder: Path) -> None:
    # First what says that it is there.
    for name in (SIDECAR, IMAGE, LABEL, LABELLED, DISTANCE):
        (folder / name).unlink(missing_ok=True)


def _root() -> Path:
    return local.private_folder() / "cache"


@contextlib.contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    """A lock on a run's copies; BlockingIOError where LOCK_NB finds it taken."""
    path = folder / HELD
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            fcntl.flock(file, kind)
            # Whoever had it before may have removed the folder.
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                try:
                    yield
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.utime(path)
                return


def drop_abandoned(root: Path, *, older_than_seconds: float) -> None:
    """Remove the copies of runs that no process here holds and that have lain for so long."""
    for folder in root.iterdir():
        try:
            idle = time.time() - (folder / HELD).stat().st_mtime
            if idle >= older_than_seconds:
                with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(folder)
        except (BlockingIOError, FileNotFoundError):
            continue
