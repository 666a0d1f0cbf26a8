"""The commands `check` and `preprocess`: from a cohort to a dataset."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray_brats.cases import cohort as cohorts
from ray_brats.cases.case import Cohort
from ray_brats.commands.arguments import (
    CohortArgument,
    DatasetArgument,
    SetOption,
    Summary,
    with_splits,
)
from ray_brats.engine import cluster
from ray_brats.errors import UsageError
from ray_brats.files import ledger, storage
from ray_brats.labels import Release
from ray_brats.progress import Progress, say, say_done
from ray_brats.recipes import named
from ray_brats.recipes.config import Recipe
from ray_brats.recipes.named import RecipeName

CHECK_THREADS = 16
"""Against a bucket, where waiting takes the time."""


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
    from ray_brats.cases.inspection import check_case

    found = cohorts.find(cohort, release=release)
    for note in (cohorts.sentence(found), *found.notes):
        say(f"check: {note}")
    options = named.get(recipe).preprocess
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
    chosen = named.get(recipe, settings=settings)
    found = with_splits(cohorts.find(cohort, release=release), split, seed)
    target = storage.absolute(dataset)
    with cluster.running() as there:
        cluster.check_shared(target, there)
        return prepare(found, target, chosen, keep_filtered, limit_seconds=case_limit)


def prepare(
    found: Cohort, dataset: str, recipe: Recipe, keep_filtered: bool, **options: Any
) -> Summary:
    """`preprocess` for a cohort that is found already, inside a running Ray."""
    from ray_brats.stages import preprocess as stage

    summary = stage.preprocess(
        found, found.cases, dataset, recipe, keep_filtered=keep_filtered, **options
    )
    for note in summary["notes"]:
        say(note)
    say_done("preprocess", summary)
    return summary
