"""`submit`: the challenge's zip, which holds every case of a cohort or is not written.

Since 2018 the challenges ask for one `<case>.nii.gz` a case, by the task's own case names, at
the top of a zip, with the shape, the affine and the labels of the task.
"""

from __future__ import annotations

import functools
import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ray_brats.cases import naming, volume
from ray_brats.cases.case import Case, Cohort
from ray_brats.cases.geometry import same_grid
from ray_brats.errors import CaseError, CaseRejected, UsageError
from ray_brats.files import ledger, ownership, retry, storage
from ray_brats.files.ledger import CaseRow, Summary
from ray_brats.labels import Task
from ray_brats.model import predictions
from ray_brats.model.predictions import mask_name
from ray_brats.recipes import tasks

EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first moment a zip can name: equal masks give equal bytes."""
_GZIP = b"\x1f\x8b"
_COMMENT = b"ray-brats"
"""Of our zips: one of them may be replaced by the next."""


@dataclass(frozen=True, kw_only=True)
class SubmitSummary(Summary):
    """What checking the masks found."""

    submission: str | None = field(metadata=ledger.PLACE)
    """None where a mask has a problem."""
    task: str
    """Its name."""
    notes: Sequence[str]


def submit(
    cohort: Cohort,
    predictions_uri: str,
    zip_uri: str,
    *,
    task: Task | None,
    overwrite: bool = False,
) -> SubmitSummary:
    """Check every mask against its case, then write the zip; a problem leaves no zip.

    Args:
        cohort: the cases the challenge asks for.
        predictions_uri: holds `<case_id>.nii.gz`, or as `predictions.find_masks` reads it.
        zip_uri: where the zip goes.
        task: whose labels the masks carry, where the cohort's names do not tell.
        overwrite: replace a zip that is there.

    Raises:
        UsageError: nobody says whose labels these are, the name is no zip's, there is such a file
            already, or no mask is there.
    """
    chosen = cohort.task_or(task)
    if chosen is None:
        raise UsageError(f"the names in {cohort.uri} do not tell the task: pass --task")
    if not zip_uri.lower().endswith(".zip"):
        raise UsageError(f"{zip_uri}: expected a name that ends in .zip")
    masks = predictions.find_masks(predictions_uri, cohort)
    made = masks.made_for
    if made and not made.means_as(chosen):
        raise UsageError(
            f"{predictions_uri} holds masks of the task {made.name}, whose labels are not those of "
            f"{chosen.name}: score with --task {chosen.name}, or submit with --task {made.name}"
        )
    read = [*cohort.files(), *masks.uris()]
    ours = [zip_uri] if _is_ours(zip_uri) else []
    ownership.check_files({"OUT.zip": zip_uri}, read, overwrite=overwrite, ours=ours)
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        uris = {
            case.case_id: storage.join(predictions_uri, mask_name(case.case_id))
            for case in cohort.cases
        } | {case_id: file.uri for case_id, file in masks.of_case.items()}
        check = functools.partial(_check, uris=uris, task=chosen)
        checked = list(pool.map(check, cohort.cases))
    rows = [*(row for row, _ in checked), *cohort.rejected]
    failures = [row for row in rows if row.status != "ok"]
    if not failures:
        content = {mask_name(row.case_id): mask for row, mask in checked if mask is not None}
        storage.write_bytes(zip_uri, zip_bytes(content))
    return SubmitSummary(
        submission=None if failures else zip_uri,
        task=chosen.name,
        all_or_nothing=True,
        counts={"ok": len(rows) - len(failures), "rejected": len(failures)},
        notes=masks.notes(),
        failures=failures,
    )


def _check(case: Case, uris: Mapping[str, str], task: Task) -> tuple[CaseRow, bytes | None]:
    """The row of a case, and the bytes of its mask where that may be handed in."""
    try:
        content = _valid_mask(case, uris[case.case_id], task)
        return CaseRow(case_id=case.case_id), content
    except CaseError as error:
        return retry.failed_row(case.case_id, error), None


def _valid_mask(case: Case, uri: str, task: Task) -> bytes:
    """The bytes of a mask, gzipped; `CaseRejected` says what the challenge would not accept."""
    # One challenge may have several tasks of one meaning, as that of 2023.
    own, known = tasks.key_of(task), naming.tasks_of(case.case_id)
    alike = any(tasks.key_of(tasks.TASKS[name]) == own for name in known)
    if naming.has_names(task.name) and not alike:
        raise CaseRejected(
            f"{task.name} has no case of this name: the challenge would not match it"
        )
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise CaseRejected("no prediction: score the case, then submit again", uri) from error
    mask = volume.parse(content, uri)
    if not case.images:
        raise CaseRejected("the case has no image to compare the mask's grid with")
    image_uri = next(iter(case.images.values()))
    grid = volume.read_header(image_uri).geometry
    difference = same_grid(mask.geometry, grid)
    if difference:
        raise CaseRejected(f"the mask does not lie on the grid of its case: {difference}", uri)
    volume.class_indices(mask, task, uri)
    if (mask.geometry.axes, mask.geometry.flips) != (grid.axes, grid.flips):
        # The challenge compares voxels as they are stored.
        return volume.encode(grid.to_native(mask.voxels_HWD.astype(np.uint8)), grid)
    return content if content.startswith(_GZIP) else volume.gzip_bytes(content)


def _is_ours(zip_uri: str) -> bool:
    """Whether there is a zip that says of itself that it was made here."""
    try:
        return storage.read_bytes(zip_uri).endswith(_COMMENT)
    except OSError:
        return False


def zip_bytes(files: dict[str, bytes]) -> bytes:
    """A flat zip in the order of the names; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name, EARLIEST)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, content)
        archive.comment = _COMMENT
    return buffer.getvalue()
