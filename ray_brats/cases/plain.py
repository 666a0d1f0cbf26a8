"""Cases that have a folder of their own, with names that leave no doubt: nearly all of a release.

What a folder holds says all of such a case, so it can be packed as the listing gives it. All other
images are looked at together, in `joining`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ray_brats.cases import bids, naming, spelling
from ray_brats.cases.naming import SEGMENTATION
from ray_brats.files import storage
from ray_brats.files.local import FileInfo


def cases_of(
    files: Iterable[FileInfo], rest: list[FileInfo]
) -> Iterator[tuple[str, dict[str, FileInfo]]]:
    """Cases that have a folder of their own, by name; all other images go to `rest`."""
    known: set[str] = set()
    images = (file for file in files if naming.image_format(storage.name_of(file.uri)))
    for together in _each_folder(images):
        name, kinds = _plain_case(together)
        if name and name not in known:
            known.add(name)
            yield name, kinds
        else:
            # A second case of the name takes the first one along: see `join`.
            rest += together
    rest.sort(key=lambda file: file.uri)


def _each_folder(files: Iterable[FileInfo]) -> Iterator[list[FileInfo]]:
    """The files right in each folder, of files that are sorted by URI."""
    opened: list[tuple[str, list[FileInfo]]] = []
    for file in files:
        folder = storage.parent_of(file.uri)
        if not opened or opened[-1][0] != folder:
            while opened and not f"{folder}/".startswith(f"{opened[-1][0]}/"):
                yield opened.pop()[1]
            if not opened or opened[-1][0] != folder:
                opened.append((folder, []))
        opened[-1][1].append(file)
    while opened:
        yield opened.pop()[1]


def _plain_case(images: Sequence[FileInfo]) -> tuple[str | None, dict[str, FileInfo]]:
    """The one case that the images of a folder are of beyond doubt, one file a kind; or None."""
    nothing: tuple[None, dict[str, FileInfo]] = None, {}
    # What lies alone in a folder may be told by the folder's name.
    if len(images) < 2:
        return nothing
    kinds: dict[str, FileInfo] = {}
    case = None
    for file in images:
        name = storage.name_of(file.uri)
        meaning = naming.meaning_of(name)
        if (
            meaning is None
            or case not in (None, meaning.case)
            or meaning.kind in kinds
            or (meaning.kind == SEGMENTATION and meaning.spelling != SEGMENTATION)
            or bids.meaning_of(name)
        ):
            return nothing
        case, kinds[meaning.kind] = meaning.case, file
    assert case is not None
    return nothing if holds_modality(case) else (case, kinds)


def holds_modality(case: str) -> bool:
    """Whether the name of a case may be a modality's, as of `FLAIR_to` in `FLAIR_to_T1`."""
    return bool(spelling.modalities_in(case)) and not naming.tasks_of(naming.id_of_name(case))
