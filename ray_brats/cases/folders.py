"""Folders of one case whose files people named as they liked: `P1/T1Gd_brain.nii.gz`, `P1/t2.nii`.

The modality may stand anywhere in a name. Names decide together: where `t1.nii.gz` is there,
`flair_to_t1.nii.gz` can only be the FLAIR. A folder is read where exactly one reading of all its
scans is left; else none of them is taken, and the readings are said.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ray_brats.cases import naming, spelling
from ray_brats.cases.naming import MODALITIES
from ray_brats.files import storage
from ray_brats.files.local import FileInfo

_ENDING = re.compile(r"\.nii(\.gz)?\Z", re.IGNORECASE)
_MASK = re.compile(r"mask|label|roi|annot")
_SEGMENTATION = re.compile(r"d?seg(m|mentation)?")
_SHOWN = 4

Stems = Mapping[str, Sequence[FileInfo]]
"""A name without its ending to its files: of `.nii` and `.nii.gz` there may be both."""


@dataclass(frozen=True, kw_only=True)
class OneCase:
    """What is left for the files of a folder to be."""

    folder: str
    case: str | None
    """The name that its files tell; None where only the folder can."""
    scans: Mapping[str, Sequence[FileInfo]]
    """Modality to files."""
    masks: Stems
    """What may be the mask of the tumour."""
    others: Sequence[FileInfo]
    """What is neither."""


@dataclass(frozen=True, kw_only=True)
class Several:
    """A folder of which no reading, or more than one, is left."""

    folder: str
    files: Sequence[FileInfo]
    readings: str
    """What its files may be, in words."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """What the other files of a folder are by their own names."""

    kinds: dict[str, set[str]] = field(default_factory=dict)
    """Name of a case to its modalities, and `seg`."""


def read(folder: str, files: Sequence[FileInfo], named: Named) -> OneCase | Several | None:
    """The one case that the files of a folder are of; None where their names tell nothing.

    Args:
        folder: where they lie.
        files: images whose own names do not tell what they are.
        named: what the other images of the folder are. Of releases, and of several cases, nothing
            is added to that.
    """
    scans, masks, others = _sorted(files)
    cases = {name: kinds for name, kinds in named.kinds.items() if kinds & {*MODALITIES}}
    is_taken = len(cases) > 1 or any(naming.tasks_of(naming.id_of_name(name)) for name in cases)
    if is_taken or not scans:
        return None
    taken = set().union(*cases.values())
    may_be = {stem: spelling.modalities_in(stem) - taken for stem in scans}
    others = [*others, *(file for stem in scans if not may_be[stem] for file in scans[stem])]
    open_ = {stem: names for stem, names in may_be.items() if names}
    if not open_:
        return None
    found = list(itertools.islice(_assignments(open_), 2))
    if len(found) != 1:
        return Several(folder=folder, files=files, readings=_in_words(open_, scans))
    return OneCase(
        folder=folder,
        case=next(iter(cases), None) or _name_in(open_),
        scans={modality: scans[stem] for stem, modality in found[0].items()},
        masks=masks,
        others=others,
    )


def _sorted(files: Sequence[FileInfo]) -> tuple[Stems, Stems, list[FileInfo]]:
    """Scans, masks of tumours, and the rest, by the words of their names."""
    scans: dict[str, list[FileInfo]] = {}
    masks: dict[str, list[FileInfo]] = {}
    others: list[FileInfo] = []
    for file in files:
        stem = _ENDING.sub("", storage.name_of(file.uri))
        words = spelling.words_of(stem)
        is_made = any(spelling.NOT_SCANS.search(word) for word in words)
        if not is_made and spelling.modalities_in(stem):
            scans.setdefault(stem, []).append(file)
        elif _is_of_tumour(words, is_made=is_made):
            masks.setdefault(stem, []).append(file)
        else:
            others.append(file)
    return scans, masks, others


def _is_of_tumour(words: Sequence[str], *, is_made: bool) -> bool:
    """Whether a name is that of a tumour's mask: `seg`, `tumor`, `lesion_mask`, no `brain_mask`."""
    if any(word in spelling.NOT_TUMOUR or word.startswith("brain") for word in words):
        return False
    if any(_SEGMENTATION.fullmatch(word) for word in words):
        return True
    says_tumour = any(spelling.TUMOUR.search(word) for word in words)
    return says_tumour and (not is_made or any(_MASK.search(word) for word in words))


def _assignments(may_be: Mapping[str, frozenset[str]]) -> Iterator[dict[str, str]]:
    """Every way to give each name one of its modalities, and no modality twice."""
    if len(may_be) > len(MODALITIES):
        return
    for names in itertools.product(*map(sorted, may_be.values())):
        if len({*names}) == len(names):
            yield dict(zip(may_be, names, strict=True))


def _in_words(may_be: Mapping[str, frozenset[str]], scans: Stems) -> str:
    """For each modality that is not clear, the files that may be it."""
    lines = []
    for modality in MODALITIES:
        stems = [stem for stem, names in may_be.items() if modality in names]
        if len(stems) > 1 or any(len(may_be[stem]) > 1 for stem in stems):
            names = [storage.name_of(scans[stem][0].uri) for stem in stems]
            more = " …" if len(names) > _SHOWN else ""
            lines.append(f"{modality} may be {' or '.join(names[:_SHOWN])}{more}")
    return ", ".join(lines)


def _name_in(may_be: Mapping[str, frozenset[str]]) -> str | None:
    """What stands before the modality in every name, where it has a number: of whom they are."""
    leads = {_lead(stem) for stem in may_be}
    (lead,) = leads if len(leads) == 1 else ("",)
    return lead if re.search(r"\d", lead) else None


def _lead(stem: str) -> str:
    for match in re.finditer(r"[^\W_]+", stem):
        if spelling.modalities_in(stem[: match.end()]):
            return stem[: match.start()].rstrip("_-. ")
    return ""


def names_of(folders: Sequence[str]) -> dict[str, str]:
    """Folder to what tells it from the others: its own name, else that of one it lies in.

    `P1/anat` and `P2/anat` are `P1` and `P2`.
    """
    parts = [folder.split("://")[-1].strip("/").split("/") for folder in folders]
    for depth in range(1, min(map(len, parts), default=0) + 1):
        names = [part[-depth] for part in parts]
        if len({*names}) == len(names):
            return dict(zip(folders, names, strict=True))
    return {folder: storage.name_of(folder) for folder in folders}
