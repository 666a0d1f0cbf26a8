"""The commands `score` and `submit`: from a cohort to masks, and to a challenge's zip."""

from __future__ import annotations

import functools
from typing import Literal

from ray_brats.cases.case import Cohort
from ray_brats.commands.arguments import (
    ArchiveArgument,
    CohortArgument,
    PredictionsArgument,
    Summary,
    selected,
)
from ray_brats.engine import cluster
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.labels import Release
from ray_brats.model import card as modelcard
from ray_brats.model.predictions import Predictions
from ray_brats.progress import say, say_done


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
        from ray_brats.stages import remote as remotes

        found = selected(cohort, split, subset, release)
        summary = remotes.score_through(
            remotes.connect(endpoint, model),
            found,
            storage.absolute(predictions),
            release=release,
            workers=workers,
        )
        say_done("score", summary)
        return summary
    if model is not None:
        raise UsageError("--model names a model of --endpoint, which is missing")
    bundles = [modelcard.uri_of(uri) for uri in bundle or (modelcard.STARTER,)]
    chosen = modelcard.choose(bundles, bundle_sha256, tta=tta, overlap=overlap)
    found, target = selected(cohort, split, subset, release), storage.absolute(predictions)
    with cluster.running() as there:
        cluster.check_shared(target, there)
        return segment(
            found,
            target,
            chosen,
            there,
            release=release,
            workers=workers,
        )


def segment(
    found: Cohort,
    predictions: str,
    chosen: modelcard.Chosen,
    there: cluster.Resources,
    *,
    release: str | None,
    workers: int | None = None,
) -> Summary:
    """`score` for a cohort that is found already, inside a running Ray."""
    from ray_brats.stages import score as stage

    summary = stage.score(
        found,
        Predictions(
            uri=predictions,
            identity=chosen.identity,
            preprocessing=chosen.recipe.preprocess,
            release=found.release_or(release) or chosen.release,
        ),
        make_segmenter=functools.partial(
            stage.load_predictor, chosen.uris, chosen.sha256, chosen.tta, chosen.overlap
        ),
        cluster=there,
        workers=workers,
    )
    say_done("score", summary)
    card = chosen.cards[0]
    if len(chosen.cards) == 1 and chosen.tta is None and chosen.overlap is None:
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
    from ray_brats.stages import submission

    found = selected(cohort, split, subset, release)
    places = storage.absolute(predictions), storage.absolute(archive)
    summary = submission.submit(found, *places, release=release)
    for note in summary["notes"]:
        say(f"submit: {note}")
    return summary
