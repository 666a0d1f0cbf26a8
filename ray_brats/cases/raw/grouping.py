"""Which NIfTI files are of one study, and how the study calls them, by folders and names alone.

The files of one folder are a study, with those of its folders that are called after what they hold
(`anat`, `T1`, `5-AX_FLAIR`). Where names in a folder begin with several cases' names, as in
`P1_t1.nii`, `P1_t2.nii`, `P2_t1.nii`, `P2_t2.nii`, each case is a study.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ray_brats.cases import bids, naming, spelling
from ray_brats.cases.raw import words
from ray_brats.cases.raw.series import stem_of
from ray_brats.files import local

_SHELVES = frozenset({"anat", "dwi", "func", "fmap", "perf", "nifti", "nii", "mri", "mr", "raw"})
"""Folders that are called after what they hold, besides those called after a modality."""
_NUMBERED = re.compile(r"\d+(\.\d+)?[-_ ]+(?P<description>.*?)([-_]\d+)?")
"""How folders of series are called by converters and by TCIA: `5.000000-AX T1 POST-12345`."""
_NUMBER = re.compile(r"\d(?![dD](?![^\W_]))")
"""What tells patients apart in the beginning of a name: a digit that is not that of `3D`."""


def by_folder(images: Iterable[Path], root: Path) -> dict[Path, list[Path]]:
    """Images by the folder of their study, which is the root itself or lies below it."""
    found: dict[Path, list[Path]] = defaultdict(list)
    for path in images:
        folder = path.parent
        while folder != root and _is_shelf(folder.name):
            folder = folder.parent
        found[folder].append(path)
    return dict(found)


def _is_shelf(name: str) -> bool:
    if name.lower() in _SHELVES or spelling.modality_of(name) or naming.meaning_of(name):
        return True
    numbered = _NUMBERED.fullmatch(name)
    return bool(numbered and words.weights_in(words.spaced(numbered["description"])))


def by_case(images: Sequence[Path]) -> dict[str, list[Path]]:
    """Images of one folder by the case that their names begin with.

    All are under "" where names tell of one case alone. A beginning is a case's where it stands
    before several modalities: `5_AX_T1.nii` is numbered, and no case 5.
    """
    told: dict[str, set[str]] = defaultdict(set)
    for path in images:
        for case, modality in _told(path):
            told[case].add(modality)
    cases = [case for case, modalities in told.items() if len(modalities) > 1]
    if len(cases) < 2:
        return {"": list(images)}
    found: dict[str, list[Path]] = defaultdict(list)
    for path in images:
        fitting = (case for case in cases if _begins(path.name, case))
        found[max(fitting, key=len, default="")].append(path)
    return dict(found)


def _begins(name: str, case: str) -> bool:
    return re.match(rf"{re.escape(case)}(?![^\W_])", name) is not None


def _told(path: Path) -> list[tuple[str, str]]:
    """The case and the modality that a name tells; nothing where it tells not both."""
    of_bids, told = bids.meaning_of(path.name), naming.meaning_of(path.name)
    if of_bids is not None:
        return [(of_bids.case, of_bids.modality)] if of_bids.modality else []
    if told is not None and told.kind in naming.MODALITIES:
        case, modality = told.case, told.kind
    else:
        stem = stem_of(path)
        ends = (match.span() for match in re.finditer(r"[^\W_]+", stem))
        hits = (
            (stem[:start].rstrip("_-. "), modality)
            for start, end in ends
            for modality in spelling.modalities_in(stem[:end])
        )
        case, modality = next(hits, ("", ""))
    return [(case, modality)] if _NUMBER.search(case) else []


def patient_of(images: Sequence[Path], name: str) -> str:
    """Who the images of a study are of: as names of BIDS tell, else the study's own name."""
    subjects = {told.case.split("_")[0] for path in images if (told := bids.meaning_of(path.name))}
    return next(iter(subjects)) if len(subjects) == 1 else name


def names_of(images: Sequence[Path], folder: Path) -> Mapping[Path, str]:
    """How a study calls its images: their paths in it, without what all of them begin with.

    What all begin with says of whom they are, where it names no modality: `sub_01_T1`, `P1_t2`.
    """
    stems = {path: path.relative_to(folder).with_name(stem_of(path)).as_posix() for path in images}
    parts = [re.split(r"(?<=[_\-. /])", stem)[:-1] for stem in stems.values()]
    same = itertools.takewhile(lambda part: len({*part}) == 1, zip(*parts, strict=False))
    lead = "".join(part[0] for part in same) if len(parts) > 1 else ""
    length = 0 if words.weights_in(words.spaced(lead)) else len(lead)
    return {path: local.readable(stem[length:]) for path, stem in stems.items()}
