"""The files of this machine: every one below a folder, whole ones, and what is nobody else's."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ray_brats.errors import StageFailed, UsageError

_NOWHERE = frozenset({errno.ENOENT, errno.ELOOP})
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Characters that Python puts for bytes of a file name that are no UTF-8."""


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One file of a listing; `etag` changes when its content does (local: size and mtime)."""

    uri: str
    size_bytes: int
    etag: str


def is_utf8(text: str) -> bool:
    """Whether a name can be told to any other program."""
    return _SURROGATE.search(text) is None


def readable(text: str) -> str:
    """The text with a mark in place of each byte that is no UTF-8."""
    return _SURROGATE.sub("\ufffd", text)


def each_local(
    path: str, *, depth: int | None = None, with_lost: bool = False
) -> Iterator[FileInfo]:
    """Every regular file below a folder; a file's own path lists that file.

    Folder by folder, by name, but links come last. Links are followed, but no folder is entered
    twice; those that lead nowhere are no files, or `with_lost` some without an etag. fsspec's own
    walk leaves a folder that cannot be opened out without a word.

    Raises:
        OSError: nothing there, or a folder that may not be opened.
    """
    status = Path(path).stat()
    if stat.S_ISREG(status.st_mode):
        yield _info(path, status)
    else:
        yield from _below(path, depth, with_lost, {(status.st_dev, status.st_ino)})


def _below(
    folder: str, depth: int | None, with_lost: bool, seen: set[tuple[int, int]]
) -> Iterator[FileInfo]:
    for path in _names(folder):
        try:
            # Of a million files pathlib would take the fourth part of the time.
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            if error.errno not in _NOWHERE:
                raise
            if with_lost and Path(path).is_symlink():
                yield FileInfo(uri=path, size_bytes=0, etag="")
            continue
        if stat.S_ISREG(status.st_mode):
            yield _info(path, status)
        elif stat.S_ISDIR(status.st_mode) and depth != 1:
            itself = (status.st_dev, status.st_ino)
            if itself not in seen:
                seen.add(itself)
                # What is removed while others are listed is not there, and no reason to stop.
                with contextlib.suppress(FileNotFoundError):
                    yield from _below(path, depth and depth - 1, with_lost, seen)


def _names(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        # Folders before links to them: their files have the shorter names.
        return [entry.path for entry in sorted(entries, key=lambda e: (e.is_symlink(), e.name))]


def _info(path: str, status: os.stat_result) -> FileInfo:
    etag = f"{status.st_size}-{status.st_mtime_ns}"
    return FileInfo(uri=path, size_bytes=status.st_size, etag=etag)


def delete(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing happens where there is none.

    A link is removed itself, and what it leads to stays. Others may remove parts meanwhile.
    """
    while os.path.lexists(path):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue


REMAINS = ".tmp"
_REMAINS = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Name of what was not renamed into place."""


@contextlib.contextmanager
def renamed_into_place(target: Path) -> Iterator[Path]:
    """A temporary name beside a target, which what is made there takes over at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def create(target: Path, content: bytes) -> bool:
    """Write a file that is not there yet, whole from its first moment; False where it is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(content)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError:
            # A file system without links: nobody else can be first, but may read half of it.
            with target.open("xb") as file:
                file.write(content)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def remove_remains(paths: Iterable[Path]) -> None:
    """Delete those of the files that a killed process left under temporary names."""
    for path in paths:
        if _REMAINS.fullmatch(path.name):
            path.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Raise `UsageError` where no files can be put into a folder, which may not be there yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"{there} is a file: expected a folder, or a name that is free")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{there} may not be written to by this user: pass another folder")


def private_folder() -> Path:
    """This user's own folder on this machine, for what lies in no place that anybody named.

    Below TMPDIR, which others may share: nobody else can read it, or put something into it.

    Raises:
        StageFailed: something of somebody else has its name.
    """
    folder = Path(tempfile.gettempdir()) / f"ray-brats-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise StageFailed(
            f"{folder} is not a folder of this user, and what is in it cannot be trusted: remove "
            "it, or set TMPDIR to a folder of your own"
        )
    if status.st_mode & 0o077:
        folder.chmod(0o700)
    return folder
