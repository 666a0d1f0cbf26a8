"""A Ray of one machine is nobody else's: where it listens, and who can read its token."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ray._private import ray_constants

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's own switch, for any system: "0" makes a node that is all of its cluster, on loopback."""


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """What Ray starts inside listens where only this machine can reach it.

    Else its daemons and workers listen on all interfaces, a dozen ports and more. Whoever sets
    the variable decides alone; and nothing that is started later sees it.
    """
    if LOOPBACK in os.environ:
        yield
        return
    # Its processes read the variable; here it was read as Ray was imported.
    before, os.environ[LOOPBACK] = ray_constants.ENABLE_RAY_CLUSTER, "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[LOOPBACK]


def keep_token() -> None:
    """Make the token with which processes join this user's Rays, for this user's eyes alone.

    Ray makes it as readable as any file, and whoever knows it runs code as this user. One that is
    there keeps its words and loses its other readers.
    """
    elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if elsewhere or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    # A home that cannot be written to is Ray's to tell.
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            _create(path, secrets.token_hex(32).encode())
        if path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _create(path: Path, content: bytes) -> None:
    """Whole from its first moment; another process may come first."""
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)
