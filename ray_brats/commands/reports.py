"""The commands `evaluate` and `show`: from masks to reports and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from ray_brats.cases import cohort as cohorts
from ray_brats.cases import naming
from ray_brats.cases.case import Case, Cohort
from ray_brats.commands.arguments import (
    CohortArgument,
    FileOption,
    PredictionsArgument,
    ReportArgument,
    Rules,
    Selection,
    TaskOption,
    one_case,
    selected,
)
from ray_brats.errors import CaseError, CaseRejected, UsageError
from ray_brats.files import ledger, ownership, storage
from ray_brats.files.ledger import Summary
from ray_brats.labels import Task
from ray_brats.progress import say, say_done
from ray_brats.recipes import tasks

if TYPE_CHECKING:
    from ray_brats.stages.evaluate import EvaluateSummary, Options


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Compare masks with the cohort's segmentations: tables and report.html."""

    predictions: PredictionsArgument
    """Holds <case_id>.nii.gz."""
    cohort: CohortArgument
    """Folder, s3:// prefix or CSV with segmentations."""
    report: ReportArgument
    """Where the report goes."""
    selection: Selection = field(default_factory=Selection)
    rules: Rules = "both"
    """BraTS 2023: whole-mask scores, lesion-wise ones, or both (also 2023); or those of 2026."""
    against: Annotated[tuple[str, ...], arg(metavar="PREDICTIONS …")] = ()
    """Other folders of masks for the same cases: paired tests and a ranking."""
    run: Annotated[str | None, arg(metavar="RUN")] = None
    """What train wrote; its curves go into the report."""


def evaluate(options: EvaluateOptions) -> Summary:
    """Compare masks with the cohort's segmentations: tables, summary and report.html."""
    from ray_brats.model.predictions import find_masks

    cohort = selected(options.cohort, options.selection)
    training: list[dict[str, Any]] = []
    if options.run:
        from ray_brats.training import log

        training = log.read(storage.absolute(options.run))
        if not training:
            raise UsageError(f"--run {options.run}: no {log.FILE} there; expected what train wrote")
    target = ownership.output_folder(options.report)
    if cohort.cases and not any(case.segmentation for case in cohort.cases):
        raise UsageError(
            f"{cohort.uri}: none of {len(cohort.cases)} case(s) has a mask to compare with: "
            "expected an expert's segmentation beside the scans, as CASE_seg.nii.gz"
        )
    places = [storage.absolute(uri) for uri in (options.predictions, *options.against)]
    # A folder without masks is told before Ray starts, which takes seconds.
    for uri in places:
        find_masks(uri, cohort)
    from ray_brats.engine import cluster
    from ray_brats.stages.evaluate import Options, check_made_for

    how = Options(task=options.selection.meant(), rules=options.rules).of(cohort)
    check_made_for(places, how.task)
    with cluster.running() as resources:
        cluster.check_shared(target, resources)
        return measure(places[0], cohort, target, how, against=places[1:], training=training)


def measure(
    predictions: str,
    cohort: Cohort,
    report: str,
    options: Options,
    *,
    against: Sequence[str] = (),
    training: Sequence[Mapping[str, Any]] = (),
) -> EvaluateSummary:
    """`evaluate` for a cohort that is found already, inside a running Ray."""
    from ray_brats.stages import evaluate as stage

    summary = stage.evaluate(
        predictions, cohort, report, options=options, against=against, training=training
    )
    for note in summary.notes:
        say(f"evaluate: {note}")
    say_done("evaluate", summary)
    return summary


@dataclass(frozen=True, kw_only=True)
class PictureSummary(Summary):
    """What drawing a case left."""

    picture: str = field(metadata=ledger.PLACE)


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Draw a case: its modalities and the mask in colour, one picture."""

    case: Annotated[str, Positional, arg(metavar="CASE")]
    """Folder of one case."""
    picture: Annotated[str, Positional, arg(metavar="OUT.png")]
    """Where the picture goes; .png, .pdf, .svg, or .gif for all slices in turn."""
    slice_index: Annotated[int | None, arg(name="slice", metavar="N")] = None
    """Which slice; by default the one with most tumour."""
    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    """Which way the slice lies."""
    prediction: FileOption = None
    """A mask to draw beside the case's own."""
    animate: bool = False
    """Go through all slices; the picture is a .gif."""
    overwrite: bool = False
    """Replace a picture that is there already, also if it was not made here."""
    task: TaskOption = None
    """What the labels mean, where file names do not tell: gli-2021, gli-post, ped …, or a file."""


def show(options: ShowOptions) -> Summary:
    """Draw a case: its modalities and the mask in colour, one picture."""
    from ray_brats.report import figures

    picture = options.picture
    suffix = figures.check_name(storage.name_of(picture))
    if options.animate and suffix != figures.ANIMATED:
        raise UsageError(f"--animate writes {figures.ANIMATED}: expected OUT.gif, not {picture}")
    if suffix == figures.ANIMATED and options.slice_index is not None:
        raise UsageError("--slice is one slice, a .gif goes through all: leave one of them out")
    case = one_case(options.case, cohorts.task_of(options.task))
    read = [*case.images.values(), *filter(None, [case.segmentation])]
    if options.prediction:
        read.append(storage.absolute(options.prediction))
    written = {"OUT": storage.absolute(picture)}
    ours = filter(figures.is_ours, written.values())
    ownership.check_files(written, read, overwrite=options.overwrite, ours=list(ours))
    try:
        draw(case, options)
    except CaseError as error:
        raise UsageError(str(error)) from error
    return PictureSummary(picture=written["OUT"], facts={"case_id": case.case_id})


def draw(case: Case, options: ShowOptions) -> None:
    """Write the picture of a case; raises `CaseError` where there is nothing to draw."""
    mask = storage.absolute(options.prediction) if options.prediction else None
    made = _made_for(mask, case) if mask else None
    images, label, other, spacing_mm = _volumes(case, mask, made)
    view: dict[str, Any] = {
        "plane": options.plane,
        "title": case.case_id,
        "spacing_mm": spacing_mm,
        "targets": (case.task or made or tasks.DEFAULT).targets,
    }
    draw_arrays(images, label, other, options, view)


def draw_arrays(
    images: Mapping[str, Any], label: Any, other: Any, options: ShowOptions, view: Mapping[str, Any]
) -> None:
    """Write the picture of scans and masks on one grid, seen as a `figures.View` says."""
    from ray_brats.report import figures

    target = storage.absolute(options.picture)
    if target.lower().endswith(figures.ANIMATED):
        storage.write_bytes(target, figures.animate_case(images, label, other, **view))
        return
    figure = figures.draw_case(images, label, other, slice_index=options.slice_index, **view)
    figures.save_figure(figure, target)


def _made_for(prediction: str, case: Case) -> Task | None:
    """The task of a mask by its folder, else that of the case; `UsageError` where these differ."""
    from ray_brats.model import predictions

    made = predictions.made_for(storage.parent_of(prediction))
    possible = [case.task.name] if case.task else naming.tasks_of(case.case_id)
    own = [case.task] if case.task else [tasks.TASKS[name] for name in possible]
    if made and own and all(task.targets != made.targets for task in own):
        raise UsageError(
            f"{prediction} is a mask of the task {made.name}, and the case is of "
            f"{' or '.join(possible)}: expected a mask of the case's own task"
        )
    return made or case.task


def _volumes(case: Case, prediction: str | None, made: Task | None) -> tuple[Any, Any, Any, Any]:
    """Up to three modalities of a case, its mask, the predicted one, and the voxel size in mm.

    All lie on the grid of the first modality, or the case is rejected. `made` is the task of the
    prediction.
    """
    from ray_brats.cases import volume
    from ray_brats.cases.geometry import same_grid

    names = [name for name in ("flair", "t1ce", "t2", "t1") if name in case.images][:3]
    images = {name: volume.read(case.images[name]) for name in names}
    if not images:
        raise CaseRejected(f"{case.case_id} has no image to draw")
    grid = next(iter(images.values())).geometry
    for name, item in images.items():
        if difference := same_grid(item.geometry, grid):
            raise CaseRejected(f"not on the grid of the case: {difference}", case.images[name])
    if not any(item.voxels_HWD.any() for item in images.values()):
        raise CaseRejected(f"{case.case_id} has nothing to draw: all its voxels are 0")
    if case.segmentation and case.task is None:
        # Names that leave a task open are refused with those that they may tell.
        Cohort(uri=case.case_id, cases=(case,)).task_or(None)
    uris, meant = (case.segmentation, prediction), (case.task, made)
    label, other = (
        volume.read_mask(uri, task, grid=grid) if uri else None
        for uri, task in zip(uris, meant, strict=True)
    )
    return {name: item.voxels_HWD for name, item in images.items()}, label, other, grid.spacing_mm
