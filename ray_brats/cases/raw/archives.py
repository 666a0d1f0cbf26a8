"""The files of a zip, unpacked below a folder and nowhere else.

Names in an archive are somebody's: none of them stands in a sentence, which counts entries instead.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final
from zipfile import ZipFile, ZipInfo

from ray_brats.cases import naming
from ray_brats.errors import CaseRejected

_PIECE_BYTES: Final = 1 << 20
_ENTRY_BYTES: Final = 46
"""Least size of an entry of the directory."""
_END, _END_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
"""Of the end of an archive, the same for large ones, and where that is."""
_MOST_COMMENT: Final = 1 << 16
_COMPONENT_BYTES, _PATH_BYTES = 255, 1024
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 1
_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
    struct.error,
)
"""What zipfile raises of an archive that is none, or not whole."""
_DAMAGED: Final = "the archive is damaged: expected a zip"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may hold."""

    files: int = 500_000
    inflated_bytes: int = 256 << 30


def unpack(archive: Path, folder: Path, limits: Limits | None = None) -> None:
    """Write the files of a zip below an empty folder; what is hidden, a folder or a link is left.

    Times of files follow from what is in them, so that the same archive gives the same files.

    Raises:
        CaseRejected: no zip, a damaged or an encrypted one, or one packed in another way than
            deflate; more files or bytes than may be; a name that leads out of it, or comes twice.
    """
    limits = limits or Limits()
    try:
        _check_count(archive, limits)
        with ZipFile(archive) as opened:
            if sum(not _is_folder(entry) for entry in opened.infolist()) > limits.files:
                raise CaseRejected(_too_many(limits))
            entries = list(_wanted(opened.infolist()))
            if sum(entry.file_size for _, entry in entries) > limits.inflated_bytes:
                raise CaseRejected(
                    f"the archive inflates to more than {limits.inflated_bytes} bytes: split it"
                )
            _check_names([place for place, _ in entries])
            for place, entry in entries:
                _write(opened, entry, folder / place)
    except OSError as error:
        # A place before the archive's own begin, which a damaged directory may tell.
        if error.errno != errno.EINVAL:
            raise
        raise CaseRejected(_DAMAGED) from error
    except _BROKEN as error:
        raise CaseRejected(_DAMAGED) from error


def _check_count(archive: Path, limits: Limits) -> None:
    """Before zipfile makes an object of each entry: by the archive's directory, unread."""
    with archive.open("rb") as file:
        begin, end = _directory(file, file.seek(0, os.SEEK_END))
        # Twice as many leave room for folders.
        most = 2 * limits.files
        if end - begin > most * (_ENTRY_BYTES + _PATH_BYTES):
            raise CaseRejected(_too_many(limits))
        file.seek(begin)
        if file.read(end - begin).count(b"PK\x01\x02") > most:
            raise CaseRejected(_too_many(limits))


def _directory(file: IO[bytes], size: int) -> tuple[int, int]:
    """Where an archive's directory begins and ends, as zipfile finds it."""
    start = max(0, size - _END.size - _MOST_COMMENT)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise CaseRejected(_DAMAGED)
    end = start + at
    length: int = _END.unpack_from(tail, at)[5]
    if length == 0xFFFFFFFF and end >= _LOCATOR_64.size + _END_64.size:
        end -= _LOCATOR_64.size + _END_64.size
        file.seek(end)
        name, *_, length, _ = _END_64.unpack(file.read(_END_64.size))
        if name != b"PK\x06\x06":
            raise CaseRejected(_DAMAGED)
    if length > end:
        raise CaseRejected(_DAMAGED)
    return end - length, end


def _too_many(limits: Limits) -> str:
    return f"the archive has more than {limits.files} files: send one of fewer"


def _wanted(entries: Sequence[ZipInfo]) -> Iterator[tuple[PurePosixPath, ZipInfo]]:
    """Where each file goes."""
    for number, entry in enumerate(entries, 1):
        if _is_folder(entry) or _is_link(entry):
            continue
        name = entry.filename.replace("\\", "/")
        parts = name.split("/")
        if (
            name.startswith("/")
            or ":" in parts[0]
            or not {"", ".", ".."}.isdisjoint(parts)
            or not entry.orig_filename.isprintable()
            or len(os.fsencode(name)) > _PATH_BYTES
            or any(len(os.fsencode(part)) > _COMPONENT_BYTES for part in parts)
        ):
            raise CaseRejected(
                f"entry {number} of the archive has a name that leads out of it, or that no file "
                "may have: pack the folder anew"
            )
        if naming.is_hidden(name):
            continue
        if entry.flag_bits & _ENCRYPTED:
            raise CaseRejected("the archive is encrypted: expected one without a password")
        if entry.compress_type not in _METHODS:
            raise CaseRejected("the archive is packed in another way than deflate: pack it so")
        yield PurePosixPath(name), entry


def _is_folder(entry: ZipInfo) -> bool:
    """Not by `is_dir`, which fails of a name without a letter."""
    return entry.filename.endswith("/")


def _is_link(entry: ZipInfo) -> bool:
    """Whether an entry is no file of its own: a link, a device, a pipe."""
    mode = stat.S_IFMT(entry.external_attr >> 16)
    return mode not in (0, stat.S_IFREG)


def _check_names(places: Sequence[PurePosixPath]) -> None:
    """No two files are one on any system, and none is a folder of another."""
    files, folders = set[str](), set[str]()
    for number, place in enumerate(places, 1):
        name = place.as_posix().casefold()
        above = {parent.as_posix().casefold() for parent in place.parents}
        if name in files or name in folders or not files.isdisjoint(above):
            raise CaseRejected(
                f"file {number} of the archive has the name of another: pack the folder anew"
            )
        files.add(name)
        folders |= above


def _write(archive: ZipFile, entry: ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, target.open("xb") as file:
        # Never more than the entry's size, which was summed up before: zipfile stops there.
        while piece := source.read(_PIECE_BYTES):
            file.write(piece)
    # Not when it was packed: that may change, and differs between systems.
    os.utime(target, (entry.CRC, entry.CRC))
