"""A storage URI, tried: can it be written, read and deleted, and does a conditional put hold?

Rows are those of `doctor`: `{check, status, found, remedy}`, status `ok`, `warn` or `fail`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray_brats.errors import UsageError
from ray_brats.files import ownership, storage

Check = dict[str, str]

STORAGE_SECONDS = 30.0


def check_row(check: str, status: str, found: str, remedy: str = "") -> Check:
    """One line of a doctor's report."""
    return {"check": check, "status": status, "found": found, "remedy": remedy}


def checks(uri: str, *, limit_seconds: float = STORAGE_SECONDS) -> list[Check]:
    """Write, read back and delete a small file, and two conditional writes of another."""
    with _left_as_it_was(uri):
        return _checks(uri, limit_seconds)


@contextlib.contextmanager
def _left_as_it_was(uri: str) -> Iterator[None]:
    """Folders of this machine that a look makes go again."""
    place = Path(uri.removeprefix("file://"))
    chain = () if storage.is_remote(uri) else (place, *place.parents)
    absent = [folder for folder in chain if not folder.exists()]
    try:
        yield
    finally:
        for folder in absent:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _checks(uri: str, limit_seconds: float) -> list[Check]:
    name = f".ray-brats-doctor-{uuid.uuid4().hex[:8]}"
    probe, claim = storage.join(uri, name), storage.join(uri, f"{name}-claim")
    title = f"storage {uri}"
    place = Path(uri.removeprefix("file://"))
    new = "" if storage.is_remote(uri) or place.exists() else "no such folder yet; made, "
    try:
        ownership.output_folder(uri)
        _within(limit_seconds, lambda: _round_trip(probe))
    except (OSError, UsageError) as error:
        return [_refused(title, uri, error)]
    rows = [check_row(title, "ok", f"{new}written, read back, deleted")]
    try:
        first, second = _within(limit_seconds, lambda: _two_claims(claim))
    except (OSError, UsageError, NotImplementedError) as error:
        first, second = False, str(error)
    if first is True and second is False:
        return [*rows, check_row(f"{title}: conditional put", "ok", "of two writers one succeeds")]
    remedy = "train only where conditional puts (If-None-Match) work: they keep a node that was "
    remedy += "cut off from overwriting its successor"
    found = "not supported: a second writer was let in" if second is True else f"{second}"
    return [*rows, check_row(f"{title}: conditional put", "warn", found, remedy)]


def _round_trip(uri: str) -> None:
    content = uri.encode()
    try:
        storage.write_bytes(uri, content)
        if storage.read_bytes(uri) != content:
            raise OSError(f"{uri}: other bytes came back than were written")
    finally:
        storage.delete(uri)


def _two_claims(uri: str) -> tuple[bool, bool]:
    try:
        return storage.create(uri, b"1"), storage.create(uri, b"2")
    finally:
        storage.delete(uri)


def _refused(title: str, uri: str, error: Exception) -> Check:
    why = str(error) or type(error).__name__
    remedy = "check that the bucket or folder exists and may be written"
    if storage.is_remote(uri):
        remedy += ", the credentials (environment or role), and AWS_ENDPOINT_URL: "
        remedy += os.environ.get("AWS_ENDPOINT_URL", "not set, so Amazon's own")
    return check_row(title, "fail", why, remedy)


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """The call's result; its thread is left behind where storage does not answer."""
    import botocore.exceptions

    caught = (
        UsageError,
        OSError,
        NotImplementedError,
        ValueError,
        ImportError,
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
    )
    result: list[Any] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            result.append(call())
        except caught as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise UsageError(f"no answer within {seconds:g} s")
    if errors:
        raise errors[0] if isinstance(errors[0], OSError) else UsageError(str(errors[0]))
    if not result:
        raise UsageError("the storage library failed; its message is above")
    return result[0]
