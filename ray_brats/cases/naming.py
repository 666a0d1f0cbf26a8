"""What the names of the BraTS releases mean: modality, case, patient, task.

BraTS20_Training_001_flair.nii[.gz]      2020; case 355's mask has another name
HGG/Brats18_CBICA_AAB_1_t1ce.nii.gz      2018, 2019; the last group is the scan's number
BraTS2021_00000_t2.nii.gz                2021
BraTS-GLI-00000-000-t1c.nii.gz           from 2023 on; the last group is the time point

A name need not tell the task: `BraTS-GLI-…` is a glioma before treatment in 2023, and after it
from 2024 on. Names of BIDS (`sub-01_ses-1_T1w.nii.gz`) tell the patient too; `bids` reads the rest
of them.

A case that other people named may have any name. Its `case_id` names files and folders of ours,
so that every character but `A-Z a-z 0-9 . _ -` stands in it as `_uXXXX_`, the code point in
lower-case hexadecimal: "Müller 1" is `M_u00fc_ller_u0020_1`. An underscore that begins what looks
like that already is written `_u005f_`, so that no two names share an id and each can be read back.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass

MODALITIES = ("t1", "t1ce", "t2", "flair")
SEGMENTATION = "seg"
SPLITS = ("train", "val", "test")
ALIASES = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", "t1gd": "t1ce"}

CASE_355 = "BraTS20_Training_355"
CASE_355_MASK = "W39_1998.09.19_Segm.nii"
"""It kept the name that it had before the release."""

MASK_SPELLINGS = (
    SEGMENTATION,
    "segm",
    "segmentation",
    "tumor_segmentation",
    "tumour_segmentation",
    "gtv",
    "glistrboost",
    "glistrboost_manuallycorrected",
)
"""How masks are called besides, in lower case and with underscores."""
CORRECTED = ("glistrboost_manuallycorrected", "glistrboost")
"""A mask that somebody corrected, and the one that it corrects."""
_MASKS = "|".join(spelling.replace("_", "[_-]") for spelling in MASK_SPELLINGS)

_CASE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_FILE = re.compile(
    rf"(?P<case>.+?)[_-](?P<kind>t1ce|t1gd|t1n|t1c|t1|t2w|t2f|t2|flair|{_MASKS})\.nii(\.gz)?",
    re.IGNORECASE | re.DOTALL,
)
_ENDING = re.compile(
    r"\.(?:(?P<nifti>nii)(?:\.gz)?|(?P<pair>hdr|img)(?:\.gz)?|mgz|mgh|mha|mhd|nrrd|nhdr|mnc|dcm)\Z",
    re.IGNORECASE,
)
_MAY_BE_HIDDEN = re.compile(r"(?:^|[\\/])[._]")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]|_(?=u[0-9a-f]{4,6}[^A-Za-z0-9.-])")
"""What is escaped in an id: other characters, and what would be read as an escape."""
_ESCAPE = re.compile(r"_u([0-9a-f]{4,6})_")
_TASKS = tuple(
    (re.compile(rule, re.IGNORECASE), possible)
    for rule, possible in (
        (r"BraTS-MEN-RT-", ("men-rt",)),
        (r"BraTS-GLI-", ("gli-2023", "gli-post")),
        (r"BraTS-SSA-", ("ssa",)),
        (r"BraTS-GoAT-", ("goat",)),
        (r"BraTS-MEN-", ("men-pre",)),
        (r"BraTS-MET-", ("met",)),
        (r"BraTS-PED-", ("ped",)),
        (r"BraTS2021_", ("gli-2021",)),
        (r"BraTS20_", ("gli-2020",)),
        (r"BraTS19_", ("gli-2019",)),
        (r"BraTS1[78]_", ("gli-2018",)),
    )
)
"""How cases are named, and of which tasks they can be."""
GLIOMA = "GLI"
"""Adult glioma, as names have it from 2023 on; all cases of the releases before are such."""
TUMOURS = {
    GLIOMA: "adult glioma",
    "SSA": "glioma in Sub-Saharan Africa",
    "MET": "brain metastases",
    "MEN": "meningioma",
    "PED": "tumours of children",
    "GOAT": "several tumours",
}
"""What the names of cases say of tumour and population; other letters may come."""
_TUMOUR = re.compile(r"BraTS-(?P<tumour>[A-Z]+)-", re.IGNORECASE)
_GLIOMA_TASKS = ("gli-2018", "gli-2019", "gli-2020", "gli-2021")
_PATIENTS = (
    re.compile(r"(?P<patient>BraTS-(?:MEN-RT|[A-Z]+)-\d+)-\d+", re.IGNORECASE),
    re.compile(r"(?P<patient>BraTS1[789]_.+)_\d+", re.IGNORECASE),
    re.compile(r"(?P<patient>sub-[A-Za-z0-9]+)_ses-[A-Za-z0-9]+", re.IGNORECASE),
)


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What the name of a file says."""

    case: str
    """The case's original name."""
    kind: str
    """Canonical modality, or `seg`."""
    spelling: str
    """How the name says it: of a mask one of `MASK_SPELLINGS`."""


def meaning_of(file_name: str) -> Meaning | None:
    """What the name of a NIfTI file says; None where it tells no case or no kind."""
    match = _FILE.fullmatch(file_name)
    if match is None or is_mask_of_355(file_name):
        return None
    spelling = match["kind"].lower().replace("-", "_")
    kind = SEGMENTATION if spelling in MASK_SPELLINGS else ALIASES.get(spelling, spelling)
    return Meaning(case=match["case"], kind=kind, spelling=spelling)


def case_and_kind(file_name: str) -> tuple[str, str] | None:
    """Case, and canonical modality or `seg`, of a file; None where it is none of BraTS's.

    A mask by another name is none: among the files of one case it would be one mask too many.
    """
    meaning = meaning_of(file_name)
    if meaning is None or meaning.spelling in MASK_SPELLINGS[1:]:
        return None
    return meaning.case, meaning.kind


def is_mask_of_355(file_name: str) -> bool:
    """Whether a file is the mask of case 355 of 2020 under its old name."""
    return file_name.removesuffix(".gz") == CASE_355_MASK


def is_hidden(path: str) -> bool:
    """Whether a path, relative to a folder or an archive, is one that nobody means.

    So is what macOS adds to archives: `._name`, and all in `__MACOSX`.
    """
    if not _MAY_BE_HIDDEN.search(path):
        return False
    parts = path.replace("\\", "/").split("/")
    return any(part == "__MACOSX" or (part.startswith(".") and part != ".") for part in parts)


def image_format(file_name: str) -> str | None:
    """`nifti` for what is read here, `pair` for a header or voxels in a file of their own,
    `other` for another medical image, None for what is none.
    """
    match = _ENDING.search(file_name)
    return (match.lastgroup or "other") if match else None


@functools.lru_cache(maxsize=1024)
def id_of_name(name: str) -> str:
    """The `case_id` of a case's original name; `name_of_id` is the inverse."""
    return _UNSAFE.sub(lambda match: f"_u{ord(match[0]):04x}_", name)


@functools.lru_cache(maxsize=1024)
def name_of_id(case_id: str) -> str:
    """The original name of a case."""
    return _ESCAPE.sub(lambda match: _character(match[1]) or match[0], case_id)


def _character(digits: str) -> str:
    code = int(digits, 16)
    is_one = code <= sys.maxunicode and not 0xD800 <= code < 0xE000
    return chr(code) if is_one else ""


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and what Python puts for bytes that are no UTF-8."""


def find_id(name: str, case_ids: Collection[str]) -> str | None:
    """Which case a table or a file means: by its id, else by its original name; or None.

    A letter with an accent may be one character or two; systems do not agree.
    """
    if name in case_ids:
        return name
    forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return next((found for form in forms if (found := id_of_name(form)) in case_ids), None)


def problem_of_name(name: str) -> tuple[str, str] | None:
    """Why an original name can be no case's, or None."""
    if _UNPRINTABLE.search(name):
        return (
            "the name holds a control character or is not in UTF-8: rename the case",
            "",
        )
    return problem_of_id(name if "/" in name else id_of_name(name))


def problem_of_id(case_id: str) -> tuple[str, str] | None:
    """Why a name cannot be a case's (and no file), or None."""
    if _CASE_ID.fullmatch(case_id) and case_id not in (".", ".."):
        return None
    return (
        "the name cannot be a file name on every system: expected 1–128 letters, digits, "
        "'.', '_' or '-' (any other character counts as six or more), and neither '.' nor '..'",
        "",
    )


def notes_on_names(names: Iterable[str]) -> tuple[str, ...]:
    """What to say of cases whose original name is not their id."""
    usable = (name for name in names if not problem_of_name(name))
    escaped = sorted({name for name in usable if id_of_name(name) != name})
    if not escaped:
        return ()
    first = escaped[0]
    return (
        f"{len(escaped)} case(s) have a name that cannot be a file's on every system: their "
        f"case_id has escapes for it, as {id_of_name(first)} for {first!r}",
    )


def patient_of(case_id: str) -> str:
    """Who was scanned, by the release's own naming; the case itself where it does not tell."""
    name = name_of_id(case_id)
    for rule in _PATIENTS:
        match = rule.fullmatch(name)
        if match:
            return id_of_name(match["patient"])
    return case_id


def tumour_of(case_id: str) -> str | None:
    """Which tumour and population a case is of, as in `TUMOURS`; None where no name tells."""
    match = _TUMOUR.match(name_of_id(case_id))
    if match:
        return match["tumour"].upper()
    possible = tasks_of(case_id)
    return tumour_of_task(possible[0]) if possible else None


def tumour_of_task(task: str | None) -> str | None:
    """The tumour of all cases of a task that was called so, or None where it has several."""
    return GLIOMA if task in _GLIOMA_TASKS else None


def has_names(task: str) -> bool:
    """Whether all cases of a task are named by a rule; those of somebody's own are by none."""
    return any(task in possible for _, possible in _TASKS)


def tasks_of(case_id: str) -> tuple[str, ...]:
    """Names of the tasks of which a case can be by its name; none where that tells nothing."""
    name = name_of_id(case_id)
    return next((possible for rule, possible in _TASKS if rule.match(name)), ())
