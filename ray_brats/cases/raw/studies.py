"""The studies below a folder, as scanners, PACS exports, TCIA and people leave them.

DICOM is sorted by its headers, wherever its files lie; NIfTI by folders and names (`grouping`).

Headers take most of the time: about a millisecond a file of DICOM, so that 50,000 files are found
in about a minute.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_brats.cases.raw import choice, conversion, dicoms, grouping, kinds, series, walk
from ray_brats.cases.raw.conversion import Limits
from ray_brats.cases.raw.dicoms import DicomSeries, Inventory
from ray_brats.cases.raw.series import Ignored, Series
from ray_brats.errors import CaseRejected, UsageError

_SIDECAR_BYTES = 1 << 20
_SHOWN = 5
_REFERENCES = ("t1ce", "t1", "flair", "t2")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What was taken of one patient on one occasion."""

    name: str
    """The folder that holds all of it, relative to the root; where one folder holds several
    studies, with a number in order of time behind it. No date, and no name from a header."""
    patient: str
    """The DICOM patient, else the folder: for no log."""
    folder: Path
    dicom: tuple[DicomSeries, ...] = ()
    nifti: tuple[Path, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    """What lies among its files and is none of its series."""

    def files(self) -> Iterator[Path]:
        """Every file of its series."""
        yield from self.nifti
        for one in self.dicom:
            yield from one.paths

    def etag(self) -> str:
        """What changes with any of its files and sidecars: their places in it, sizes and times."""
        digest = hashlib.sha256()
        sidecars = filter(Path.is_file, map(walk.sidecar_of, self.nifti))
        for path in sorted([*self.files(), *sidecars]):
            status = path.stat()
            told = (path.relative_to(self.folder), status.st_size, status.st_mtime_ns)
            digest.update(repr(tuple(map(str, told))).encode())
        return digest.hexdigest()

    def as_row(self) -> dict[str, Any]:
        """Plain values, for a task elsewhere; `from_row` is the inverse."""
        row: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return row

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Study:
        """A study from what `as_row` gave."""
        return Study(
            name=row["name"],
            patient=row["patient"],
            folder=Path(row["folder"]),
            dicom=tuple(DicomSeries(**_tuples(item)) for item in row["dicom"]),
            nifti=tuple(map(Path, row["nifti"])),
            ignored=tuple(Ignored(**_tuples(item)) for item in row["ignored"]),
        )


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one part of a study: JSON has lists for tuples, and text for paths."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
    }
    if "paths" in values:
        values["paths"] = tuple(map(Path, values["paths"]))
    if values.get("path") is not None:
        values["path"] = Path(values["path"])
    return values


def find(root: Path, *, most_files: int = walk.MOST_FILES) -> list[Study]:
    """Every study below a folder, in order of names.

    Raises:
        UsageError: no such folder, more files than may be, no study in it, or no pydicom where
            there is DICOM.
    """
    root = root.resolve()
    if not root.is_dir():
        raise UsageError(f"{root}: expected a folder of studies")
    files = walk.files_below(root, most_files)
    found = dicoms.inventory(files.dicom) if files.dicom else Inventory(series=(), ignored=())
    ignored = [*files.ignored, *found.ignored]
    studies = [*_of_dicom(root, found.series), *_of_nifti(root, files.nifti)]
    if not studies:
        raise UsageError(f"{root}: no series of MR in DICOM or NIfTI{_counted(ignored)}")
    return _with_ignored(sorted(_with_own_names(studies), key=lambda one: one.name), ignored)


def has_dicom(root: Path) -> bool:
    """Whether a folder holds a file of DICOM; needs no package of the extra."""
    return bool(walk.files_below(root.resolve(), walk.MOST_FILES).dicom)


def reference_in(root: Path) -> Path | None:
    """The file of the one NIfTI study in a folder that its others would be brought to.

    T1CE, else T1, FLAIR or T2; None where names tell none, or there are several studies. Raises
    as `choice.choose`.
    """
    (study, *others) = find(root)
    if others or study.dicom:
        return None
    found, _ = series_of(study, root)
    chosen = choice.choose(found).chosen
    return next((chosen[name].path for name in _REFERENCES if name in chosen), None)


def series_of(
    study: Study,
    workspace: Path,
    *,
    asked: Collection[str] = (),
    limits: Limits | None = None,
) -> tuple[list[Series], list[Ignored]]:
    """The series of a study as NIfTI, and what of it is none.

    Args:
        workspace: an empty folder for what DICOM is converted to.
        asked: names and numbers of series that are converted whatever they are; of others those
            are not whose headers rule out that they are one of the four modalities.
        limits: what the conversion of one series may take.

    Raises:
        CaseFailed: a conversion took too long.
        UsageError: dcm2niix is not installed, where there is DICOM.
    """
    found: list[Series] = []
    ignored = list(study.ignored)
    left: dict[tuple[str, str], list[DicomSeries]] = defaultdict(list)
    wanted = {text.strip().casefold() for text in asked}
    for number, one in enumerate(study.dicom):
        is_asked = {str(one.number), one.description.casefold()} & wanted
        reason = None if is_asked else _ruled_out(one)
        try:
            if reason is None:
                found += _converted(one, workspace / f"{number:03d}", limits)
        except CaseRejected as error:
            reason = error.reason
        if reason is not None:
            left[one.series_uid, reason].append(one)
    ignored += (_as_ignored(parts, reason) for (_, reason), parts in left.items())
    for path, name in grouping.names_of(study.nifti, study.folder).items():
        try:
            found.append(_read(path, name))
        except CaseRejected as error:
            ignored.append(Ignored(name=name, reason=error.reason, path=path))
    return [*_with_contents(found)], ignored


def _with_contents(found: Sequence[Series]) -> Iterator[Series]:
    """Series of NIfTI files with what tells equal ones; only those of one size are read."""
    sizes = {one.path: one.path.stat().st_size for one in found if not one.sources}
    shared = Counter(sizes.values())
    for one in found:
        has_twins = shared[sizes.get(one.path, -1)] > 1
        yield dataclasses.replace(one, content=_digest(one.path)) if has_twins else one


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ruled_out(one: DicomSeries) -> str | None:
    """Why a series need not be converted."""
    header = one.sidecar
    reason = kinds.ruled_out(
        header.get("SeriesDescription") or header.get("ProtocolName", ""),
        header.get("ImageType", ()),
    )
    if reason is None and one.volumes and len(one.paths) // one.volumes < kinds.LEAST_SLICES:
        return f"{len(one.paths)} slice(s): expected {kinds.LEAST_SLICES} or more of a whole head"
    return reason


def _as_ignored(parts: Sequence[DicomSeries], reason: str) -> Ignored:
    """What the parts of one series are, which lie on a grid each."""
    first = parts[0]
    warnings = dict.fromkeys(text for one in parts for text in one.warnings)
    return Ignored(
        name=first.description or "MR",
        reason="; ".join((reason, *warnings)),
        path=first.paths[0],
        files=sum(len(one.paths) for one in parts),
        study_uid=first.study_uid,
    )


def _converted(one: DicomSeries, folder: Path, limits: Limits | None) -> list[Series]:
    return [
        dataclasses.replace(
            series.of_sidecar(path, sidecar),
            sources=one.paths,
            source=one.source,
            missing_slices=one.missing_slices,
            warnings=(*one.warnings, *sidecar[conversion.NOTES]),
        )
        for path, sidecar in conversion.converted(one, folder, limits=limits)
    ]


def _read(path: Path, name: str) -> Series:
    sidecar = _sidecar_of(path)
    return series.of_nifti(path, name=name) if sidecar is None else series.of_sidecar(path, sidecar)


def _sidecar_of(path: Path) -> Mapping[str, Any] | None:
    """What stands beside an image in the manner of BIDS, or None."""
    beside = walk.sidecar_of(path)
    try:
        if beside.is_symlink() or beside.stat().st_size > _SIDECAR_BYTES:
            return None
        content = json.loads(beside.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


# --- studies --------------------------------------------------------------------------------


def _of_dicom(root: Path, found: Sequence[DicomSeries]) -> Iterator[Study]:
    """Series by patient and study; those come in order of time within a patient."""
    groups: dict[tuple[str, str], list[DicomSeries]] = defaultdict(list)
    for one in found:
        groups[one.patient_id, one.study_uid].append(one)
    for (patient, _), group in groups.items():
        folders = [str(path.parent) for one in group for path in one.paths]
        folder = Path(os.path.commonpath(folders))
        name = _name_of(folder, root)
        yield Study(name=name, patient=patient or name, folder=folder, dicom=tuple(group))


def _of_nifti(root: Path, images: Sequence[Path]) -> Iterator[Study]:
    for folder, paths in grouping.by_folder(images, root).items():
        for case, files in grouping.by_case(paths).items():
            parts = [_name_of(folder, root)] if folder != root or not case else []
            name = "/".join(filter(None, [*parts, case]))
            patient = grouping.patient_of(files, name)
            yield Study(name=name, patient=patient, folder=folder, nifti=tuple(files))


def _name_of(folder: Path, root: Path) -> str:
    return root.name if folder == root else folder.relative_to(root).as_posix()


def _with_own_names(studies: Sequence[Study]) -> Iterator[Study]:
    """Studies of one name with their number behind it."""
    shared = Counter(study.name for study in studies)
    taken = {name for name, count in shared.items() if count == 1}
    for study in studies:
        name, numbers = study.name, itertools.count(1)
        while shared[study.name] > 1 and (name == study.name or name in taken):
            name = f"{study.name}-{next(numbers)}"
        taken.add(name)
        yield dataclasses.replace(study, name=name)


def _with_ignored(studies: Sequence[Study], ignored: Iterable[Ignored]) -> list[Study]:
    """Studies with the ignored files that are of each, or lie in it, or next to it."""
    by_uid = {one.study_uid: study.name for study in studies for one in study.dicom}
    by_folder = {study.folder: study.name for study in reversed(studies)}
    for study in studies:
        for above in study.folder.parents:
            by_folder.setdefault(above, study.name)
    left: dict[str, list[Ignored]] = defaultdict(list)
    for item in ignored:
        folders = item.path.parents if item.path else ()
        near = (by_folder[folder] for folder in folders if folder in by_folder)
        left[by_uid.get(item.study_uid) or next(near, studies[0].name)].append(item)
    return [dataclasses.replace(study, ignored=tuple(left[study.name])) for study in studies]


def _counted(ignored: Iterable[Ignored]) -> str:
    """How many files there are of each kind, without their names."""
    counts = Counter[str]()
    for item in ignored:
        counts[item.reason] += item.files
    shown = "; ".join(f"{count} file(s): {reason}" for reason, count in counts.most_common(_SHOWN))
    return f" ({shown})" if shown else ": it is empty"
