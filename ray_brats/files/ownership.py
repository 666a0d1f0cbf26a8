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
from ray_brats.files import storage

BEGUN = "begun.json"
_SHOWN = 3


def begin(
    output_uri: str,
    names: Iterable[str],
    *,
    there: Collection[str],
    vouched: Collection[str],
    inputs: Iterable[str],
) -> None:
    """Note what a call is about to write, where it may.

    Args:
        output_uri: the folder.
        names: what the call may write below it.
        there: URIs of the files that are below it now.
        vouched: those of them for which a sidecar or a description vouches.
        inputs: URIs of what the call reads.

    Raises:
        UsageError: one of the names is a file of somebody else's, or one that the call reads.
            Nothing was written then.
    """
    wanted = set(names)
    noted = _noted(output_uri) if storage.join(output_uri, BEGUN) in there else set()
    uris = {storage.join(output_uri, name) for name in wanted}
    ours = {*vouched, *(storage.join(output_uri, name) for name in noted)}
    present = uris & set(there)
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
    storage.write_json(storage.join(output_uri, BEGUN), {"names": sorted(wanted | noted)})


def end(output_uri: str) -> None:
    """Forget what a call was about to write: sidecars and description vouch from here on."""
    storage.delete(storage.join(output_uri, BEGUN))


def _noted(output_uri: str) -> set[str]:
    content = storage.read_json_or_none(storage.join(output_uri, BEGUN)) or {}
    names = content.get("names")
    return set(map(str, names)) if isinstance(names, list) else set()


def _among(uris: set[str], present: Collection[str], inputs: Iterable[str]) -> list[str]:
    """Those of the outputs that are inputs, also by another name of the same file."""
    read = set(inputs)
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
