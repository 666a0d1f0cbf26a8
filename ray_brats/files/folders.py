"""Whole folders, to storage and back, so that a reader can tell when all of one is there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ray_brats.files import storage
from ray_brats.files.local import renamed_into_place


def _copy_synced(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    with Path(target).open("rb") as file:
        os.fsync(file.fileno())


def put(folder: Path, uri: str, *, last: str) -> None:
    """Copy a local folder to `uri`, the file named `last` after all others.

    What was there is replaced. A local target is synced and renamed into place as a whole;
    elsewhere a reader must look for `last`, which is away meanwhile.
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
    for place in [end, *before - {*files, end}]:
        storage.delete(place)
    for place in sorted(files, key=lambda place: place == end):
        storage.write_bytes(place, files[place].read_bytes())


@contextlib.contextmanager
def fetched(uri: str) -> Iterator[Path]:
    """The folder itself where it is local, else a temporary copy of it."""
    if not storage.is_remote(uri):
        yield Path(uri.removeprefix("file://"))
        return
    with tempfile.TemporaryDirectory(prefix="ray-brats-") as temporary:
        prefix = uri.rstrip("/") + "/"
        for file in storage.list_files(uri):
            target = Path(temporary) / file.uri.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read_bytes(file.uri))
        yield Path(temporary)
