"""What the names of the BraTS releases mean: modality, case, patient, release.

BraTS20_Training_001_flair.nii[.gz]      2020; case 355's mask has another name
HGG/Brats18_CBICA_AAB_1_t1ce.nii.gz      2018, 2019; the last group is the scan's number
BraTS2021_00000_t2.nii.gz                2021
BraTS-GLI-00000-000-t1c.nii.gz           from 2023 on; the last group is the time point
"""

from __future__ import annotations

import re

MODALITIES = ("t1", "t1ce", "t2", "flair")
SEGMENTATION = "seg"
SPLITS = ("train", "val", "test")
ALIASES = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", "t1gd": "t1ce"}

CASE_355 = "BraTS20_Training_355"
CASE_355_MASK = "W39_1998.09.19_Segm.nii"
"""It kept the name that it had before the release."""

_CASE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_FILE = re.compile(
    r"(?P<case>.+)[_-](?P<kind>t1ce|t1gd|t1n|t1c|t1|t2w|t2f|t2|flair|seg)\.nii(\.gz)?",
    re.IGNORECASE,
)
_RELEASES = (
    (re.compile(r"BraTS-(GLI|SSA|MET|MEN|PED)-", re.IGNORECASE), "brats2023"),
    (re.compile(r"BraTS2021_", re.IGNORECASE), "brats2021"),
    (re.compile(r"BraTS20_", re.IGNORECASE), "brats2020"),
    (re.compile(r"BraTS19_", re.IGNORECASE), "brats2019"),
    (re.compile(r"BraTS18_", re.IGNORECASE), "brats2018"),
)
_PATIENTS = (
    re.compile(r"(?P<patient>BraTS-[A-Z]+-\d+)-\d+", re.IGNORECASE),
    re.compile(r"(?P<patient>BraTS1[89]_.+)_\d+", re.IGNORECASE),
)


def case_and_kind(file_name: str) -> tuple[str, str] | None:
    """Case, and canonical modality or `seg`, of a file; None where it is none of BraTS's."""
    match = _FILE.fullmatch(file_name)
    if match is None:
        return None
    kind = match["kind"].lower()
    return match["case"], ALIASES.get(kind, kind)


def problem_of_id(case_id: str) -> tuple[str, str] | None:
    """Why a name cannot be a case's (and no file), or None."""
    if _CASE_ID.fullmatch(case_id) and case_id not in (".", ".."):
        return None
    return (
        "the name cannot be a file name on every system: expected 1–128 letters, digits, "
        "'.', '_' or '-', and neither '.' nor '..'",
        "",
    )


def patient_of(case_id: str) -> str:
    """Who was scanned, by the release's own naming; the case itself where it does not tell."""
    for rule in _PATIENTS:
        match = rule.fullmatch(case_id)
        if match:
            return match["patient"]
    return case_id


def release_of(case_id: str) -> str | None:
    """The release that names its cases so, or None."""
    return next((release for rule, release in _RELEASES if rule.match(case_id)), None)
