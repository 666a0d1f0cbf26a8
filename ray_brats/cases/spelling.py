"""How the four modalities are called elsewhere than in BraTS's own file names.

`naming` knows what files of the releases end in; these words are those of channels in a
`dataset.json`, of suffixes in BIDS, and of files that people named as they liked.
"""

from __future__ import annotations

import functools
import re

SPELLINGS = {
    "t1": ("t1", "t1w", "t1n", "t1 native", "t1 pre", "t1 weighted"),
    "t1ce": (
        *("t1c", "t1ce", "t1gd", "t1 ce", "t1 gd", "t1w ce", "t1w gd", "t1 contrast", "t1 post"),
        *("t1w post", "t1 post contrast", "t1 contrast enhanced", "ce t1", "ce t1w", "gd t1"),
    ),
    "t2": ("t2", "t2w", "t2 weighted"),
    "flair": ("flair", "t2f", "t2 flair", "t2w flair"),
}
"""Modality to how it is called, in lower case; a blank stands for any mark between two words."""
EXPECTED = "t1 (T1, T1w, T1n), t1ce (T1c, T1ce, T1Gd), t2 (T2, T2w), flair (FLAIR, T2f, T2-FLAIR)"
"""The same for people, in a few examples."""
NOT_SCANS = re.compile(
    r"mask|seg|label|roi|annot|prob|pve|warp|matrix|xfm|transform|affine|field|bias|jacobian",
)
"""Words in the names of what is made of scans and is none."""
TUMOUR = re.compile(r"tumou?r|lesion|glioma|gtv")
NOT_TUMOUR = frozenset({"brain", "parenchyma", "tissue", "skull"})
"""What masks beside scans are of else, by their names."""

_BY_LETTERS = {
    spelling.replace(" ", ""): name for name, names in SPELLINGS.items() for spelling in names
}
_LONGEST_FIRST = sorted((text for names in SPELLINGS.values() for text in names), key=len)[::-1]
_IN_NAME = re.compile(
    rf"(?<![^\W_])(?:{'|'.join(_LONGEST_FIRST)})(?![^\W_])".replace(" ", r"[\W_]*")
)


def words_of(text: str) -> list[str]:
    """The letters and digits of a name, in lower case, word by word."""
    return re.findall(r"[^\W_]+", text.lower())


def modality_of(name: str) -> str | None:
    """The modality that a whole name means (`T1-Gd`, `T2_FLAIR`), or None."""
    return _BY_LETTERS.get("".join(words_of(name)))


@functools.lru_cache(1024)  # Files of one case come one after the other.
def modalities_in(name: str) -> frozenset[str]:
    """Every modality that some words of a name mean: of `FLAIR_to_T1` both.

    Words that mean one together mean none alone: `T2_FLAIR` is no T2.
    """
    found = _IN_NAME.findall(name.lower())
    return frozenset(_BY_LETTERS["".join(words_of(text))] for text in found)
