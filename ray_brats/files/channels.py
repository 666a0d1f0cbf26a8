"""Channels: `FILE.nii.gz#2` is the third of the scans that one 4-D file holds.

The end of a URI is a channel only where it is `#` and a number right behind `.nii` or `.nii.gz`:
any other `#` is a letter of a file's name. Storage knows files alone, so whoever asks it for one,
or compares files, takes the channel off first.
"""

from __future__ import annotations

import dataclasses
import re

from ray_brats.files.local import FileInfo

_CHANNEL = re.compile(
    r"(?P<file>.+\.nii(?:\.gz)?)#(?P<channel>0|[1-9][0-9]{0,8})", re.IGNORECASE | re.DOTALL
)


def split(uri: str) -> tuple[str, int | None]:
    """The file of a URI, and its channel, counted from 0; None where it names none."""
    match = _CHANNEL.fullmatch(uri)
    return (match["file"], int(match["channel"])) if match else (uri, None)


def file_of(uri: str) -> str:
    """The file that holds what a URI names."""
    return split(uri)[0]


def of(file: FileInfo, channel: int) -> FileInfo:
    """One channel of a file that was listed.

    Its length is the file's, and its etag says which channel it is: where another channel of the
    same file is read, what was made of it is made anew.
    """
    etag = file.etag and f"{file.etag}#{channel}"
    return dataclasses.replace(file, uri=f"{file.uri}#{channel}", etag=etag)
