"""The commands `score` and `submit`: from a cohort to masks, and to a challenge's zip."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ray_brats.cases.case import Cohort
from ray_brats.commands.arguments import (
    Bundles,
    CohortArgument,
    CountOption,
    PredictionsArgument,
    Selection,
    selected,
)
from ray_brats.engine.devices import Device
from ray_brats.errors import UsageError
from ray_brats.files import ownership, storage
from ray_brats.files.ledger import Summary
from ray_brats.labels import Task
from ray_brats.progress import say, say_done

if TYPE_CHECKING:
    from ray_brats.cases.raw.record import Home
    from ray_brats.cases.raw.sources import Source
    from ray_brats.engine.cluster import Resources
    from ray_brats.model.card import Chosen
    from ray_brats.model.predictions import ScoreSummary


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Segment a whole cohort: one mask a case, in its own grid, and a ledger."""

    cohort: CohortArgument
    """Folder, s3:// prefix or CSV."""
    predictions: PredictionsArgument
    """Where <case_id>.nii.gz and scores.parquet go."""
    bundles: Bundles = field(default_factory=Bundles)
    selection: Selection = field(default_factory=Selection)
    workers: CountOption = None
    """Processes that keep the model loaded; by default one a GPU, else one for two cores. With an
    endpoint: requests side by side, by default 4."""
    device: Device = "auto"
    """GPUs where the cluster has any now, or as asked for: a cluster that grows gets them."""
    endpoint: Annotated[str | None, arg(metavar="URL")] = None
    """URL of a running `ray-brats serve`, which segments in place of bundles here; its key is
    taken from RAY_BRATS_API_KEY."""
    model: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the endpoint's model; by default its own default."""
    native: Annotated[str | None, arg(metavar="RAW")] = None
    """The raw studies that COHORT was prepared from: masks also go home to the scanner's own grid,
    that of T1CE, as <case_id>_native.nii.gz."""
    dicom_seg: bool = False
    """With --native: the masks also as DICOM Segmentations that refer to the series in RAW,
    <case_id>_native.dcm."""
    flat: bool = False
    """As challenges run a container: in this process, without Ray or a network, and leaving
    <case_id>.nii.gz in PREDICTIONS and nothing else, there or elsewhere."""


def score(options: ScoreOptions) -> Summary:
    """Segment a whole cohort: one mask a case, in its own grid, and a ledger."""
    if options.flat and (options.endpoint is not None or options.workers is not None):
        raise UsageError("--flat works in this process: leave out --endpoint and --workers")
    if options.native is not None and (options.flat or options.endpoint is not None):
        raise UsageError("--native needs a Ray and bundles here: leave out --flat and --endpoint")
    if options.dicom_seg and options.native is None:
        raise UsageError("--dicom-seg needs --native RAW, whose series Segmentations refer to")
    if options.endpoint is not None:
        return _score_through(options, options.endpoint)
    if options.model is not None:
        raise UsageError("--model names a model of --endpoint, which is missing")
    chosen = options.bundles.choose()
    cohort = selected(options.cohort, options.selection)
    task = chosen.task_of(cohort, options.selection.meant())
    target = ownership.output_folder(options.predictions)
    if f"{target}/".startswith(f"{cohort.uri}/"):
        say(
            f"warning: {target} lies in the cohort itself, whose next listing will have the masks "
            "among the scans: pass a folder beside it"
        )
    if options.flat:
        from ray_brats.commands import flat

        return _told(flat.score(cohort, target, chosen, task), cohort, chosen)
    homes = {} if options.native is None else _homes(cohort, options.native)
    source = None
    if options.native is not None and options.dicom_seg:
        homes, source = _with_sources(homes, options.native, target)
    # After the arguments are judged: Ray takes a second to load.
    from ray_brats.engine import cluster

    with cluster.running() as resources:
        cluster.check_shared(target, resources)
        for home in [home for home in homes.values() if home.sources][:1]:
            cluster.check_seen(str(home.sources[0]), resources)
        summary = segment(
            cohort,
            target,
            chosen,
            resources.asked_for(options.device),
            task=task,
            workers=options.workers,
            homes=homes,
        )
    if source:
        source.forget()
    return summary


def _homes(cohort: Cohort, raw: str) -> dict[str, Home]:
    """Case to the series that its mask goes home to; raises for a cohort that has no way back."""
    from ray_brats.cases.raw import record

    if not storage.list_files(storage.absolute(raw)):
        raise UsageError(f"--native {raw}: no such folder, or nothing in it")
    homes = {}
    for case in cohort.cases:
        uri = storage.join(storage.parent_of(next(case.files())), record.NAME)
        values = storage.read_json_or_none(uri)
        if values is None:
            raise UsageError(
                f"{case.case_id} has no {record.NAME} beside its scans, and so no way back: "
                "expected a cohort that `ray-brats prepare` wrote"
            )
        homes[case.case_id] = record.from_json(values, uri).home
    return homes


def _with_sources(
    homes: Mapping[str, Home], raw: str, target: str
) -> tuple[dict[str, Home], Source]:
    """The homes with the DICOM files of each, where they are in RAW; says where they are not."""
    from ray_brats.cases.raw import sources

    say(f"score: looking for the series in {raw}")
    source = sources.opened(raw, output=target)
    found = {series.source: series.paths for study in source.studies() for series in study.dicom}
    lacking = [case_id for case_id, home in homes.items() if home.source not in found]
    if len(lacking) == len(homes):
        raise UsageError(
            f"--dicom-seg: {raw} holds the DICOM series of no case: expected the studies that the "
            "cohort was prepared from, in DICOM"
        )
    if lacking:
        say(
            f"warning: no DICOM series of {len(lacking)} case(s), {lacking[0]} among them, is there"
        )
    there = {
        case_id: dataclasses.replace(home, sources=found.get(home.source, ()))
        for case_id, home in homes.items()
    }
    return there, source


def _score_through(options: ScoreOptions, endpoint: str) -> Summary:
    """`score` by a running service."""
    if options.bundles != Bundles():
        raise UsageError(
            "--endpoint has its own bundles and options: leave out --bundle, --bundle-sha256, "
            "--tta, --overlap and --allow-skull"
        )
    workers = options.workers
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: expected at least one")
    from ray_brats.stages import remote

    cohort = selected(options.cohort, options.selection)
    summary = remote.score_through(
        remote.connect(endpoint, options.model),
        cohort,
        storage.absolute(options.predictions),
        task=options.selection.meant(),
        workers=workers,
    )
    say_done("score", summary)
    return summary


def segment(
    cohort: Cohort,
    predictions: str,
    chosen: Chosen,
    resources: Resources,
    *,
    task: Task | None,
    workers: int | None = None,
    homes: Mapping[str, Home] | None = None,
) -> ScoreSummary:
    """`score` for a cohort that is found already, inside a running Ray."""
    from ray_brats.model.predictions import Predictions
    from ray_brats.stages import score as stage

    summary = stage.score(
        cohort,
        Predictions(
            uri=predictions,
            identity=chosen.identity,
            preprocessing=chosen.recipe.preprocess,
            task=chosen.task_of(cohort, task),
            homes=homes or {},
        ),
        make_segmenter=functools.partial(
            stage.load_predictor, chosen.uris, chosen.sha256, chosen.asked
        ),
        cluster=resources,
        workers=workers,
    )
    return _told(summary, cohort, chosen)


def _told(summary: ScoreSummary, cohort: Cohort, chosen: Chosen) -> ScoreSummary:
    """Say what was not as usual, and how good such masks are; the summary with the latter."""
    from ray_brats.cases.raw import record
    from ray_brats.model import card as modelcard

    for note in summary.notes:
        say(f"score: {note}")
    say_done("score", summary)
    failed = {row.case_id for row in summary.failures}
    segmented = [case.case_id for case in cohort.cases if case.case_id not in failed]
    # Figures of scans that others had prepared say nothing of raw ones.
    is_raw = storage.exists(storage.join(cohort.uri, record.COHORT_NAME))
    told = modelcard.quality_of(chosen, segmented, segmented if is_raw else summary.remarked)
    for line in (told.sentence, told.why_not, chosen.cards[0].get("intended_use")):
        if line:
            say(f"score: {line}")
    return dataclasses.replace(summary, facts={"measured": told.measured})


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Check the masks of a whole cohort and write the challenge's zip."""

    predictions: PredictionsArgument
    """Holds <case_id>.nii.gz."""
    cohort: CohortArgument
    """The cases the challenge asks for: folder, s3:// prefix or CSV."""
    archive: Annotated[str, Positional, arg(metavar="OUT.zip")]
    """Where the zip goes; a problem of any mask leaves none."""
    selection: Selection = field(default_factory=Selection)
    overwrite: bool = False
    """Replace a zip that is there already, also if it was not made here."""


def submit(options: SubmitOptions) -> Summary:
    """Check the masks of a whole cohort and write the challenge's zip; a problem leaves none."""
    from ray_brats.stages import submission

    cohort = selected(options.cohort, options.selection)
    places = storage.absolute(options.predictions), storage.absolute(options.archive)
    summary = submission.submit(
        cohort, *places, task=options.selection.meant(), overwrite=options.overwrite
    )
    for note in summary.notes:
        say(f"submit: {note}")
    return summary
