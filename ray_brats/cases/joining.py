"""Which image file belongs to which case: by its name, by its folder's, or by the one reading left.

Names are those of the releases (`naming`), of BIDS (`bids`), or what people liked (`folders`).

What is joined so is said in a note, and a file that no reading explains is passed over with why.
Names alone decide; no image is opened here.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ray_brats.cases import bids, folders, naming, plain
from ray_brats.cases.case import PassedOver
from ray_brats.cases.folders import Named, OneCase, Several
from ray_brats.cases.naming import MODALITIES, SEGMENTATION, Meaning
from ray_brats.cases.spelling import NOT_TUMOUR
from ray_brats.files import channels, storage
from ray_brats.files.local import FileInfo
from ray_brats.files.packed import Table

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
OTHER_MASK = (
    "a mask of something else than the tumour, by its name: one of the tumour is called …_dseg, "
    "or label-tumor_mask"
)
SEVERAL_READINGS = (
    "the names in its folder can be read in more than one way: end each in its modality, as in "
    "CASE_t1ce.nii.gz, or describe the cohort in a CSV"
)
NO_DESCRIPTION = (
    "no dataset.json beside its folder says what it is: put the one there that belongs to it"
)
_DESCRIBED = frozenset({"imagesTr", "imagesTs", "labelsTr", "labelsTs"})

_GZ = ".gz"
Kinds = dict[str, list[FileInfo]]
"""Modality or `seg` to its files, of which a sound case has one each."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """All image files of a folder, each in one place: of a case, or passed over."""

    cases: dict[str, Kinds] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    """Original name of a case to its files; without those of `plain`."""
    plain: Table[dict[str, FileInfo]] = field(default_factory=Table)
    """The same of cases that have a folder of their own and no doubt about any name in it."""
    passed_over: list[PassedOver] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def by_name(self) -> Iterator[tuple[str, Kinds]]:
        """All cases, sorted by their original names."""
        plain = (
            (name, {kind: [file] for kind, file in kinds.items()})
            for name, kinds in self.plain.items()
        )
        others = sorted(self.cases.items(), key=operator.itemgetter(0))
        yield from heapq.merge(plain, others, key=operator.itemgetter(0))

    def leave(self, files: Iterable[FileInfo], why: str) -> None:
        """Pass files over."""
        self.passed_over.extend(PassedOver(uri=file.uri, why=why) for file in files)

    def twins(self) -> Iterator[tuple[Kinds, str, tuple[FileInfo, FileInfo]]]:
        """Files that are there as `.nii.gz` and as `.nii`, with where they stand in `cases`."""
        for kinds in self.cases.values():
            for kind, files in kinds.items():
                if len(files) != 2:
                    continue
                names = [channels.file_of(file.uri) for file in files]
                packed = [name for name in names if name.lower().endswith(_GZ)]
                plain = [name for name in names if name not in packed]
                if len(packed) == len(plain) == 1 and packed[0][: -len(_GZ)] == plain[0]:
                    at = names.index(packed[0])
                    yield kinds, kind, (files[at], files[1 - at])


Spelled = dict[str, dict[str, list[FileInfo]]]
"""Case to spelling to masks that are not called `seg`."""


@dataclass(frozen=True, kw_only=True)
class _Left:
    """What a first look at each name leaves for a second one at all of them."""

    spelled: Spelled = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    of_355: list[FileInfo] = field(default_factory=list)
    of_bids: dict[str, list[tuple[bids.Meaning, FileInfo]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Case to masks by names of BIDS."""
    untold: dict[str, list[FileInfo]] = field(default_factory=lambda: defaultdict(list))
    """Folder to images whose own names tell nothing."""
    doubtful: dict[str, list[tuple[Meaning, FileInfo]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Folder to scans whose names end in one modality and hold another: `FLAIR_to_T1`."""
    named: dict[str, Named] = field(default_factory=lambda: defaultdict(Named))
    """Folder to what the names of the others tell."""

    def names(self) -> set[str]:
        """Cases that any of it may be of."""
        return {*self.spelled, *self.of_bids, *((naming.CASE_355,) if self.of_355 else ())}


def join(files: Iterable[FileInfo]) -> Joined:
    """Sort the files of a folder, sorted by URI, into cases; what is no image is left out.

    Most cases of a release have a folder each, and names without a doubt: they are packed as they
    come. All others are looked at together, with those whose name one of them has too.
    """
    rest: list[FileInfo] = []
    alone = Table(plain.cases_of(files, rest))
    while True:
        joined, mentioned = _join(rest)
        both = mentioned and mentioned.intersection(alone)
        if not both:
            return dataclasses.replace(joined, plain=alone)
        for name, kinds in alone.items():
            rest += kinds.values() if name in both else ()
        rest.sort(key=lambda file: file.uri)
        alone = Table((name, kinds) for name, kinds in alone.items() if name not in both)


def _join(images: Sequence[FileInfo]) -> tuple[Joined, set[str]]:
    """Sort images into cases; with the names of all cases that they may be of."""
    joined, left = Joined(), _Left()
    by_folder = 0
    alone = Counter(storage.parent_of(file.uri) for file in images)
    for file in images:
        by_place = _meaning_of_place(file, alone)
        by_folder += by_place is not None and by_place != naming.meaning_of(
            storage.name_of(file.uri)
        )
        _place(joined, left, file, by_place)
    if by_folder:
        joined.notes.append(f"{by_folder} file(s) lie each in a folder that tells what they are")
    mentioned = {*joined.cases, *left.names()}
    _recover_355(joined, left.of_355)
    _take_untold(joined, left)
    _take_bids(joined, left.of_bids)
    orphans = _take_spelled(joined, left.spelled)
    mentioned |= set(joined.cases)
    _take_orphans(joined, orphans)
    return joined, mentioned | set(joined.cases)


def problem_of_format(name: str) -> str | None:
    """Why an image of this name is not read, whatever it shows; None of a NIfTI file."""
    kind = naming.image_format(name)
    return None if kind == "nifti" else PAIR if kind == "pair" else OTHER_FORMAT


def _place(joined: Joined, left: _Left, file: FileInfo, by_place: Meaning | None) -> None:
    """Put one image where its own name, or its folder's, says."""
    name, folder = storage.name_of(file.uri), storage.parent_of(file.uri)
    if problem := problem_of_format(name):
        joined.leave([file], problem)
    elif naming.is_mask_of_355(name):
        left.of_355.append(file)
    elif by_place is None and (told := bids.meaning_of(name)) is not None:
        kinds = left.named[folder].kinds.setdefault(told.case, set())
        kind = SEGMENTATION if told.rank == 0 else told.modality
        if kind is not None:
            kinds.add(kind)
            joined.cases[told.case][kind].append(file)
        elif told.mask is not None:
            left.of_bids[told.case].append((told, file))
        else:
            joined.leave([file], NO_KIND)
    elif (meaning := by_place or naming.meaning_of(name)) is None:
        left.untold[folder].append(file)
    elif meaning.kind == SEGMENTATION and meaning.spelling != SEGMENTATION:
        left.spelled[meaning.case][meaning.spelling].append(file)
    elif _is_doubtful(meaning):
        left.doubtful[folder].append((meaning, file))
    else:
        _place_by_name(joined, left, meaning, file)


def _is_doubtful(meaning: Meaning) -> bool:
    return meaning.kind != SEGMENTATION and plain.holds_modality(meaning.case)


def _place_by_name(joined: Joined, left: _Left, meaning: Meaning, file: FileInfo) -> None:
    kinds = left.named[storage.parent_of(file.uri)].kinds
    kinds.setdefault(meaning.case, set()).add(meaning.kind)
    joined.cases[meaning.case][meaning.kind].append(file)


def _meaning_of_place(file: FileInfo, alone: Mapping[str, int]) -> Meaning | None:
    """What the folder says that an archiver made of a file: `CASE_t2.nii.gz/scan.nii`."""
    folder = storage.parent_of(file.uri)
    told = naming.meaning_of(storage.name_of(folder)) if alone[folder] == 1 else None
    if told is None:
        return None
    own = naming.meaning_of(storage.name_of(file.uri))
    return told if own is None or own.kind == told.kind else None


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


# --- names that tell nothing alone ----------------------------------------------------------


def _take_untold(joined: Joined, left: _Left) -> None:
    """Read folders of one case as a whole; what no reading takes is passed over."""
    found: list[OneCase] = []
    several: list[Several] = []
    for folder in sorted(left.untold.keys() | left.doubtful.keys()):
        reading = _read_folder(joined, left, folder)
        if isinstance(reading, OneCase):
            found.append(reading)
        elif isinstance(reading, Several):
            several.append(reading)
            joined.leave(reading.files, SEVERAL_READINGS)
        else:
            is_described = storage.name_of(folder) in _DESCRIBED
            joined.leave(left.untold[folder], NO_DESCRIPTION if is_described else NO_KIND)
    names = folders.names_of([item.folder for item in found if item.case is None])
    for item in found:
        _take_case(joined, item.case or names[item.folder], item)
    if found:
        first = found[0]
        scans = ", ".join(
            f"{storage.name_of(items[0].uri)} for {kind}" for kind, items in first.scans.items()
        )
        joined.notes.append(
            f"{len(found)} case(s) have the modality anywhere in the names of files, "
            f"{first.case or names[first.folder]} among them with {scans}: no other reading of "
            "their folder is left"
        )
    if several:
        joined.notes.append(
            f"in {len(several)} folder(s) the names can be read in more than one way, in "
            f"{storage.name_of(several[0].folder)} for one: {several[0].readings}"
        )


def _read_folder(joined: Joined, left: _Left, folder: str) -> OneCase | Several | None:
    """What is left for files to be; where a folder is not one case, names count by their ends."""
    doubtful, named = left.doubtful[folder], left.named[folder]
    cases = {*named.kinds, *(meaning.case for meaning, _ in doubtful)}
    if doubtful and (left.untold[folder] or len(cases) > 1):
        files = [*left.untold[folder], *(file for _, file in doubtful)]
        reading = folders.read(folder, files, named)
        if isinstance(reading, OneCase):
            return reading
    for meaning, file in doubtful:
        _place_by_name(joined, left, meaning, file)
    return folders.read(folder, left.untold[folder], named)


def _take_case(joined: Joined, name: str, item: OneCase) -> None:
    kinds = joined.cases[name]
    for modality, files in item.scans.items():
        kinds[modality].extend(files)
    masks = [file for files in item.masks.values() for file in files]
    if SEGMENTATION in kinds:
        joined.leave(masks, HAS_MASK)
    elif len(item.masks) > 1:
        joined.leave(masks, SEVERAL_MASKS)
    elif masks:
        kinds[SEGMENTATION].extend(masks)
    joined.leave(item.others, NO_KIND)


def _take_bids(
    joined: Joined, masks: Mapping[str, Sequence[tuple[bids.Meaning, FileInfo]]]
) -> None:
    """Give cases of BIDS the one mask that comes before their others."""
    taken: Counter[str] = Counter()
    for name, items in sorted(masks.items()):
        joined.leave((file for told, file in items if told.rank is None), OTHER_MASK)
        ranks = {told.rank for told, _ in items if told.rank is not None}
        if not ranks:
            continue
        best = [(told, file) for told, file in items if told.rank == min(ranks)]
        rest = [file for told, file in items if told.rank not in (None, min(ranks))]
        kinds = joined.cases.get(name, {})
        if not set(kinds) & {*MODALITIES}:
            joined.leave((*(file for _, file in best), *rest), NO_SCANS)
        elif SEGMENTATION in kinds:
            joined.leave((*(file for _, file in best), *rest), HAS_MASK)
        elif len({_stem_uri(file) for _, file in best}) > 1:
            joined.leave((*(file for _, file in best), *rest), SEVERAL_MASKS)
        else:
            joined.cases[name][SEGMENTATION] = [file for _, file in best]
            joined.leave(rest, HAS_MASK)
            taken[str(best[0][0].mask)] += 1
    joined.notes.extend(
        f"{count} case(s) have a mask that is called {name}: it is taken"
        for name, count in sorted(taken.items())
    )


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
    masks = _folders_of({**plain, **spelled})
    scans = _folders_of(
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


def _folders_of(files: Mapping[str, Sequence[FileInfo]]) -> dict[str, str]:
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
