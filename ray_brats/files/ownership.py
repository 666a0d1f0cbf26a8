"""Whose the files of an output folder are: what no call of ours wrote, no call of ours replaces.

A case's sidecar vouches for the files that it names, and the description of a stage (`score.json`)
for the stage's tables. A call that begins writes `begun.json` first, with the names that it may
write and that were free or vouched for until then; it vouches for them until the call has ended,
so that what a killed one left is known for ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ray_brats.errors import UsageError
from ray_brats.files import channels, storage

BEGUN = "begun.json"
_SHOWN = 3


def begin(
    output_uri: str,
    names: Iterable[str],
    *,
    there: Collection[str],
    vouched: Collection[str],
    inputs: Iterable[str],
    told: Mapping[str, Any] | None = None,
) -> None:
    """Note what a call is about to write, where it may.

    Args:
        output_uri: the folder.
        names: what the call may write below it.
        there: URIs of the files that are below it now.
        vouched: those of them for which a sidecar or a description vouches.
        inputs: URIs of what the call reads.
        told: what the note says besides, for whoever reads the folder before the end.

    Raises:
        UsageError: one of the names is a file of somebody else's, or one that the call reads.
            Nothing was written then.
    """
    wanted = set(names)
    begun = noted(output_uri) if storage.join(output_uri, BEGUN) in there else set()
    uris = {storage.join(output_uri, name) for name in wanted}
    ours = {*vouched, *(storage.join(output_uri, name) for name in begun)}
    present = {uri for uri in there if uri in uris}
    if read := _among(uris, present, inputs):
        raise UsageError(
            f"{_some(read)} would be replaced, and this call reads it: pass another folder than "
            f"{output_uri} for what is written"
        )
    if foreign := sorted(present - ours):
        raise UsageError(
            f"{output_uri} holds {_some(foreign)}, which would be replaced, and nothing says that "
            "ray-brats wrote it: pass another folder, or move it away"
        )
    note(output_uri, wanted | begun, told)


def end(output_uri: str) -> None:
    """Forget what a call was about to write: sidecars and description vouch from here on."""
    storage.delete(storage.join(output_uri, BEGUN))


def check_files(
    written: Mapping[str, str],
    inputs: Iterable[str],
    *,
    overwrite: bool = False,
    ours: Collection[str] = (),
) -> None:
    """Judge single files before a call does the work for them.

    Args:
        written: the option or argument of each, and the URI that it gives.
        inputs: URIs of what the call reads.
        overwrite: what is there already may be replaced; what is read, never.
        ours: those that say of themselves that they are ours, and may be replaced too.

    Raises:
        UsageError: a file that is read, that is there, or that is written twice.
    """
    read = list(inputs)
    for number, (name, uri) in enumerate(written.items()):
        there = {uri} if storage.exists(uri) else set()
        if _among({uri}, there, read):
            raise UsageError(f"{name} {uri}: this call reads that file, which would be lost")
        if uri in list(written.values())[:number]:
            raise UsageError(f"{name} {uri}: another option names that file too")
        if not storage.is_remote(uri) and Path(uri.removeprefix("file://")).is_dir():
            raise UsageError(f"{name} {uri}: that is a folder; expected the name of a file")
        if file := _file_above(uri):
            raise UsageError(f"{name} {uri}: {file} is a file; expected a folder there")
        if there - set(ours) and not overwrite:
            raise UsageError(
                f"{name} {uri}: there is such a file already, which would be replaced: pass "
                "another name, or --overwrite"
            )


def output_folder(place: str) -> str:
    """The URI of an output folder that is asked for.

    Raises:
        UsageError: a file of this machine stands in its way.
    """
    uri = storage.absolute(place)
    if file := _file_above(storage.join(uri, BEGUN)):
        raise UsageError(f"{uri}: {file} is a file; expected a folder there")
    return uri


def _file_above(uri: str) -> Path | None:
    """What stands in the way of a file's folder on this machine."""
    if storage.is_remote(uri):
        return None
    above = Path(uri.removeprefix("file://")).parents
    found = next((place for place in above if place.exists()), None)
    return found if found and not found.is_dir() else None


def note(output_uri: str, names: Iterable[str], told: Mapping[str, Any] | None = None) -> None:
    """Note that a call is about to write files, or folders of files, of these names."""
    content = {**(told or {}), "names": sorted(names)}
    storage.write_json(storage.join(output_uri, BEGUN), content)


def noted(output_uri: str) -> set[str]:
    """What calls that did not end have noted."""
    content = storage.read_json_or_none(storage.join(output_uri, BEGUN)) or {}
    names = content.get("names")
    return set(map(str, names)) if isinstance(names, list) else set()


def _among(uris: set[str], present: Collection[str], inputs: Iterable[str]) -> list[str]:
    """Those of the outputs that are inputs, also by another name of the same file."""
    # A file is lost whole, whichever channel of it is read.
    read = set(map(channels.file_of, inputs))
    found = uris & read
    if present := {uri for uri in present if not storage.is_remote(uri)}:
        files = {_identity(uri) for uri in read if not storage.is_remote(uri)} - {None}
        found |= {uri for uri in present if _identity(uri) in files}
    return sorted(found)


def _identity(uri: str) -> tuple[int, int] | None:
    try:
        status = Path(uri.removeprefix("file://")).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _some(uris: list[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(map(storage.name_of, uris[:_SHOWN]))
    return shown + (f" and {len(uris) - _SHOWN} more" if len(uris) > _SHOWN else "")


def is_sidecar(content: Mapping[str, Any] | None) -> bool:
    """Whether a JSON object is a sidecar of ours."""
    return (
        content is not None
        and isinstance(content.get("key"), str)
        and isinstance(content.get("row"), dict)
        and isinstance(content.get("files"), dict | list)
    )
