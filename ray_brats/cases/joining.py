"""Which image file belongs to which case: by its name, by its folder's, or by the one reading left.

What is joined so is said in a note, and a file that no reading explains is passed over with why.
Names alone decide; no image is opened here.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ray_brats.cases import naming
from ray_brats.cases.case import PassedOver
from ray_brats.cases.naming import SEGMENTATION, Meaning
from ray_brats.files import storage
from ray_brats.files.local import FileInfo

PAIR = (
    "a header and voxels in two files (.hdr, .img) are not read: make one file of them, "
    "`nib-convert SCAN.hdr SCAN.nii.gz`"
)
OTHER_FORMAT = "not a NIfTI file: convert it to .nii.gz (dcm2niix, or `nib-convert` for .mgz)"
NO_KIND = "the name ends in no modality (as in CASE_t1ce.nii.gz) and in no mask's name"
NO_SCANS = "a mask beside no scan of its name: name it CASE_seg.nii.gz, as its scans"
SEVERAL_MASKS = (
    "one of several masks that a case may have, or of several cases that it may be of: name the "
    "right one CASE_seg.nii.gz, as its scans"
)
HAS_MASK = "the case has another mask, whose name comes first"
CORRECTED = "the case has a manually corrected mask, which is taken"
NOT_TUMOUR = frozenset({"brain", "parenchyma", "tissue", "skull"})
"""What masks beside scans are of else, by their names."""

_GZ = ".gz"
Kinds = dict[str, list[FileInfo]]
"""Modality or `seg` to its files, of which a sound case has one each."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """All image files of a folder, each in one of two places."""

    cases: dict[str, Kinds] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    """Original name of a case to its files."""
    passed_over: list[PassedOver] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave(self, files: Iterable[FileInfo], why: str) -> None:
        """Pass files over."""
        self.passed_over.extend(PassedOver(uri=file.uri, why=why) for file in files)

    def twins(self) -> Iterator[tuple[Kinds, str, tuple[FileInfo, FileInfo]]]:
        """Files that are there as `.nii.gz` and as `.nii`, with where they stand in `cases`."""
        for kinds in self.cases.values():
            for kind, files in kinds.items():
                packed = [file for file in files if file.uri.lower().endswith(_GZ)]
                plain = [file for file in files if file not in packed]
                if len(packed) == len(plain) == 1 and packed[0].uri[: -len(_GZ)] == plain[0].uri:
                    yield kinds, kind, (packed[0], plain[0])


Spelled = dict[str, dict[str, list[FileInfo]]]
"""Case to spelling to masks that are not called `seg`."""


def join(files: Sequence[FileInfo]) -> Joined:
    """Sort the files of a folder into cases; what is no image is left out."""
    joined = Joined()
    spelled: Spelled = defaultdict(lambda: defaultdict(list))
    of_355: list[FileInfo] = []
    by_folder = 0
    images = [file for file in files if naming.image_format(storage.name_of(file.uri))]
    alone = Counter(storage.parent_of(file.uri) for file in images)
    for file in images:
        name = storage.name_of(file.uri)
        by_name, by_place = naming.meaning_of(name), _meaning_of_place(file, alone)
        meaning = by_place or by_name
        by_folder += by_place is not None and by_place != by_name
        if (kind := naming.image_format(name)) != "nifti":
            joined.leave([file], PAIR if kind == "pair" else OTHER_FORMAT)
        elif naming.is_mask_of_355(name):
            of_355.append(file)
        elif meaning is None:
            joined.leave([file], NO_KIND)
        elif meaning.kind == SEGMENTATION and meaning.spelling != SEGMENTATION:
            spelled[meaning.case][meaning.spelling].append(file)
        else:
            joined.cases[meaning.case][meaning.kind].append(file)
    if by_folder:
        joined.notes.append(f"{by_folder} file(s) lie each in a folder that tells what they are")
    _recover_355(joined, of_355)
    orphans = _take_spelled(joined, spelled)
    _take_orphans(joined, orphans)
    return joined


def _meaning_of_place(file: FileInfo, alone: Mapping[str, int]) -> Meaning | None:
    """What the folder says that an archiver made of a file: `CASE_t2.nii.gz/scan.nii`."""
    folder = storage.parent_of(file.uri)
    told = naming.meaning_of(storage.name_of(folder)) if alone[folder] == 1 else None
    own = naming.meaning_of(storage.name_of(file.uri))
    return told if told and (own is None or own.kind == told.kind) else None


def _recover_355(joined: Joined, files: Sequence[FileInfo]) -> None:
    """Give case 355 of 2020 its mask, which some mirrors hold under both names."""
    case = joined.cases.get(naming.CASE_355)
    if not files or case is None:
        joined.leave(files, NO_SCANS)
        return
    if SEGMENTATION in case:
        joined.leave(files, HAS_MASK)
        return
    case[SEGMENTATION].append(files[0])
    name = storage.name_of(files[0].uri)
    joined.notes.append(f"{naming.CASE_355}: segmentation recovered from {name}")
    joined.leave(files[1:], HAS_MASK)


# --- masks that are called otherwise than `seg` ---------------------------------------------


def _take_spelled(joined: Joined, spelled: Spelled) -> dict[str, list[FileInfo]]:
    """Give cases their masks; those of names that no scan has come back."""
    orphans: dict[str, list[FileInfo]] = {}
    taken: Counter[str] = Counter()
    for name, masks in sorted(spelled.items()):
        better, worse = naming.CORRECTED
        corrects = better in masks and worse in masks
        if corrects:
            joined.leave(masks.pop(worse), CORRECTED)
        files = [file for items in masks.values() for file in items]
        has = joined.cases.get(name, {})
        if SEGMENTATION in has:
            joined.leave(files, HAS_MASK)
        elif len(masks) > 1 or len({_stem_uri(file) for file in files}) > 1:
            joined.leave(files, SEVERAL_MASKS)
        elif not has:
            orphans[name] = files
        else:
            joined.cases[name][SEGMENTATION] = files
            taken[f"{next(iter(masks))}{f', beside a {worse}' if corrects else ''}"] += 1
    joined.notes.extend(
        f"{count} case(s) have a mask that is called {name}: it is taken"
        for name, count in sorted(taken.items())
    )
    return orphans


def _stem_uri(file: FileInfo) -> str:
    """The file without its ending: that of `.nii` and `.nii.gz` is the same."""
    return re.sub(r"\.nii(\.gz)?$", "", file.uri, flags=re.IGNORECASE)


# --- masks under another stem than their scans ----------------------------------------------


def _take_orphans(joined: Joined, spelled: Mapping[str, list[FileInfo]]) -> None:
    """Give scans without a mask the one mask of their folder that can be theirs alone."""
    plain = {
        name: kinds[SEGMENTATION] for name, kinds in joined.cases.items() if set(kinds) == {"seg"}
    }
    masks = _by_folder({**plain, **spelled})
    scans = _by_folder(
        {
            name: [file for files in kinds.values() for file in files]
            for name, kinds in joined.cases.items()
            if SEGMENTATION not in kinds
        }
    )
    pairs = _pairs(scans, masks)
    of_scan, of_mask = Counter(pair[0] for pair in pairs), Counter(pair[1] for pair in pairs)
    left = dict(spelled)
    matched: dict[tuple[str, str], str] = {}
    for (scan, mask), common in pairs.items():
        if of_scan[scan] == of_mask[mask] == 1:
            matched[scan, mask] = common
            left.pop(mask, None)
        elif files := left.pop(mask, None) or joined.cases.pop(mask, {}).get(SEGMENTATION):
            joined.leave(files, SEVERAL_MASKS)
    for files in left.values():
        joined.leave(files, NO_SCANS)
    _rename(joined, matched, spelled)


def _by_folder(files: Mapping[str, Sequence[FileInfo]]) -> dict[str, str]:
    """Case to the folder of all its files; without those that lie in several."""
    folders = {
        name: {storage.parent_of(file.uri) for file in items} for name, items in files.items()
    }
    return {name: next(iter(places)) for name, places in folders.items() if len(places) == 1}


def _pairs(scans: Mapping[str, str], masks: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Every scan and mask of one folder that may belong together, and the case's name."""
    # Not every scan with every mask: a flat folder may hold thousands of each.
    near: dict[tuple[str, str], set[str]] = defaultdict(set)
    for scan, folder in scans.items():
        if number := _numbered(scan):
            near[folder, number].add(scan)
        if _is_of_folder(scan, storage.name_of(folder)):
            near[folder, ""].add(scan)
    return {
        (scan, mask): common
        for mask, folder in masks.items()
        for scan in sorted(near[folder, _numbered(mask)])
        if (common := common_name(scan, mask, storage.name_of(folder)))
    }


def _numbered(name: str) -> str:
    """A name up to its last word with a digit: what tells patients apart."""
    match = re.match(r".*\d[^_-]*", name, re.DOTALL)
    return match[0] if match else ""


def _is_of_folder(name: str, folder: str) -> bool:
    return name == folder or name.startswith((f"{folder}_", f"{folder}-"))


def common_name(scan: str, mask: str, folder: str) -> str | None:
    """The name of the case whose scans and whose mask are called so; None where it is not one.

    They agree in what tells patients apart, a number or the folder's name, and differ in words:
    `Patient_001_brain` and `Patient_001_final`. A mask that is called by a word alone, `final`,
    belongs to scans that are named after their folder.
    """
    words = [re.split(r"([_-])", name) for name in (scan, mask)]
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*words, strict=False))
    common = [word for word, _ in same]
    of_scan, of_mask = ("".join(part[len(common) :]) for part in words)
    said = set(re.split(r"[_-]", of_mask.lower()))
    if re.search(r"\d", of_mask) or said & NOT_TUMOUR:
        return None
    name = "".join(common).rstrip("_-")
    if not name:
        return folder if _is_of_folder(scan, folder) else None
    is_told = name == folder or re.search(r"\d", name)
    return name if is_told and not re.search(r"\d", of_scan) else None


def _rename(
    joined: Joined,
    matched: Mapping[tuple[str, str], str],
    spelled: Mapping[str, list[FileInfo]],
) -> None:
    """Make one case of each pair, under their common name where no other case has it."""
    wanted = Counter(matched.values())
    for (scan, mask), common in sorted(matched.items()):
        kinds = joined.cases.pop(scan)
        files = spelled[mask] if mask in spelled else joined.cases.pop(mask)[SEGMENTATION]
        name = scan if wanted[common] > 1 or common in joined.cases else common
        joined.cases[name] = {**kinds, SEGMENTATION: files}
    if matched:
        (scan, mask), _ = min(matched.items())
        joined.notes.append(
            f"{len(matched)} case(s) have a mask of another name than their scans, {scan} with "
            f"{mask} among them: no other reading of their folder is left"
        )
