"""The commands `evaluate` and `show`: from masks to reports and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from ray_brats.cases.case import Case, Cohort
from ray_brats.commands.arguments import (
    CohortArgument,
    FileOption,
    PredictionsArgument,
    ReleaseOption,
    ReportArgument,
    Rules,
    Selection,
    one_case,
    selected,
)
from ray_brats.errors import CaseError, CaseRejected, UsageError
from ray_brats.files import ledger, ownership, storage
from ray_brats.files.ledger import Summary
from ray_brats.progress import say, say_done

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
    """Whole-mask scores, lesion-wise scores (BraTS 2023), or both."""
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
    from ray_brats.stages.evaluate import Options

    with cluster.running() as resources:
        cluster.check_shared(target, resources)
        return measure(
            places[0],
            cohort,
            target,
            Options(release=options.selection.release, rules=options.rules),
            against=places[1:],
            training=training,
        )


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
    release: ReleaseOption = None
    """What the labels mean, where file names do not tell: brats2018 to brats2024."""


def show(options: ShowOptions) -> Summary:
    """Draw a case: its modalities and the mask in colour, one picture."""
    from ray_brats.report import figures

    picture = options.picture
    suffix = figures.check_name(storage.name_of(picture))
    if options.animate and suffix != figures.ANIMATED:
        raise UsageError(f"--animate writes {figures.ANIMATED}: expected OUT.gif, not {picture}")
    if suffix == figures.ANIMATED and options.slice_index is not None:
        raise UsageError("--slice is one slice, a .gif goes through all: leave one of them out")
    case = one_case(options.case, options.release)
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
    from ray_brats.report import figures

    images, label, other, spacing_mm = _volumes(case, options.prediction, options.release)
    target = storage.absolute(options.picture)
    view: dict[str, Any] = {
        "plane": options.plane,
        "title": case.case_id,
        "spacing_mm": spacing_mm,
    }
    if target.lower().endswith(figures.ANIMATED):
        storage.write_bytes(target, figures.animate_case(images, label, other, **view))
        return
    figure = figures.draw_case(images, label, other, slice_index=options.slice_index, **view)
    figures.save_figure(figure, target)


def _volumes(case: Case, prediction: str | None, release: str | None) -> tuple[Any, Any, Any, Any]:
    """Up to three modalities of a case, its mask, the predicted one, and the voxel size in mm.

    All lie on the grid of the first modality, or the case is rejected.
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
    uris = (case.segmentation, storage.absolute(prediction) if prediction else None)
    label, other = (
        volume.read_mask(uri, case.release or release, grid=grid) if uri else None for uri in uris
    )
    return {name: item.voxels_HWD for name, item in images.items()}, label, other, grid.spacing_mm
