"""Who may call: API keys from a file of hashes; and case names that a log may hold.

A key file has a line `NAME:SHA256` a key (`#` starts a comment); the keys themselves are nowhere
on the server. It is read again when it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from ray_brats.errors import UsageError
from ray_brats.files import storage

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<hash>[0-9a-fA-F]{64})")
LOG_KEY = "log.key"
ANYONE = ""
"""The caller's name where there are no keys."""


def make_key() -> str:
    """A new key of 256 random bits."""
    return "rb_" + secrets.token_urlsafe(32)


def line_of(name: str, key: str) -> str:
    """The line of a key file for a key."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise UsageError(f"key name {name!r}: expected 1–64 letters, digits, '.', '_' or '-'")
    return f"{name}:{_hash(key)}"


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> dict[str, str]:
    """Name to hash of every key of a file.

    Raises:
        UsageError: no such file, or a line that is no key.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"key file {path}: cannot be read ({_why(error)})") from error
    hashes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise UsageError(
                f"key file {path}, line {number}: expected NAME:SHA256, as "
                "`ray-brats key FILE NAME` writes it"
            )
        hashes[match["name"]] = match["hash"].lower()
    return hashes


def _why(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def add_line(path: Path, line: str) -> None:
    """Add a line to a key file, which keeps its mode and owner; a new one is its maker's alone."""
    kept = path.read_bytes() if path.exists() else b""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b"\n" * (kept[-1:] not in (b"", b"\n")) + f"{line}\n".encode()
    # In one call, so that a service that reads the file meanwhile sees all of the line or nothing.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, content)
        os.fsync(file)
    finally:
        os.close(file)


class Keys:
    """The keys of a deployment; with no file everyone may call."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        self._stamp: tuple[int, int, int] | None = None
        self._hashes: dict[str, str] = {}

    def caller(self, headers: Mapping[str, str]) -> str | None:
        """Name of the key that came with a request; None where none is valid.

        The key comes as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.
        """
        if self._path is None:
            return ANYONE
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        caller = None
        offered = _hash(given)
        for name, known in self._current().items():
            # All are compared, each in constant time.
            if hmac.compare_digest(known, offered):
                caller = name
        return caller if given else None

    def _current(self) -> dict[str, str]:
        assert self._path is not None
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._stamp:
                self._hashes, self._stamp = read_keys(self._path), stamp
        except (OSError, UsageError):
            # Better nobody than somebody whose key was taken away.
            self._hashes, self._stamp = {}, None
        return self._hashes


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_own_name(given: str, host: str) -> bool:
    """Whether the Host of a request is an IP address, `localhost` or the host that is listened on.

    A name that somebody else lets lead here is none of these.
    """
    name = given.rpartition("]")[0].lstrip("[") if "]" in given else given.partition(":")[0]
    if name.lower() in ("localhost", host.lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Pseudonyms:
    """Case names as HMACs, equal for equal names within one deployment."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, name: str) -> str:
        """The HMAC of a name: sixteen hexadecimal digits."""
        return hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()[:16]


def deployment_key(state_uri: str) -> bytes:
    """The secret under which this deployment writes names; made once, kept with its state."""
    uri = storage.join(state_uri, LOG_KEY)
    storage.create(uri, secrets.token_hex(32).encode())
    return storage.read_bytes(uri)
