"""The commands `evaluate` and `show`: from masks to reports and pictures."""

from __future__ import annotations

from typing import Any, Literal

from ray_brats.cases import cohort as cohorts
from ray_brats.cases.case import Case, Cohort
from ray_brats.cases.geometry import same_grid
from ray_brats.commands.arguments import (
    CaseArgument,
    CohortArgument,
    PictureArgument,
    PredictionsArgument,
    ReportArgument,
    Rules,
    SliceOption,
    Summary,
    selected,
)
from ray_brats.engine import cluster
from ray_brats.errors import CaseError, UsageError
from ray_brats.files import storage
from ray_brats.labels import Release
from ray_brats.progress import say_done
from ray_brats.training import log


def evaluate(
    predictions: PredictionsArgument,
    cohort: CohortArgument,
    report: ReportArgument,
    /,
    *,
    split: str | None = None,
    subset: str | None = None,
    release: Release | None = None,
    rules: Rules = "both",
    against: tuple[str, ...] = (),
    run: str | None = None,
) -> Summary:
    """Compare masks with the cohort's segmentations: tables, summary and report.html.

    Args:
        predictions: Holds <case_id>.nii.gz.
        cohort: Folder, s3:// prefix or CSV with segmentations.
        report: Where the report goes.
        split: CSV with case_id and split.
        subset: Only the cases of this subset of the split.
        release: Whose labels the masks carry, where file names do not tell.
        rules: Whole-mask scores, lesion-wise scores (BraTS 2023), or both.
        against: Other folders of masks for the same cases: paired tests and a ranking.
        run: What train wrote; its curves go into the report.
    """
    found = selected(cohort, split, subset, release)
    training = log.read(storage.absolute(run)) if run else []
    if run and not training:
        raise UsageError(f"--run {run}: no {log.FILE} there; expected what train wrote")
    target = storage.absolute(report)
    with cluster.running() as there:
        cluster.check_shared(target, there)
        return measure(
            storage.absolute(predictions),
            found,
            target,
            release=release,
            rules=rules,
            against=[storage.absolute(uri) for uri in against],
            training=training,
        )


def measure(predictions: str, found: Cohort, report: str, **options: Any) -> Summary:
    """`evaluate` for a cohort that is found already, inside a running Ray."""
    from ray_brats.stages import evaluate as stage

    summary = stage.evaluate(predictions, found, report, **options)
    say_done("evaluate", summary)
    return summary


def show(
    case: CaseArgument,
    picture: PictureArgument,
    /,
    *,
    slice_index: SliceOption = None,
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    prediction: str | None = None,
    animate: bool = False,
    release: Release | None = None,
) -> Summary:
    """Draw a case: its modalities and the mask in colour, one picture.

    Args:
        case: Folder of one case.
        picture: Where the picture goes; .png, .pdf, .svg, or .gif for all slices in turn.
        slice_index: Which slice; by default the one with most tumour.
        plane: Which way the slice lies.
        prediction: A mask to draw beside the case's own.
        animate: Go through all slices; the picture is a .gif.
        release: What the labels mean, where file names do not tell.
    """
    from ray_brats.report import figures

    suffix = figures.check_name(storage.name_of(picture))
    if animate and suffix != figures.ANIMATED:
        raise UsageError(f"--animate writes {figures.ANIMATED}: expected OUT.gif, not {picture}")
    if suffix == figures.ANIMATED and slice_index is not None:
        raise UsageError("--slice is one slice, a .gif goes through all: leave one of them out")
    found = cohorts.find(case, release=release)
    if len(found.cases) != 1:
        raise UsageError(
            f"{case} holds {len(found.cases)} usable cases: expected the folder of one case"
        )
    (one,) = found.cases
    try:
        images, label, other, spacing_mm = _volumes(one, prediction, release)
    except CaseError as error:
        raise UsageError(str(error)) from error
    target = storage.absolute(picture)
    drawn: dict[str, Any] = {"plane": plane, "title": one.case_id, "spacing_mm": spacing_mm}
    if suffix == figures.ANIMATED:
        storage.write_bytes(target, figures.animate_case(images, label, other, **drawn))
    else:
        figure = figures.draw_case(images, label, other, slice_index=slice_index, **drawn)
        figures.save_figure(figure, target)
    return {"picture": picture, "case_id": one.case_id, "failures": []}


def _volumes(one: Case, prediction: str | None, release: str | None) -> tuple[Any, Any, Any, Any]:
    """Up to three modalities of a case, its mask, the predicted one, and the voxel size in mm.

    All lie on the grid of the first modality, or the case is rejected.
    """
    from ray_brats.cases import volume
    from ray_brats.errors import CaseRejected

    names = [name for name in ("flair", "t1ce", "t2", "t1") if name in one.images][:3]
    images = {name: volume.read(one.images[name]) for name in names}
    if not images:
        raise CaseRejected(f"{one.case_id} has no image to draw")
    first = next(iter(images.values())).geometry
    for name, item in images.items():
        if difference := same_grid(item.geometry, first):
            raise CaseRejected(f"not on the grid of the case: {difference}", one.images[name])
    if not any(item.voxels_HWD.any() for item in images.values()):
        raise CaseRejected(f"{one.case_id} has nothing to draw: all its voxels are 0")
    uris = (one.segmentation, storage.absolute(prediction) if prediction else None)
    label, other = (
        volume.read_mask(uri, one.release or release, grid=first) if uri else None for uri in uris
    )
    return {name: item.voxels_HWD for name, item in images.items()}, label, other, first.spacing_mm
