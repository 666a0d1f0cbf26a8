"""Files by URI: local paths and `s3://`, and nothing that a reader can see half-written.

Everything goes through fsspec, so any of its protocols works; `AWS_ENDPOINT_URL` is
honoured by s3fs itself. Filesystems are made where they are used (s3fs is not fork-safe).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import fsspec.core

from ray_brats.errors import ArtefactError


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One file of a listing; `etag` changes when its content does (local: size and mtime)."""

    uri: str
    size_bytes: int
    etag: str


def is_remote(uri: str) -> bool:
    """Whether a URI names another place than this machine's file system."""
    return "://" in uri and not uri.startswith("file://")


def absolute(uri: str) -> str:
    """The same place, whatever the working directory of the process that reads it."""
    if is_remote(uri):
        return uri.rstrip("/")
    return str(Path(uri.removeprefix("file://")).expanduser().absolute())


def join(uri: str, *parts: str) -> str:
    """`uri` with path components below it."""
    return "/".join([uri.rstrip("/") or "/", *parts])


def name_of(uri: str) -> str:
    """The last component of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _open(uri: str) -> tuple[Any, str]:
    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem, path


def list_files(uri: str) -> list[FileInfo]:
    """Every file below a prefix, sorted by URI, from one listing; [] where nothing is.

    A URI that names one file lists that file.
    """
    filesystem, path = _open(uri)
    filesystem.invalidate_cache()
    try:
        found = filesystem.find(path, detail=True)
    except FileNotFoundError:
        return []
    scheme = uri.split("://", 1)[0] + "://" if is_remote(uri) else ""
    return [
        FileInfo(uri=scheme + name, size_bytes=int(info.get("size") or 0), etag=_etag(name, info))
        for name, info in sorted(found.items())
        if info.get("type") == "file"
    ]


def _etag(path: str, info: dict[str, Any]) -> str:
    if "ETag" in info:
        return str(info["ETag"]).strip('"')
    if "mtime" in info:
        stat = Path(path).stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}"
    return f"{info.get('size')}-{info.get('created') or info.get('LastModified')}"


def exists(uri: str) -> bool:
    """Whether a file or folder (a prefix with files) is there."""
    filesystem, path = _open(uri)
    filesystem.invalidate_cache()
    return bool(filesystem.exists(path))


def read_bytes(uri: str) -> bytes:
    """The whole content of one file; `FileNotFoundError` where there is none."""
    if not is_remote(uri):
        return Path(uri.removeprefix("file://")).read_bytes()
    filesystem, path = _open(uri)
    return bytes(filesystem.cat_file(path))


def write_bytes(uri: str, content: bytes) -> None:
    """Write one file so that a reader sees all of it or none of it.

    Local: a temporary name beside it, synced, then renamed. Elsewhere: one PUT.
    """
    if is_remote(uri):
        filesystem, path = _open(uri)
        filesystem.pipe_file(path, content)
        return
    with _renamed_into_place(Path(uri.removeprefix("file://"))) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def _renamed_into_place(target: Path) -> Iterator[Path]:
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


def read_json(uri: str) -> dict[str, Any]:
    """One JSON object; `ArtefactError` where the file is none."""
    content = read_bytes(uri)
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ArtefactError(
            f"{uri} is not JSON ({error}): delete it and run the stage again"
        ) from (error)
    if not isinstance(value, dict):
        raise ArtefactError(f"{uri} holds no JSON object: delete it and run the stage again")
    return value


def read_json_or_none(uri: str) -> dict[str, Any] | None:
    """One JSON object, or None where it is not there or not readable."""
    try:
        return read_json(uri)
    except (FileNotFoundError, ArtefactError):
        return None


def write_if_changed(uri: str, content: bytes) -> None:
    """`write_bytes`, unless the file holds this content already."""
    try:
        if read_bytes(uri) == content:
            return
    except FileNotFoundError:
        pass
    write_bytes(uri, content)


def write_json(uri: str, value: Any) -> None:
    """Write JSON with sorted keys: equal values give equal bytes. NaN is refused.

    A file that holds the value already is left alone.
    """
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_if_changed(uri, text.encode() + b"\n")


def delete(uri: str) -> None:
    """Remove a file or a whole folder; nothing happens where there is none."""
    filesystem, path = _open(uri)
    filesystem.invalidate_cache()
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm(path, recursive=True)


def put_folder(local: Path, uri: str, *, last: str) -> None:
    """Copy a local folder to `uri`, the file named `last` after all others.

    A local target is renamed into place as a whole; elsewhere a reader must look for `last`.
    """
    if not is_remote(uri):
        target = Path(uri.removeprefix("file://"))
        with _renamed_into_place(target) as temporary:
            shutil.copytree(local, temporary)
            if target.exists():
                shutil.rmtree(target)
        return
    files = sorted(path for path in local.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.relative_to(local).as_posix() == last):
        write_bytes(join(uri, path.relative_to(local).as_posix()), path.read_bytes())


@contextlib.contextmanager
def local_folder(uri: str) -> Iterator[Path]:
    """The folder itself where it is local, else a temporary copy of it."""
    if not is_remote(uri):
        yield Path(uri.removeprefix("file://"))
        return
    with tempfile.TemporaryDirectory(prefix="ray-brats-") as temporary:
        prefix = uri.rstrip("/") + "/"
        for file in list_files(uri):
            target = Path(temporary) / file.uri.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read_bytes(file.uri))
        yield Path(temporary)
