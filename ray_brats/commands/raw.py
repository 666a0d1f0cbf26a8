"""The command `prepare`: from raw studies to a cohort."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from ray_brats.cases import manifest
from ray_brats.cases.naming import MODALITIES
from ray_brats.commands.arguments import CohortArgument, CsvOption, FileOption
from ray_brats.errors import UsageError
from ray_brats.files import local, ownership, storage
from ray_brats.files.ledger import Summary
from ray_brats.files.local import FileInfo
from ray_brats.progress import say, say_done

if TYPE_CHECKING:
    from ray_brats.cases.raw.preparation import PreparationOptions
    from ray_brats.cases.raw.sources import Source
    from ray_brats.cases.raw.studies import Study
    from ray_brats.engine.cluster import Resources
    from ray_brats.stages.prepare import Raw

_MASK_ENDINGS = ("", "_brain", "_mask", "_brainmask", "_brain_mask")
"""How the mask of a brain is called besides its case or study."""
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Bring raw studies from the scanner to a cohort: aligned, upright, stripped."""

    raw: Annotated[str, Positional, arg(metavar="RAW")]
    """Folder of studies in DICOM or NIfTI, as exports and archives leave them, however deep; a zip
    of one; an s3:// prefix; or a CSV: case_id, and study (a folder) or t1, t1ce, t2, flair."""
    cohort: CohortArgument
    """Where the cohort goes; finished studies there are not done again."""
    space: Literal["mni152", "patient"] = "mni152"
    """mni152: heads are turned upright; patient: only brought to 1 mm, axes in LPS order."""
    atlas: FileOption = None
    """Somebody's own stripped template, in place of MNI152; the cohort gets its grid."""
    affine: bool = False
    """Also stretch heads to the template; volumes in ml are then no patient's."""
    series: CsvOption = None
    """CSV that decides which series is taken: case_id (or study), t1, t1ce, t2, flair; names,
    numbers or files of series, none to leave a modality out, empty where the choice may stand."""
    brain_masks: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of brain masks, <case_id>.nii.gz or called as the study, on any grid that lies over
    the T1CE (else the series of the thinnest slices) as it left the scanner."""
    keep_skull: bool = False
    """Leave the skull on."""
    n4: bool = False
    """Correct the bias field of each series (N4)."""
    names: Literal["hash", "folder", "patient"] = "hash"
    """What cases are called: a hash of the patient, the study's folder, or the patient itself."""
    scratch: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder that all nodes see, for studies of a zip or a bucket while they are prepared; by
    default one of your own below TMPDIR."""
    key: CsvOption = None
    """Write a CSV that says which study each case is. It tells patients: keep it apart."""
    case_limit: Annotated[float, arg(metavar="SECONDS")] = 900.0
    """Seconds that a study may take; one that takes longer is an error."""


def prepare(options: PrepareOptions) -> Summary:
    """Bring raw studies to a cohort, one Ray Data task a study."""
    if options.case_limit <= 0:
        raise UsageError(f"--case-limit {options.case_limit:g}: expected seconds above zero")
    if options.space != "mni152" and (options.atlas or options.affine):
        raise UsageError("--space patient turns nothing: leave out --atlas and --affine")
    target = ownership.output_folder(options.cohort)
    for name, place in (("raw studies", options.raw), ("scratch folder", options.scratch)):
        if place is not None:
            _check_apart(name, storage.absolute(place), target)
    how = _how(options)
    from ray_brats.cases.raw import sources

    source = sources.opened(options.raw, options.scratch, output=target)
    summary = _prepare(source, target, how, options)
    if source.copy and (summary.counts or {}).get("error"):
        say(f"prepare: {source.copy} stays, for the same call once more; remove it otherwise")
    else:
        source.forget()
    return summary


def _prepare(
    source: Source, target: str, how: PreparationOptions, options: PrepareOptions
) -> Summary:
    from ray_brats.cases.raw import identity, preparation

    if source.root is not None:
        say(f"prepare: looking for studies below {source.root}")
    found = source.studies()
    case_ids = [row.case_id for row in source.rows] or identity.case_ids(found, options.names)
    raw = _wanted(source, found, case_ids, options)
    preparation.check_packages(
        how,
        has_masks=all(item.mask for item in raw),
        has_dicom=any(study.dicom for study in found),
    )
    say(f"prepare: {_sentence(found)}")
    if options.key:
        _write_key(options.key, target, found, case_ids)
    from ray_brats.engine import cluster
    from ray_brats.stages import prepare as stage

    inputs = [str(path) for study in found for path in study.files()]
    with cluster.running() as resources:
        cluster.check_shared(target, resources)
        _check_seen(inputs[0], resources, source)
        summary = stage.prepare(raw, target, how, inputs=inputs, limit_seconds=options.case_limit)
    for note in summary.notes:
        say(f"prepare: {note}")
    say_done("prepare", summary)
    if (summary.counts or {}).get("ok"):
        say(f"prepare: look at {summary.page} before you trust them")
    return summary


def _check_seen(file: str, resources: Resources, source: Source) -> None:
    """`UsageError` where other nodes do not see the studies."""
    from ray_brats.engine import cluster

    try:
        cluster.check_seen(file, resources)
    except UsageError as error:
        if source.copy is None:
            raise
        raise UsageError(
            "studies of a zip or a bucket are brought into a folder that all nodes must see: pass "
            f"--scratch with one ({error})"
        ) from error


def _check_apart(name: str, place: str, target: str) -> None:
    """What is written would be found as a study the next time, or go with the copy."""
    if storage.is_remote(target) != storage.is_remote(place):
        return
    ends = [target, place]
    if not storage.is_remote(target):
        ends = [str(Path(end).resolve()) for end in ends]
    inner, outer = sorted((end.rstrip("/") + "/" for end in ends), key=len, reverse=True)
    if inner.startswith(outer):
        raise UsageError(
            f"{inner[:-1]} is within {outer[:-1]}: expected a cohort beside the {name}"
        )


def _how(options: PrepareOptions) -> PreparationOptions:
    """What is done with each study; raises where a package or the template is missing."""
    from ray_brats.cases.raw import preparation, space

    name = storage.absolute(options.atlas) if options.atlas else options.space
    space.space_of(name)
    how = preparation.PreparationOptions(
        space=name,
        freedom="affine" if options.affine else "rigid",
        keep_skull=options.keep_skull,
        n4=options.n4,
    )
    preparation.check_packages(how, has_masks=options.brain_masks is not None)
    return how


def _wanted(
    source: Source, found: Sequence[Study], case_ids: Sequence[str], options: PrepareOptions
) -> list[Raw]:
    """Each study with what is asked of it."""
    asked = {row.case_id: row.asked for row in source.rows}
    asked |= _read_series(options.series, found, case_ids) if options.series else {}
    masks = _masks(options.brain_masks, found, case_ids) if options.brain_masks else {}
    # After these are judged: Ray takes a second to load.
    from ray_brats.stages.prepare import Raw

    return [
        Raw(
            case_id=case_id,
            study=study,
            asked=asked.get(case_id, {}),
            mask=masks.get(case_id),
            etag=study.etag(),
        )
        for study, case_id in zip(found, case_ids, strict=True)
    ]


def _read_series(
    uri: str, found: Sequence[Study], case_ids: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Case to modality to the series that somebody wants."""
    try:
        rows = manifest.read(storage.absolute(uri), required=(), is_exact=True)
    except UsageError as error:
        raise UsageError(f"--series {error}") from error
    except OSError as error:
        raise UsageError(f"--series {uri}: cannot be read ({error.strerror})") from error
    columns = set(rows[0]) if rows else set()
    name = "case_id" if "case_id" in columns else "study"
    if name not in columns or not columns <= {name, *MODALITIES}:
        raise UsageError(
            f"--series {uri}: expected the columns case_id (or study) and some of "
            f"{', '.join(MODALITIES)}"
        )
    known = dict(zip(case_ids, case_ids, strict=True))
    known |= {study.name: case_id for study, case_id in zip(found, case_ids, strict=True)}
    if unknown := [row[name] for row in rows if row[name] not in known]:
        raise UsageError(
            f"--series {uri} names {len(unknown)} that are no study: "
            f"{local.readable(unknown[0])} and such; expected names as --key writes them"
        )
    counts = Counter(known[row[name]] for row in rows)
    if twice := [row[name] for row in rows if counts[known[row[name]]] > 1]:
        raise UsageError(
            f"--series {uri}: {local.readable(twice[0])} stands there more than once: expected one "
            "row a study"
        )
    return {
        known[row[name]]: {kind: row[kind] for kind in MODALITIES if row.get(kind)} for row in rows
    }


def _masks(folder: str, found: Sequence[Study], case_ids: Sequence[str]) -> dict[str, FileInfo]:
    """Case to the mask of its brain; says which have none."""
    files = {
        storage.name_of(file.uri).split(".nii")[0]: file
        for file in storage.list_files(storage.absolute(folder), depth=1)
        if storage.name_of(file.uri).endswith((".nii", ".nii.gz"))
    }
    masks = {}
    for study, case_id in zip(found, case_ids, strict=True):
        names = (case_id, study.name, study.name.rsplit("/", 1)[-1])
        fitting = (name + end for name in names for end in _MASK_ENDINGS)
        if mask := next((files[name] for name in fitting if name in files), None):
            masks[case_id] = mask
    if not masks:
        raise UsageError(
            f"--brain-masks {folder} holds no mask of any study: expected <case_id>.nii.gz, or the "
            "study's own name"
        )
    if lacking := [case_id for case_id in case_ids if case_id not in masks]:
        shown = ", ".join(lacking[:_SHOWN]) + (" …" if lacking[_SHOWN:] else "")
        say(f"warning: {len(lacking)} case(s) have no mask in {folder}, and are stripped: {shown}")
    return masks


def _sentence(found: Sequence[Study]) -> str:
    patients = len({study.patient for study in found})
    kinds = {"DICOM": sum(bool(s.dicom) for s in found), "NIfTI": sum(bool(s.nifti) for s in found)}
    told = " and ".join(f"{count} in {kind}" for kind, count in kinds.items() if count)
    studies = "1 study" if len(found) == 1 else f"{len(found)} studies"
    return f"{studies} of {patients} patient(s), {told}"


def _write_key(uri: str, cohort: str, found: Sequence[Study], case_ids: Sequence[str]) -> None:
    """The CSV that joins cases and studies."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["case_id", "study", "patient"])
    for study, case_id in zip(found, case_ids, strict=True):
        writer.writerow([case_id, study.name, study.patient])
    target = storage.absolute(uri)
    if target.startswith(cohort.rstrip("/") + "/"):
        raise UsageError(f"--key {uri} is within {cohort}, and would go where that goes")
    ownership.check_files({"--key": target}, (), overwrite=True)
    content = local.readable(buffer.getvalue()).encode()
    if storage.exists(target) and storage.read_bytes(target) != content:
        raise UsageError(f"--key {uri} is there already and says otherwise: expected a new file")
    storage.write_if_changed(target, content)
