"""What cases of raw studies are called, so that only who asks for it sees a patient's name.

`hash`      `sub-1f0c9a7be2_ses-1`: the patient as a hash, and the study's number in order of time
`patient`   `sub-TCGAFG6692_ses-1`: the patient as the headers have it, or the folder of NIfTI
`folder`    the study's folder

A hash hides a number from readers, and not from somebody who tries all numbers.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, Literal

from ray_brats.cases import naming
from ray_brats.cases.raw.studies import Study
from ray_brats.errors import UsageError

Naming = Literal["hash", "patient", "folder"]

_HASHED: Final = 10
"""Hexadecimal digits: two of a million patients share them with a chance of one half."""


def case_ids(found: Sequence[Study], how: Naming) -> list[str]:
    """The `case_id` of each study, in their order.

    Raises:
        UsageError: two studies would have one name, or one a name that is too long.
    """
    if how == "folder":
        ids = [_of_folder(study.name) for study in found]
    else:
        numbers = _numbers(found)
        subjects = [_hashed(study) if how == "hash" else _plain(study) for study in found]
        ids = [f"sub-{who}_ses-{n}" for who, n in zip(subjects, numbers, strict=True)]
    twice = {case_id for case_id in ids if ids.count(case_id) > 1}
    if twice:
        raise UsageError(
            f"{len(twice)} name(s) would be those of several studies with --names {how}: expected "
            "--names hash or --names folder"
        )
    if wrong := [case_id for case_id in ids if naming.problem_of_id(case_id)]:
        raise UsageError(
            f"{len(wrong)} name(s) would be too long for a file with --names {how}: expected "
            "--names hash"
        )
    return ids


def _of_folder(name: str) -> str:
    """The folder's own name, made safe; where the call said `..`, that is it."""
    case_id = naming.id_of_name(name)
    return case_id.replace(".", "_u002e_") if case_id in (".", "..") else case_id


def _numbers(found: Sequence[Study]) -> list[int]:
    """The number of each study among those of its patient, in order of time, then of names."""
    of_patient: dict[str, list[Study]] = defaultdict(list)
    for study in found:
        of_patient[study.patient].append(study)
    for group in of_patient.values():
        group.sort(key=lambda study: (_time(study), study.name))
    return [of_patient[study.patient].index(study) + 1 for study in found]


def _time(study: Study) -> str:
    return min((one.study_time for one in study.dicom), default="")


def _hashed(study: Study) -> str:
    # Names of folders need not be in UTF-8.
    name = study.patient.encode("utf-8", "surrogatepass")
    return hashlib.sha256(name).hexdigest()[:_HASHED]


def _plain(study: Study) -> str:
    """The letters and digits of a patient's number; names of BIDS have no others."""
    number = study.patient.removeprefix("sub-")
    return re.sub(r"[^A-Za-z0-9]", "", number) or _hashed(study)
