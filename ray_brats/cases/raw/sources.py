"""Where raw studies are: in a folder, in a CSV's rows, in a zip or in a bucket.

Those of a zip or a bucket are brought into a folder while they are worked on. Its name follows
from what there is, so that what a killed call has brought is not brought again; and so do the times
of its files, so that a study which was prepared from an earlier copy counts as unchanged.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ray_brats.cases import manifest, naming
from ray_brats.cases.raw import archives, listed, studies
from ray_brats.cases.raw.listed import Listed
from ray_brats.cases.raw.studies import Study
from ray_brats.errors import CaseRejected, UsageError
from ray_brats.files import local, storage
from ray_brats.files.local import FileInfo
from ray_brats.progress import Progress, say
from ray_brats.recipes import jsonform

_ZIP: Final = ".zip"
_SIDE_BY_SIDE: Final = 16
_PREFIX: Final = "raw-"
_WHOLE: Final = "whole"
"""Beside a folder that was brought to its end."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where studies are now."""

    root: Path | None = None
    """The folder that holds them; None of those of a CSV."""
    rows: Sequence[Listed] = ()
    copy: Path | None = None
    """What was made for it, and is to go when the work is done."""

    def studies(self) -> list[Study]:
        """All of them; raises as `studies.find`."""
        return [row.study for row in self.rows] if self.root is None else studies.find(self.root)

    def forget(self) -> None:
        """Remove the copy, if it is one."""
        if self.copy is not None:
            local.delete(self.copy)


def opened(raw: str, scratch: str | None = None, *, output: str = "") -> Source:
    """The folder of raw studies, which are brought into one below `scratch` where they are in none.

    Args:
        raw: a folder, a CSV, a zip, an `s3://` prefix, or a zip there.
        scratch: a folder of this machine; without one it is this user's own, below TMPDIR.
        output: what is made of them. Calls that make several do not share a copy, which goes with
            the first of them that ends.

    Raises:
        UsageError: there is nothing, or no room for it; as `listed.read`.
    """
    place = storage.absolute(raw)
    if raw.lower().endswith(manifest.ENDINGS):
        return Source(rows=listed.read(raw))
    if not storage.is_remote(place) and not place.lower().endswith(_ZIP):
        return Source(root=_folder(place))
    files = [file for file in storage.list_files(place) if not _is_hidden(file, place)]
    if not files:
        raise UsageError(f"{raw}: nothing is there: expected a folder of studies, or a zip of them")
    known = [[file.uri, file.size_bytes, file.etag] for file in files]
    above = Path(storage.absolute(scratch)) if scratch else local.private_folder()
    copy = above / f"{_PREFIX}{jsonform.fingerprint(known, output)}"
    name = storage.name_of(place)
    is_zip = [file.uri for file in files] == [place] and name.lower().endswith(_ZIP)
    root = copy / (name[: -len(_ZIP)] if is_zip else name or "studies")
    if not (copy / _WHOLE).exists():
        _bring(files, place, copy, root, is_zip=is_zip)
        (copy / _WHOLE).touch()
    return Source(root=root, copy=copy)


def _folder(place: str) -> Path:
    root = Path(place)
    if not root.is_dir():
        is_what = "is a file" if root.exists() else "is not there"
        raise UsageError(
            f"{root} {is_what}: expected a folder of studies in DICOM or NIfTI, a zip of them, or "
            "an s3:// prefix"
        )
    return root


def _is_hidden(file: FileInfo, place: str) -> bool:
    return naming.is_hidden(file.uri.removeprefix(place).lstrip("/"))


def _bring(files: Sequence[FileInfo], place: str, copy: Path, root: Path, *, is_zip: bool) -> None:
    """Copy and unpack what is not in its place yet."""
    copy.mkdir(mode=0o700, parents=True, exist_ok=True)
    size = sum(file.size_bytes for file in files)
    free = shutil.disk_usage(copy).free
    if size > free:
        raise UsageError(
            f"{place} has {size / 2**30:.1f} GiB and {copy.parent} room for {free / 2**30:.1f}: "
            "pass --scratch with a folder of a larger disk"
        )
    told = f"{len(files)} file(s), {size / 2**30:.2f} GiB"
    say(f"raw studies: {told}, go to {copy} for as long as they are needed")
    if not is_zip:
        _copy(files, [_below(root, file, place) for file in files])
        return
    (file,) = files
    archive = Path(file.uri)
    if storage.is_remote(file.uri):
        archive = copy / f"archive{_ZIP}"
        _copy(files, [archive])
    local.delete(root)
    try:
        with local.renamed_into_place(root) as folder:
            folder.mkdir()
            most = archives.Limits(inflated_bytes=shutil.disk_usage(copy).free)
            archives.unpack(archive, folder, most)
    except CaseRejected as error:
        raise UsageError(f"{place}: {error.reason}") from error
    if storage.is_remote(file.uri):
        archive.unlink()


def _below(root: Path, file: FileInfo, place: str) -> Path:
    """Where an object goes; `UsageError` for a name that no file below a folder may have."""
    parts = PurePosixPath(file.uri.removeprefix(place).lstrip("/")).parts or (
        storage.name_of(file.uri),
    )
    if ".." in parts or not all(part.isprintable() for part in parts):
        raise UsageError(
            f"{local.readable(file.uri)}: expected objects whose names are those of files"
        )
    return root.joinpath(*parts)


def _copy(files: Sequence[FileInfo], targets: Sequence[Path]) -> None:
    """Fetch what is not there yet, side by side; a file appears when it is whole."""
    todo = [(f, t) for f, t in zip(files, targets, strict=True) if not t.exists()]
    with (
        Progress("copy", len(todo), "files") as progress,
        ThreadPoolExecutor(_SIDE_BY_SIDE) as pool,
    ):
        for number, _ in enumerate(pool.map(lambda item: _fetch(*item), todo), 1):
            progress.update(number)


def _fetch(file: FileInfo, target: Path) -> None:
    with local.renamed_into_place(target) as temporary:
        temporary.write_bytes(storage.read_bytes(file.uri))
        # Not when it was copied: that changes with every copy.
        seconds = int.from_bytes(hashlib.sha256(file.etag.encode()).digest()[:4], "big")
        os.utime(temporary, (seconds, seconds))
