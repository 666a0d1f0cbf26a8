"""The commands, one function each: files in, files out, a summary back.

They join the stages, which do not know each other. Their arguments and docstrings are the
command line's options and help. Every summary is plain JSON with `failures`, rows of
`case_id, status, reason, file`, and `counts` of cases by status where there are cases.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ray_brats import cohort as cohorts
from ray_brats import engine, ledger, recipes, storage
from ray_brats.cohort import Case, Cohort
from ray_brats.config import Recipe
from ray_brats.errors import CaseError, UsageError
from ray_brats.labels import Release
from ray_brats.progress import Progress, say
from ray_brats.recipes import RecipeName

Summary = dict[str, Any]
CohortArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="COHORT")]
DatasetArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
RunArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
BundleArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
PredictionsArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PREDICTIONS")]
ReportArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPORT")]
OutArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
CaseArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CASE")]
PictureArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.png")]
SliceOption = Annotated[int | None, tyro.conf.arg(name="slice")]
Rules = Literal["legacy", "lesionwise", "both"]


def check(
    cohort: CohortArgument, /, *, recipe: RecipeName = "standard", release: Release | None = None
) -> Summary:
    """Find and read the cases of a cohort without writing anything.

    Args:
        cohort: Folder, s3:// prefix, or CSV with case_id and one URI column per modality.
        recipe: Whose modalities and rules are asked for.
        release: What the labels mean, where file names do not tell.
    """
    from ray_brats.preprocess import preprocess_case

    found = cohorts.find(cohort, release=release)
    options = recipes.get(recipe).preprocess

    def look(case: Case) -> dict[str, Any]:
        row: dict[str, Any] = {"case_id": case.case_id, "patient_id": case.patient_id}
        row |= {"masked": case.segmentation is not None, "reason": "", "file": ""}
        try:
            prepared = preprocess_case(case, options)
        except CaseError as error:
            return {**row, "status": error.status, "reason": error.reason, "file": error.file}
        return {**row, "status": "ok", "shape_vox": list(prepared.geometry.canonical_shape)}

    rows: list[dict[str, Any]] = [dict(row) for row in found.rejected]
    threads = ThreadPoolExecutor(os.cpu_count() or 2)
    with Progress("check", len(found.cases)) as progress, threads as pool:
        for number, row in enumerate(pool.map(look, found.cases), 1):
            rows.append(row)
            progress.update(number)
    rows = ledger.in_order(rows)
    return {
        "cohort": found.uri,
        "release": found.release_or(release),
        "notes": list(found.notes),
        "counts": ledger.counts(rows),
        "cases": rows,
        "failures": [row for row in rows if row["status"] in ("rejected", "error")],
    }


def preprocess(
    cohort: CohortArgument,
    dataset: DatasetArgument,
    /,
    *,
    recipe: RecipeName = "standard",
    split: str | None = None,
    release: Release | None = None,
    keep_filtered: bool = False,
    seed: int = 0,
) -> Summary:
    """Prepare a cohort for training: crop, normalise, write arrays; one Ray Data task a case.

    Args:
        cohort: Folder, s3:// prefix or CSV.
        dataset: Where the prepared arrays go; finished cases there are not done again.
        recipe: Whose preprocessing is applied.
        split: CSV with case_id and split (train, val, test); else a seeded fifth is val.
        release: What the labels mean, where file names do not tell.
        keep_filtered: Keep cases that the recipe's own rule would leave out.
        seed: Decides which fifth of the patients is val.
    """
    found = with_splits(cohorts.find(cohort, release=release), split, seed)
    with engine.running():
        return prepare(found, storage.absolute(dataset), recipes.get(recipe), keep_filtered)


def with_splits(found: Cohort, split: str | None, seed: int) -> Cohort:
    """The cohort with a split for every case: the CSV's, its own, or a seeded fifth as val."""
    given = cohorts.read_split(storage.absolute(split)) if split else None
    cases = cohorts.assign_splits(found.cases, given, seed)
    return dataclasses.replace(found, cases=tuple(cases))


def prepare(found: Cohort, dataset: str, recipe: Recipe, keep_filtered: bool) -> Summary:
    """`preprocess` for a cohort that is found already, inside a running Ray."""
    from ray_brats import dataset as stage

    for note in found.notes:
        say(note)
    summary = stage.preprocess(found, found.cases, dataset, recipe, keep_filtered=keep_filtered)
    _say_done("preprocess", summary)
    return summary


def _say_done(stage: str, summary: Mapping[str, Any]) -> None:
    done, skipped = summary["processed"], summary["skipped"]
    if not done and skipped:
        say(f"{stage}: all {skipped} cases were finished before; nothing to do")
    elif skipped:
        say(f"{stage}: {done} cases done now, {skipped} finished before")


def train(
    dataset: DatasetArgument,
    run: RunArgument,
    /,
    *,
    recipe: RecipeName = "standard",
    workers: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    fold: int | None = None,
    resume: bool = False,
    seed: int = 0,
) -> Summary:
    """Train a network, data-parallel, and export the best checkpoint as RUN/bundle.

    Args:
        dataset: What preprocess wrote, by the same recipe.
        run: Where the run goes.
        recipe: Network, loss and schedule.
        workers: Training processes; by default one a GPU, else two where two cores are free.
        minutes: Length by the clock, validation included.
        steps: Length in optimizer steps.
        fold: Validate with this fold of five (0-4) instead of the dataset's split.
        resume: Go on with a run that exists; start it where there is none.
        seed: Of the initial weights and of everything drawn.
    """
    from ray_brats import train as stage

    chosen = recipes.get(recipe, minutes=minutes, steps=steps, seed=seed)
    with engine.running() as there:
        return stage.train(
            storage.absolute(dataset),
            storage.absolute(run),
            chosen,
            there=there,
            workers=workers,
            fold=fold,
            resume=resume,
        )


def export(
    run: RunArgument, bundle: BundleArgument, /, *, checkpoint: str | None = None
) -> Summary:
    """Export a checkpoint of a run as a bundle: SavedModel, .keras, .h5 and model card.

    Args:
        run: What train wrote.
        bundle: Where the bundle goes.
        checkpoint: Name below RUN/checkpoints; by default the best by validation.
    """
    with engine.silenced():
        from ray_brats import export as stage

    target = storage.absolute(bundle)
    card = stage.export_run(storage.absolute(run), target, checkpoint)
    return {"bundle": target, "measured": card["measured"], "failures": []}


def score(
    cohort: CohortArgument,
    predictions: PredictionsArgument,
    /,
    *,
    bundle: tuple[str, ...] = (),
    split: str | None = None,
    subset: str | None = None,
    release: Release | None = None,
    tta: Literal["none", "flips"] | None = None,
    overlap: float | None = None,
    workers: int | None = None,
) -> Summary:
    """Segment a whole cohort: one mask a case, in its own grid, and a ledger.

    Args:
        cohort: Folder, s3:// prefix or CSV.
        predictions: Where <case_id>.nii.gz and scores.parquet go.
        bundle: One or several bundles; the probabilities of several are averaged. A SavedModel
            can read and write files, so name only bundles you trust.
        split: CSV with case_id and split.
        subset: Only the cases of this subset of the split.
        release: Whose labels the masks carry, where file names do not tell.
        tta: Average over mirrored inputs; by default as the bundle says.
        overlap: Segment by sliding windows that overlap by this share (0-1).
        workers: Processes that keep the model loaded; by default one a GPU, else one for two cores.
    """
    found = _selected(cohort, split, subset, release)
    with engine.running() as there:
        return segment(
            found,
            storage.absolute(predictions),
            [storage.absolute(uri) for uri in bundle],
            there,
            release=release,
            tta=tta,
            overlap=overlap,
            workers=workers,
        )


def _selected(cohort: str, split: str | None, subset: str | None, release: str | None) -> Cohort:
    given = cohorts.read_split(storage.absolute(split)) if split else None
    return cohorts.select(cohorts.find(cohort, release=release), given, subset)


def segment(
    found: Cohort,
    predictions: str,
    bundles: Sequence[str],
    there: engine.Resources,
    *,
    release: str | None,
    tta: str | None = None,
    overlap: float | None = None,
    workers: int | None = None,
) -> Summary:
    """`score` for a cohort that is found already, inside a running Ray."""
    with engine.silenced():
        from ray_brats import bundle as bundle_files
        from ray_brats import score as stage

    if not bundles:
        raise UsageError("no --bundle: expected the bundle/ folder that `ray-brats train` writes")
    cards = [bundle_files.read_card(uri) for uri in bundles]
    recipe, bundle_release = stage.describe_bundles(cards)
    summary = stage.score(
        found,
        predictions,
        make_predictor=functools.partial(
            bundle_files.load_predictor, tuple(bundles), tta=tta, overlap=overlap
        ),
        identity={
            "bundles": [bundle_files.card_sha256(card) for card in cards],
            "options": {"tta": tta, "overlap": overlap},
        },
        modalities=recipe.preprocess.modalities,
        release=release or bundle_release,
        there=there,
        workers=workers,
    )
    _say_done("score", summary)
    return summary


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
    """
    found = _selected(cohort, split, subset, release)
    places = storage.absolute(predictions), storage.absolute(report)
    with engine.running():
        return measure(places[0], found, places[1], release=release, rules=rules)


def measure(predictions: str, found: Cohort, report: str, **options: Any) -> Summary:
    """`evaluate` for a cohort that is found already, inside a running Ray."""
    from ray_brats import evaluate as stage

    summary = stage.evaluate(predictions, found, report, **options)
    _say_done("evaluate", summary)
    return summary


def show(
    case: CaseArgument,
    picture: PictureArgument,
    /,
    *,
    slice_index: SliceOption = None,
    prediction: str | None = None,
    release: Release | None = None,
) -> Summary:
    """Draw a case: its modalities and the mask in colour, one picture.

    Args:
        case: Folder of one case.
        picture: Where the picture goes; .png, .pdf or .svg.
        slice_index: Axial slice; by default the one with most tumour.
        prediction: A mask to draw beside the case's own.
        release: What the labels mean, where file names do not tell.
    """
    from ray_brats import figures, volume

    found = cohorts.find(case, release=release)
    if len(found.cases) != 1:
        raise UsageError(
            f"{case} holds {len(found.cases)} usable cases: expected the folder of one case"
        )
    (one,) = found.cases
    names = [name for name in ("flair", "t1ce", "t2", "t1") if name in one.images]
    try:
        volumes = {name: volume.read(one.images[name]) for name in names[:3]}
        first = next(iter(volumes.values())).geometry
        masks = {
            uri: volume.read_mask(uri, one.release or release, grid=first)
            for uri in (one.segmentation, storage.absolute(prediction) if prediction else None)
            if uri
        }
    except CaseError as error:
        raise UsageError(str(error)) from error
    figure = figures.draw_case(
        {name: item.voxels_HWD for name, item in volumes.items()},
        masks.get(one.segmentation or ""),
        masks.get(storage.absolute(prediction)) if prediction else None,
        slice_index=slice_index,
        title=one.case_id,
        spacing_mm=first.spacing_mm,
    )
    figures.save_figure(figure, Path(picture))
    return {"picture": picture, "case_id": one.case_id, "failures": []}
