"""Whole folders, to storage and back, so that a reader can tell when all of one is there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ray_brats.errors import ArtefactError
from ray_brats.files import ownership, storage
from ray_brats.files.local import renamed_into_place


def _copy_synced(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    with Path(target).open("rb") as file:
        os.fsync(file.fileno())


def put(folder: Path, uri: str, *, last: str) -> None:
    """Copy a local folder to `uri`, the file named `last` after all others.

    What was there is replaced, except what notes that this has begun. A local target is synced and
    renamed into place as a whole; elsewhere a reader must look for `last`, which is away meanwhile.
    """
    if not storage.is_remote(uri):
        target = Path(uri.removeprefix("file://"))
        with renamed_into_place(target) as temporary:
            shutil.copytree(folder, temporary, copy_function=_copy_synced)
            if target.exists():
                shutil.rmtree(target)
        return
    files = {
        storage.join(uri, path.relative_to(folder).as_posix()): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    end = storage.join(uri, last)
    before = {file.uri for file in storage.list_files(uri)}
    begun = storage.join(uri, ownership.BEGUN)
    for place in [end, *before - {*files, end, begun}]:
        storage.delete(place)
    for place in sorted(files, key=lambda place: place == end):
        storage.write_bytes(place, files[place].read_bytes())


@contextlib.contextmanager
def fetched(
    uri: str, sha256: Mapping[str, str], *, passed_over: Collection[str] = ()
) -> Iterator[Path]:
    """A private copy of exactly the files that are named, each with the content of its hash.

    Also of a folder of this machine: what is loaded is then what was judged, whoever replaces
    files meanwhile. One file at a time is in memory.

    Args:
        uri: the folder.
        sha256: hash of every file that may be below it, by relative path.
        passed_over: files that may be there besides, and stay there.

    Raises:
        ArtefactError: a path that leads out of a folder or other files than the named ones, both
            before a byte is fetched; or another content.
    """
    with tempfile.TemporaryDirectory(prefix="ray-brats-") as temporary:
        targets = {name: local_path(Path(temporary), name) for name in sha256}
        prefix = uri.rstrip("/") + "/"
        there = {file.uri.removeprefix(prefix) for file in storage.list_files(uri)}
        if odd := (there - set(passed_over)) ^ set(sha256):
            raise ArtefactError(f"{_some(odd)} was added or is missing")
        for name, target in targets.items():
            content = storage.read_bytes(storage.join(uri, name))
            if hashlib.sha256(content).hexdigest() != sha256[name]:
                raise ArtefactError(f"{name} was changed")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        yield Path(temporary)


def local_path(folder: Path, name: str) -> Path:
    """Where a file goes below a folder of this machine that has this name below another place.

    Nothing else makes a path of a name that comes from elsewhere.

    Raises:
        ArtefactError: a name that is absolute, empty, climbs or is not the plain form of itself.
    """
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or set(name) & {"\\", "\0"}:
        raise ArtefactError(f"{name!r} is no plain relative path")
    return folder.joinpath(*parts)


def _some(names: Collection[str]) -> str:
    """The first few names; what no terminal should get is escaped."""
    shown = [name if name.isprintable() else ascii(name) for name in sorted(names)]
    return ", ".join(shown[:3])
