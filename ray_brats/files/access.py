"""Whether requests to S3 are signed: by this user's credentials, or by nobody's.

Decided once, by the process that was called, which tells its workers. A worker that decided for
itself would take one slow answer of the service that gives out credentials for "there are none",
and go on unsigned.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import Any, Final

from ray_brats.errors import UsageError
from ray_brats.progress import say

ANONYMOUS: Final = "AWS_ANONYMOUS"
"""The environment variable: 1, nothing is signed; 0, everything is."""
_WORDS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
PATIENCE: Final = {
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS": "5",
    "AWS_METADATA_SERVICE_TIMEOUT": "5",
}
"""For workers, which ask the metadata service of their machine all at once; botocore itself asks
once and waits for a second."""
_REMEDY: Final = (
    "give this process credentials (AWS_ACCESS_KEY_ID, a profile, a role of the machine), or pass "
    f"--anonymous or {ANONYMOUS}=1 for what anybody may read"
)


def anonymous() -> None:
    """Sign nothing from now on, in this process and in its workers."""
    os.environ[ANONYMOUS] = "1"


def told() -> bool | None:
    """Whether nothing shall be signed, as the environment says; None where it does not.

    Raises:
        UsageError: the variable holds another word.
    """
    word = os.environ.get(ANONYMOUS, "").strip().lower()
    if word and word not in _WORDS:
        raise UsageError(f"{ANONYMOUS}={word}: expected 1 (sign nothing) or 0 (sign everything)")
    return _WORDS.get(word)


def for_workers() -> dict[str, str]:
    """The environment of workers: what was decided here, else that everything is signed."""
    patience = {name: os.environ.get(name, value) for name, value in PATIENCE.items()}
    return {ANONYMOUS: "1" if told() else "0", **patience}


class _Credentials:
    """Whether this process has credentials: that there are is kept, that there are none is not.

    A pod's token may be mounted after the first look, and the metadata service may be busy.
    """

    def __init__(self) -> None:
        self._found, self.lock = False, threading.Lock()

    def are_there(self) -> bool:
        """Look, where nothing was found yet."""
        import botocore.session

        if not self._found:
            self._found = botocore.session.get_session().get_credentials() is not None
        return self._found


_credentials = _Credentials()


def is_signed(filesystem_class: Any, path: str) -> bool:
    """Whether requests for a place are to be signed.

    Args:
        filesystem_class: s3fs's.
        path: bucket and key or prefix. Where nothing is decided, and no credentials are there, it
            is asked for unsigned, and that it answers decides.

    Raises:
        UsageError: as `told`.
        PermissionError: no credentials, and the place is not anybody's.
    """
    # One thread looks and decides, for all.
    with _credentials.lock:
        decided = told()
        if decided:
            return False
        if _credentials.are_there():
            return True
        if decided is None and _is_public(filesystem_class(anon=True), path):
            say(
                f"S3: no credentials are here, and s3://{path} can be read without: nothing is "
                f"signed from here on ({ANONYMOUS}=1)"
            )
            anonymous()
            return False
    raise PermissionError(
        errno.EACCES, f"no credentials for S3 were found: {_REMEDY}", f"s3://{path}"
    )


def _is_public(filesystem: Any, path: str) -> bool:
    """Whether a place answers who is nobody: what it holds is listed, or it is a file."""
    for look in (filesystem.ls, filesystem.info):
        try:
            look(path)
        except PermissionError:
            continue
        except FileNotFoundError:
            pass
        return True
    return False
