"""Tumour labels: what the integers of each BraTS release mean, and the regions scored.

This module alone spells label integers. In memory a label map holds *class indices*, the
same for every release; a *release* says which integer stands for which class on disk.

    class index   0 background   1 necrotic core   2 edema   3 enhancing tumour
    regions       WT = 1 ∪ 2 ∪ 3     TC = 1 ∪ 3     ET = 3      (ET ⊂ TC ⊂ WT)

The resection cavity of the 2024 release is background in memory and belongs to no region.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from ray_brats.arrays import Array, Mask
from ray_brats.errors import UsageError

LabelMap = npt.NDArray[np.uint8]

BACKGROUND: Final = 0
NECROTIC: Final = 1
EDEMA: Final = 2
ENHANCING: Final = 3
CLASS_NAMES: Final = ("background", "necrotic core", "edema", "enhancing tumour")
CLASS_COUNT: Final = len(CLASS_NAMES)

REGIONS: Final[Mapping[str, tuple[int, ...]]] = {
    "WT": (NECROTIC, EDEMA, ENHANCING),
    "TC": (NECROTIC, ENHANCING),
    "ET": (ENHANCING,),
}
"""Region name to the class indices it joins, from the widest to the innermost."""
REGION_TITLES: Final[Mapping[str, str]] = {
    "WT": "whole tumour",
    "TC": "tumour core",
    "ET": "enhancing tumour",
}

Release = Literal["brats2018", "brats2019", "brats2020", "brats2021", "brats2023", "brats2024"]
_UNTIL_2021: Final[Mapping[int, int]] = {0: BACKGROUND, 1: NECROTIC, 2: EDEMA, 4: ENHANCING}
_FROM_2023: Final[Mapping[int, int]] = {0: BACKGROUND, 1: NECROTIC, 2: EDEMA, 3: ENHANCING}
RELEASES: Final[Mapping[str, Mapping[int, int]]] = {
    "brats2018": _UNTIL_2021,
    "brats2019": _UNTIL_2021,
    "brats2020": _UNTIL_2021,
    "brats2021": _UNTIL_2021,
    "brats2023": _FROM_2023,
    "brats2024": {**_FROM_2023, 4: BACKGROUND},
}
"""Release to the class index of each raw label its masks may hold."""
DEFAULT_RELEASE: Final = "brats2023"
"""Release whose labels are written where neither an option nor any name tells."""


WHOLE_WITHIN: Final = 0.01
"""Distance from a whole number at which a float is still a label: tools that scale a mask to
fit an 8-bit header (nibabel among them) leave it off by up to half a step, 4 / 255 / 2."""


class UnknownLabelsError(ValueError):
    """A mask holds integers that its release does not define."""


def check_release(release: str) -> str:
    """The release itself if it is known; else a `UsageError` that lists the known ones."""
    if release not in RELEASES:
        raise UsageError(f"unknown release {release!r}: expected one of {', '.join(RELEASES)}")
    return release


def to_class_index(raw: Array, release: str, *, raw_3_is_enhancing: bool = False) -> LabelMap:
    """Turn the raw labels of a release into class indices.

    Args:
        raw: integers of any shape, or floats within `WHOLE_WITHIN` of integers.
        release: a key of `RELEASES`.
        raw_3_is_enhancing: read a raw 3 of a release until 2021 as its 4, as the original
            project does.

    Returns:
        uint8 class indices of the same shape.

    Raises:
        UnknownLabelsError: a value that the release does not define.
    """
    meaning = dict(RELEASES[check_release(release)])
    if raw_3_is_enhancing:
        meaning.setdefault(3, ENHANCING)
    table = np.full(256, 255, np.uint8)
    for integer, meant in meaning.items():
        table[integer] = meant
    if not np.issubdtype(raw.dtype, np.integer):
        rounded = np.rint(raw)
        with np.errstate(invalid="ignore"):
            whole = bool(np.abs(rounded - raw).max(initial=0) <= WHOLE_WITHIN)
        if not whole:
            raise UnknownLabelsError("the mask holds values that are not whole numbers")
        raw = rounded
    low, high = (float(raw.min()), float(raw.max())) if raw.size else (0.0, 0.0)
    if low < 0 or high > 255:
        bad = low if low < 0 else high
        raise UnknownLabelsError(_unknown([bad], release))
    index: LabelMap = table[raw.astype(np.uint8, copy=False)]
    if (index == 255).any():
        raise UnknownLabelsError(_unknown(np.unique(raw[index == 255]).tolist(), release))
    return index


def _unknown(values: list[float], release: str) -> str:
    named = ", ".join(f"{value:g}" for value in values[:5])
    expected = ", ".join(str(value) for value in RELEASES[release])
    advice = ""
    if release == "brats2023" and 4 in values:
        advice = (
            "; 4 is the resection cavity from 2024 on and the enhancing tumour before 2023: "
            "pass --release brats2024 if that is what this cohort is"
        )
    return f"the mask holds label {named}, but {release} defines only {expected}{advice}"


def from_class_index(index: Array, release: str) -> LabelMap:
    """Turn class indices into the raw labels of a release; uint8 of the same shape."""
    raw = np.zeros_like(index, np.uint8)
    for integer, meaning in RELEASES[check_release(release)].items():
        if meaning != BACKGROUND:
            np.copyto(raw, np.uint8(integer), where=index == meaning)
    return raw


def legend(release: str) -> dict[str, str]:
    """Meaning of each integer of a release's output, for model cards and pictures."""
    raw = from_class_index(np.arange(CLASS_COUNT), release)
    return {str(integer): name for integer, name in zip(raw.tolist(), CLASS_NAMES, strict=True)}


def region_mask(index: Array, region: str) -> Mask:
    """Mask of one region of a class-index map; bool of the same shape."""
    table = np.zeros(CLASS_COUNT, bool)
    table[list(REGIONS[region])] = True
    mask: Mask = table[index]
    return mask


def from_regions(masks: Mask) -> LabelMap:
    """Class indices from region masks in the order of `REGIONS` on the last axis.

    The nesting ET ⊂ TC ⊂ WT is enforced from the outside in: a voxel outside WT is
    background whatever the inner masks say.
    """
    whole, core, enhancing = (masks[..., axis] for axis in range(len(REGIONS)))
    core = core & whole
    index = np.where(whole, np.uint8(EDEMA), np.uint8(BACKGROUND))
    index[core] = NECROTIC
    index[core & enhancing] = ENHANCING
    return index
