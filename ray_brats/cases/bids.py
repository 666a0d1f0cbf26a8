"""Names in the manner of BIDS: `sub-01_ses-1_ce-gadolinium_T1w.nii.gz`.

A name is made of entities (`key-value`) and a suffix (https://bids-specification.readthedocs.io,
"Common principles"). Subject and session are the case; a T1w with an entity `ce` was taken with
contrast agent; the other entities say how, and not of whom. The folders do not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_brats.cases import spelling

_KEYS = (
    *("ses", "sample", "task", "acq", "ce", "trc", "stain", "rec", "dir", "run", "mod", "echo"),
    *("flip", "inv", "mt", "part", "proc", "hemi", "space", "split", "chunk", "atlas", "res"),
    *("den", "label", "desc", "from", "to", "mode"),
)
"""Entities of BIDS: what else holds a `-` is part of somebody's own name."""
_NAME = re.compile(
    r"(?P<subject>sub-[A-Za-z0-9]+)"
    rf"(?P<entities>(?:_(?:{'|'.join(_KEYS)})-[A-Za-z0-9+.]+)*)"
    r"_(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?",
    re.IGNORECASE,
)
_START = "sub-"
_MASKS = ("seg", "dseg", "mask", "roi")
_NO_AGENT = frozenset({"none", "no", "without", "pre"})


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a name of BIDS says of an image."""

    case: str
    """`sub-01_ses-1`, or the subject alone."""
    modality: str | None
    """None of a mask, and of an image of another kind."""
    mask: str | None = None
    """How the name calls a mask, as `label-tumor_mask`; None of what is none."""
    rank: int | None = None
    """Which masks come first: 0 a `_seg`, as in BraTS, 1 what names a tumour, 2 a `_dseg`, 3 a
    `_mask`. None of what is a mask of something else."""


def meaning_of(file_name: str) -> Meaning | None:
    """What the name of a NIfTI file says; None where it is none of BIDS's."""
    # Most cohorts have none of them, and many files.
    match = _NAME.fullmatch(file_name) if file_name[:4].lower() == _START else None
    if match is None:
        return None
    pairs = [part.split("-", 1) for part in match["entities"].split("_") if part]
    entities = {key.lower(): value for key, value in pairs}
    session = f"_ses-{entities['ses']}" if "ses" in entities else ""
    case, suffix = match["subject"] + session, match["suffix"]
    if suffix.lower() in _MASKS:
        about = [f"{key}-{entities[key]}" for key in ("label", "desc") if key in entities]
        called = "_".join([*about, suffix])
        rank = _rank(suffix.lower(), [text.split("-", 1)[1].lower() for text in about])
        return Meaning(case=case, modality=None, mask=called, rank=rank)
    modality = spelling.modality_of(suffix)
    if modality == "t1" and entities.get("ce", "none").lower() not in _NO_AGENT:
        modality = "t1ce"
    return Meaning(case=case, modality=modality)


def _rank(suffix: str, about: Sequence[str]) -> int | None:
    if any(spelling.TUMOUR.search(text) for text in about):
        return 1
    # Programs that see no tumour leave masks of tissues and of whole brains by these names.
    ranks: Mapping[str, int] = {"seg": 0, "dseg": 2, "mask": 3}
    return None if about else ranks.get(suffix)
