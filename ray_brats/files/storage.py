"""Files by URI: local paths and `s3://`, and nothing that a reader can see half-written.

Everything elsewhere goes through fsspec, so any of its protocols works; `AWS_ENDPOINT_URL` is
honoured by s3fs itself. Filesystems are made where they are used (s3fs is not fork-safe).

A name is a name: no call here reads `*`, `?`, `[` or `::` as anything but themselves. Of
fsspec's methods only those are used that take one path as it is.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import fsspec
import fsspec.core

from ray_brats.errors import ArtefactError, RayBratsError, UsageError
from ray_brats.files import access, local
from ray_brats.files.local import FileInfo, each_local, is_utf8, readable, renamed_into_place
from ray_brats.files.packed import Table

_NO_END = 1 << 60


def is_remote(uri: str) -> bool:
    """Whether a URI names another place than this machine's file system."""
    return "://" in uri and not uri.startswith("file://")


def _local(uri: str) -> str:
    """The path of a URI of this machine."""
    return uri.removeprefix("file://")


def absolute(uri: str) -> str:
    """The same place, whatever the working directory of the process that reads it.

    Raises:
        UsageError: the name is not in UTF-8.
    """
    if not is_utf8(uri):
        raise UsageError(f"{readable(uri)}: the name is not in UTF-8: rename the file")
    if is_remote(uri):
        return uri.rstrip("/")
    return str(Path(_local(uri)).expanduser().absolute())


def join(uri: str, *parts: str) -> str:
    """`uri` with path components below it."""
    return "/".join([uri.rstrip("/") or "/", *parts])


def name_of(uri: str) -> str:
    """The last component of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def parent_of(uri: str) -> str:
    """The folder or prefix that a URI stands in."""
    return uri.rstrip("/").rsplit("/", 1)[0]


def problem_of(uri: str) -> str | None:
    """Why nothing can be read at a place of this form (an unknown protocol), or None."""
    if not is_remote(uri):
        return None
    if "::" in uri:
        return "'::' chains places: expected a local path or s3://…"
    return _problem_of_protocol(uri.split("://", 1)[0])


@functools.cache
def _problem_of_protocol(protocol: str) -> str | None:
    try:
        fsspec.get_filesystem_class(protocol)
    except (ValueError, ImportError) as error:
        return f"{error}; expected a local path or s3://…"
    return None


def _open(uri: str) -> tuple[Any, str]:
    if problem := problem_of(uri):
        raise UsageError(f"{uri}: {problem}")
    try:
        filesystem, path = fsspec.core.url_to_fs(uri, **_options(uri))
    except (ValueError, ImportError) as error:
        raise UsageError(f"{uri}: {error}; expected a local path or s3://…") from error
    return filesystem, path


def _options(uri: str) -> dict[str, Any]:
    protocol, path = uri.split("://", 1)
    if protocol != "s3":
        return {}
    with _as_os_error(uri):
        is_signed = access.is_signed(fsspec.get_filesystem_class("s3"), path)
    return {} if is_signed else {"anon": True}


def list_files(uri: str, *, depth: int | None = None) -> list[FileInfo]:
    """Every file below a prefix, sorted by URI, from one listing; [] where nothing is.

    A URI that names one file lists that file. `depth` 1 leaves folders unopened. A link to a
    file counts as that file.
    """
    return sorted(_each_file(uri, depth), key=lambda file: file.uri)


def listing(
    uri: str, is_wanted: Callable[[str], bool] = lambda _: True, *, with_lost: bool = False
) -> Table[FileInfo]:
    """URI to facts of the files below a prefix: `list_files` of a million in little memory.

    Args:
        uri: the prefix.
        is_wanted: of a file's URI.
        with_lost: with links that lead nowhere, as files without an etag.
    """
    files = _each_file(uri, with_lost=with_lost)
    return Table((file.uri, file) for file in files if is_wanted(file.uri))


def _each_file(
    uri: str, depth: int | None = None, *, with_lost: bool = False
) -> Iterator[FileInfo]:
    try:
        if not is_remote(uri):
            yield from each_local(absolute(uri), depth=depth, with_lost=with_lost)
            return
        filesystem, path = _open(uri)
        filesystem.invalidate_cache()
        with _as_os_error(uri):
            yield from _each_remote(uri, filesystem, path, depth)
    except (FileNotFoundError, NotADirectoryError):
        return


def _each_remote(uri: str, filesystem: Any, path: str, depth: int | None) -> Iterator[FileInfo]:
    """The files of one listing; fsspec's `find` keeps all of it, two kilobytes a file."""
    is_any = False
    if uri.startswith("s3://") and depth is None and path:
        bucket, key, _ = filesystem.split_path(path)
        for item in _pages(filesystem, bucket, f"{key}/" if key else ""):
            is_any = True
            place, size = f"s3://{bucket}/{item['Key']}", int(item["Size"])
            yield FileInfo(uri=place, size_bytes=size, etag=_etag({"size": size, **item}))
        if is_any:
            return
    scheme = uri.split("://", 1)[0] + "://"
    for name, info in sorted(filesystem.find(path, maxdepth=depth, detail=True).items()):
        if info.get("type") == "file" or (info.get("islink") and Path(name).is_file()):
            size = int(info.get("size") or 0)
            yield FileInfo(uri=scheme + name, size_bytes=size, etag=_etag(info))


def _pages(filesystem: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """The objects below a prefix, as S3 tells of them, a thousand a request."""
    more: dict[str, str] = {}
    while True:
        page = filesystem.call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=prefix, **filesystem.req_kw, **more
        )
        yield from page.get("Contents", ())
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _etag(info: dict[str, Any]) -> str:
    if "ETag" in info:
        return str(info["ETag"]).strip('"')
    return (
        f"{info.get('size')}-{info.get('mtime') or info.get('created') or info.get('LastModified')}"
    )


def file_infos(uris: Iterable[str]) -> dict[str, FileInfo]:
    """Facts of single files, by URI; those that cannot be looked at are left out.

    On this machine by a look at each; elsewhere by one listing for each folder, side by side.
    """
    wanted = set(uris)
    remote = {uri for uri in wanted if is_remote(uri)}
    folders = sorted({parent_of(uri) for uri in remote})
    with ThreadPoolExecutor(16) as pool:
        listings = list(pool.map(lambda folder: list_files(folder, depth=1), folders))
    infos = [file for listing in listings for file in listing if file.uri in remote]
    for uri in sorted(wanted - remote):
        # Whoever reads the file will say what is the matter with it.
        with contextlib.suppress(OSError):
            infos += list_files(uri)
    return {file.uri: file for file in infos}


def local_size(uri: str) -> int | None:
    """Length of a file of this machine; None elsewhere, where a PUT is whole or not there."""
    return None if is_remote(uri) else Path(_local(uri)).stat().st_size


def exists(uri: str) -> bool:
    """Whether a file or folder (a prefix with files) is there."""
    if not is_remote(uri):
        return Path(_local(uri)).exists()
    filesystem, path = _open(uri)
    filesystem.invalidate_cache()
    with _as_os_error(uri):
        return bool(filesystem.exists(path))


def read_bytes(uri: str, *, start: int = 0, end: int | None = None) -> bytes:
    """The content of one file, or its bytes from `start` to before `end`, where they are there.

    Elsewhere than on this machine: one request.

    Raises:
        FileNotFoundError: no such file.
        OSError: anything else that the storage says.
    """
    if not is_remote(uri):
        with open(_local(uri), "rb", opener=_open_at_once) as file:
            if start:
                file.seek(start)
            return file.read() if end is None else _read_up_to(file, start, end - start)
    filesystem, path = _open(uri)
    with _as_os_error(uri):
        try:
            # Without an end, s3fs would ask for the size first.
            return bytes(filesystem.cat_file(path, start=start, end=end or _NO_END))
        except OSError as error:
            # S3 has no range in an empty file.
            if start == 0 and error.errno == errno.EINVAL and not filesystem.info(path)["size"]:
                return b""
            raise


def _open_at_once(path: str, flags: int) -> int:
    """A pipe that nobody writes to is empty, instead of waiting for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read_up_to(file: IO[bytes], start: int, count: int) -> bytes:
    left = max(0, os.fstat(file.fileno()).st_size - start)
    return file.read(min(count, left))


@contextlib.contextmanager
def _as_os_error(uri: str) -> Iterator[None]:
    """Whatever a protocol's library raises inside leaves as an `OSError` that names the URI."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or uri
            raise
        # Of words alone; with a file's name beside them Python would show neither.
        number = next((n for kind, n in _ERRNO.items() if isinstance(error, kind)), errno.EIO)
        words = str(error) or type(error).__name__
        if number == errno.EACCES:
            words = f"{words.rstrip('.')} (these credentials may not do that)"
        raise OSError(number, words, uri) from error
    except RayBratsError:
        raise
    except Exception as error:
        if type(error).__name__ == "NoCredentialsError":
            # s3fs looked for itself, and would keep what it found, which is nothing.
            fsspec.get_filesystem_class("s3").clear_instance_cache()
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", uri) from error


_ERRNO = {
    PermissionError: errno.EACCES,
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    TimeoutError: errno.ETIMEDOUT,
}


def write_bytes(uri: str, content: bytes | memoryview, *, synced: bool = True) -> None:
    """Write one file so that a reader sees all of it or none of it.

    Local: a temporary name beside it, synced, then renamed. Elsewhere: one PUT. What a sidecar
    vouches for by its size need not be `synced`: a loss of power is noticed without.
    """
    if is_remote(uri):
        filesystem, path = _open(uri)
        with _as_os_error(uri):
            filesystem.pipe_file(path, bytes(content))
        return
    with renamed_into_place(Path(_local(uri))) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            if synced:
                file.flush()
                os.fsync(file.fileno())


def create(uri: str, content: bytes) -> bool:
    """Write a file that is not there yet; False where it is: of several writers one succeeds.

    Local: a link, which fails where the name is taken; S3: a conditional put (If-None-Match).
    """
    if is_remote(uri):
        filesystem, path = _open(uri)
        filesystem.invalidate_cache()
        try:
            with _as_os_error(uri):
                filesystem.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True
    return local.create(Path(_local(uri)), content)


def read_json(uri: str, *, required: Iterable[str] = ()) -> dict[str, Any]:
    """One JSON object; `ArtefactError` where the file is none, or lacks a required name."""
    content = read_bytes(uri)
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ArtefactError(
            f"{uri} is not JSON ({error}): delete it and run the stage again"
        ) from error
    if not isinstance(value, dict):
        raise ArtefactError(f"{uri} holds no JSON object: delete it and run the stage again")
    lacking = [name for name in required if name not in value]
    if lacking:
        raise ArtefactError(f"{uri} lacks {', '.join(lacking)}: delete it and run the stage again")
    return value


def read_json_or_none(uri: str) -> dict[str, Any] | None:
    """One JSON object, or None where it is not there or not readable."""
    try:
        return read_json(uri)
    except (FileNotFoundError, ArtefactError):
        return None


def write_if_changed(uri: str, content: bytes, *, synced: bool = True) -> None:
    """`write_bytes`, unless the file holds this content already."""
    try:
        if read_bytes(uri) == content:
            return
    except FileNotFoundError:
        pass
    write_bytes(uri, content, synced=synced)


def write_json(uri: str, value: Any, *, synced: bool = True) -> None:
    """Write JSON with sorted keys: equal values give equal bytes. NaN is refused.

    A file that holds the value already is left alone.
    """
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_if_changed(uri, text.encode() + b"\n", synced=synced)


def delete(uri: str) -> None:
    """Remove a file or a whole folder of this very name; nothing happens where there is none."""
    if not is_remote(uri):
        local.delete(Path(_local(uri)))
        return
    filesystem, _ = _open(uri)
    # fsspec's own removal of a folder expands patterns: each file is named to it instead.
    files = [file.uri.split("://", 1)[1] for file in list_files(uri)]

    def remove(path: str) -> None:
        with contextlib.suppress(FileNotFoundError), _as_os_error(uri):
            filesystem.rm_file(path)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(remove, files))
    filesystem.invalidate_cache()
