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
from typing import Annotated, Any, Literal

import tyro

from ray_brats import cohort as cohorts
from ray_brats import engine, ledger, modelcard, recipes, runlog, splits, storage
from ray_brats.cohort import Case, Cohort
from ray_brats.config import Recipe
from ray_brats.errors import CaseError, UsageError
from ray_brats.geometry import same_grid
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
ArchiveArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.zip")]
PictureArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.png")]
SliceOption = Annotated[int | None, tyro.conf.arg(name="slice")]
SetOption = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="PART.FIELD=VALUE")]
CHECK_THREADS = 16
"""Against a bucket, where waiting takes the time."""
Rules = Literal["legacy", "lesionwise", "both"]


def check(
    cohort: CohortArgument,
    /,
    *,
    recipe: RecipeName = "standard",
    release: Release | None = None,
    deep: bool = False,
) -> Summary:
    """Find and check the cases of a cohort without writing anything.

    Args:
        cohort: Folder, s3:// prefix, or CSV with case_id and one URI column per modality.
        recipe: Whose modalities and rules are asked for.
        release: What the labels mean, where file names do not tell.
        deep: Read every voxel, not only headers, masks and what headers leave open.
    """
    from ray_brats.inspection import check_case

    found = cohorts.find(cohort, release=release)
    for note in (cohorts.sentence(found), *found.notes):
        say(f"check: {note}")
    options = recipes.get(recipe).preprocess
    rows: list[dict[str, Any]] = [dict(row) for row in found.rejected]
    threads = CHECK_THREADS if storage.is_remote(found.uri) else os.cpu_count() or 2
    with Progress("check", len(found.cases)) as progress, ThreadPoolExecutor(threads) as pool:
        look = functools.partial(check_case, config=options, deep=deep)
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
    case_limit: float = 600.0,
    seed: int = 0,
    settings: SetOption = (),
) -> Summary:
    """Prepare a cohort for training: crop, normalise, write arrays; one Ray Data task a case.

    Args:
        cohort: Folder, s3:// prefix or CSV.
        dataset: Where the prepared arrays go; finished cases there are not done again.
        recipe: Whose preprocessing is applied.
        split: CSV with case_id and split (train, val, test); else a seeded fifth is val.
        release: What the labels mean, where file names do not tell.
        keep_filtered: Keep cases that the recipe's own rule would leave out.
        case_limit: Seconds that a case may take; one that takes longer is an error.
        seed: Decides which fifth of the patients is val.
        settings: Fields of the recipe, as preprocess.modalities=t1ce,flair.
    """
    if case_limit <= 0:
        raise UsageError(f"--case-limit {case_limit:g}: expected seconds above zero")
    chosen = recipes.get(recipe, settings=settings)
    found = with_splits(cohorts.find(cohort, release=release), split, seed)
    target = storage.absolute(dataset)
    with engine.running():
        return prepare(found, target, chosen, keep_filtered, limit_seconds=case_limit)


def with_splits(found: Cohort, split: str | None, seed: int) -> Cohort:
    """The cohort with a split for every case: the CSV's, its own, or a seeded fifth as val."""
    given = _read_split(split, found)
    cases = splits.assign(found.cases, given, seed)
    divided = splits.divided(cases)
    if divided:
        say(
            f"warning: the split divides {len(divided)} patient(s), {divided[0]} among them, whose "
            "other scans the network will know: its scores will be too good"
        )
    return dataclasses.replace(found, cases=tuple(cases))


def prepare(
    found: Cohort, dataset: str, recipe: Recipe, keep_filtered: bool, **options: Any
) -> Summary:
    """`preprocess` for a cohort that is found already, inside a running Ray."""
    from ray_brats import dataset as stage

    summary = stage.preprocess(
        found, found.cases, dataset, recipe, keep_filtered=keep_filtered, **options
    )
    for note in summary["notes"]:
        say(note)
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
    settings: SetOption = (),
    hang_seconds: float = 600.0,
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
        resume: Go on with a run that exists, also to a greater length; start it where none is.
        seed: Of the initial weights and of everything drawn.
        settings: Fields of the recipe, as train.clip_norm=12 network.widths=16,32,64,128.
        hang_seconds: A worker that makes no step for so long is ended and started again.
    """
    from ray_brats import train as stage

    chosen = recipes.get(recipe, minutes=minutes, steps=steps, seed=seed, settings=settings)
    with engine.running() as there:
        return stage.train(
            storage.absolute(dataset),
            storage.absolute(run),
            chosen,
            there=there,
            workers=workers,
            fold=fold,
            resume=resume,
            extend=True,
            hang_seconds=hang_seconds,
        )


def export(
    run: RunArgument,
    bundle: BundleArgument,
    /,
    *,
    checkpoint: str | None = None,
    slim: bool = False,
) -> Summary:
    """Export a checkpoint of a run as a bundle: SavedModel, .keras, .h5 and model card.

    Args:
        run: What train wrote.
        bundle: Where the bundle goes.
        checkpoint: Name below RUN/checkpoints; by default the best by validation.
        slim: Without .keras and .h5: score and serve need the SavedModel alone.
    """
    with engine.silenced():
        from ray_brats import export as stage

    target = storage.absolute(bundle)
    card = stage.export_run(storage.absolute(run), target, checkpoint, slim=slim)
    return {"bundle": target, "measured": card["measured"], "failures": []}


def score(
    cohort: CohortArgument,
    predictions: PredictionsArgument,
    /,
    *,
    bundle: tuple[str, ...] = (),
    bundle_sha256: tuple[str, ...] = (),
    split: str | None = None,
    subset: str | None = None,
    release: Release | None = None,
    tta: Literal["none", "flips"] | None = None,
    overlap: float | None = None,
    workers: int | None = None,
    endpoint: str | None = None,
    model: str | None = None,
) -> Summary:
    """Segment a whole cohort: one mask a case, in its own grid, and a ledger.

    Args:
        cohort: Folder, s3:// prefix or CSV.
        predictions: Where <case_id>.nii.gz and scores.parquet go.
        bundle: One or several bundles; the probabilities of several are averaged; by default the
            starter model, where the installation has one. A SavedModel can read and write files,
            so name only bundles you trust.
        bundle_sha256: Of each bundle's bundle.json: any other bundle is refused.
        split: CSV with case_id and split.
        subset: Only the cases of this subset of the split.
        release: Whose labels the masks carry, where file names do not tell.
        tta: Average over mirrored inputs; by default as the bundle says.
        overlap: Segment by sliding windows that overlap by this share (0-1).
        workers: Processes that keep the model loaded; by default one a GPU, else one for two cores.
            With an endpoint: requests side by side, by default 4.
        endpoint: URL of a running `ray-brats serve`, which segments in place of bundles here; its
            key is taken from RAY_BRATS_API_KEY.
        model: Name of the endpoint's model; by default its own default.
    """
    if endpoint is not None:
        options = (bundle, bundle_sha256, tta, overlap)
        if any(option not in (None, ()) for option in options):
            raise UsageError(
                "--endpoint has its own bundles and options: leave out --bundle, --bundle-sha256, "
                "--tta and --overlap"
            )
        if workers is not None and workers < 1:
            raise UsageError(f"--workers {workers}: expected at least one")
        from ray_brats import endpoint as remotes

        found = _selected(cohort, split, subset, release)
        summary = remotes.score_through(
            remotes.connect(endpoint, model),
            found,
            storage.absolute(predictions),
            release=release,
            workers=workers,
        )
        _say_done("score", summary)
        return summary
    if model is not None:
        raise UsageError("--model names a model of --endpoint, which is missing")
    found = _selected(cohort, split, subset, release)
    with engine.running() as there:
        return segment(
            found,
            storage.absolute(predictions),
            [modelcard.uri_of(uri) for uri in bundle or (modelcard.STARTER,)],
            there,
            release=release,
            pinned=bundle_sha256,
            tta=tta,
            overlap=overlap,
            workers=workers,
        )


def _selected(cohort: str, split: str | None, subset: str | None, release: str | None) -> Cohort:
    found = cohorts.find(cohort, release=release)
    if split and subset is None:
        say("warning: --split without --subset chooses nothing: all cases are taken")
    return splits.select(found, _read_split(split, found), subset)


def _read_split(split: str | None, found: Cohort) -> dict[str, str] | None:
    if split is None:
        return None
    given = splits.read(storage.absolute(split))
    absent = splits.unknown(found, given)
    if absent:
        say(
            f"warning: {split} names {len(absent)} case(s) that {found.uri} does not hold, "
            f"{absent[0]} among them"
        )
    return given


def segment(
    found: Cohort,
    predictions: str,
    bundles: Sequence[str],
    there: engine.Resources,
    *,
    release: str | None,
    pinned: Sequence[str] = (),
    tta: str | None = None,
    overlap: float | None = None,
    workers: int | None = None,
) -> Summary:
    """`score` for a cohort that is found already, inside a running Ray."""
    from ray_brats import score as stage

    if pinned and len(pinned) != len(bundles):
        raise UsageError(
            f"--bundle-sha256 names {len(pinned)} and --bundle {len(bundles)}: expected one each"
        )
    pins = pinned or (None,) * len(bundles)
    read = [modelcard.read(uri, pinned=pin) for uri, pin in zip(bundles, pins, strict=True)]
    recipe, bundle_release = stage.describe_bundles([card for card, _ in read])
    identities = tuple(sha256 for _, sha256 in read)
    summary = stage.score(
        found,
        predictions,
        make_segmenter=functools.partial(
            stage.load_predictor, tuple(bundles), identities, tta, overlap
        ),
        identity={"bundles": list(identities), "options": {"tta": tta, "overlap": overlap}},
        preprocessing=recipe.preprocess,
        release=release or bundle_release,
        there=there,
        workers=workers,
    )
    _say_done("score", summary)
    card, _ = read[0]
    if len(read) == 1 and tta is None and overlap is None:
        # Of several bundles, or of other options than the card's, nobody measured the masks.
        summary["measured"] = card.get("measured")
        say(f"score: {modelcard.quality(card)}")
    if "intended_use" in card:
        say(f"score: {card['intended_use']}")
    return summary


def submit(
    predictions: PredictionsArgument,
    cohort: CohortArgument,
    archive: ArchiveArgument,
    /,
    *,
    split: str | None = None,
    subset: str | None = None,
    release: Release | None = None,
) -> Summary:
    """Check the masks of a whole cohort and write the challenge's zip; a problem leaves none.

    Args:
        predictions: Holds <case_id>.nii.gz.
        cohort: The cases the challenge asks for: folder, s3:// prefix or CSV.
        archive: Where the zip goes.
        split: CSV with case_id and split.
        subset: Only the cases of this subset of the split.
        release: Whose labels the masks carry, where file names do not tell.
    """
    from ray_brats import submission

    found = _selected(cohort, split, subset, release)
    places = storage.absolute(predictions), storage.absolute(archive)
    summary = submission.submit(found, *places, release=release)
    for note in summary["notes"]:
        say(f"submit: {note}")
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
    found = _selected(cohort, split, subset, release)
    training = runlog.read(storage.absolute(run)) if run else []
    if run and not training:
        raise UsageError(f"--run {run}: no {runlog.FILE} there; expected what train wrote")
    with engine.running():
        return measure(
            storage.absolute(predictions),
            found,
            storage.absolute(report),
            release=release,
            rules=rules,
            against=[storage.absolute(uri) for uri in against],
            training=training,
        )


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
    from ray_brats import figures

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
    from ray_brats import volume
    from ray_brats.errors import CaseRejected

    names = [name for name in ("flair", "t1ce", "t2", "t1") if name in one.images][:3]
    images = {name: volume.read(one.images[name]) for name in names}
    if not images:
        raise CaseRejected(f"{one.case_id} has no image to draw")
    first = next(iter(images.values())).geometry
    for name, item in images.items():
        if difference := same_grid(item.geometry, first):
            raise CaseRejected(f"not on the grid of the case: {difference}", one.images[name])
    uris = (one.segmentation, storage.absolute(prediction) if prediction else None)
    label, other = (
        volume.read_mask(uri, one.release or release, grid=first) if uri else None for uri in uris
    )
    return {name: item.voxels_HWD for name, item in images.items()}, label, other, first.spacing_mm
