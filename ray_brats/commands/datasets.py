"""The commands `check` and `preprocess`: from a cohort to a dataset."""

from __future__ import annotations

import dataclasses
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from ray_brats.cases import anatomy
from ray_brats.cases import cohort as cohorts
from ray_brats.cases.case import Cohort
from ray_brats.commands.arguments import (
    CohortArgument,
    CsvOption,
    DatasetArgument,
    RecipeChoice,
    TaskOption,
    check_inputs,
    found,
    with_splits,
)
from ray_brats.errors import UsageError
from ray_brats.files import ledger, ownership, storage
from ray_brats.files.ledger import Summary
from ray_brats.files.packed import Packed
from ray_brats.progress import Progress, say, say_done
from ray_brats.recipes import tasks
from ray_brats.recipes.config import Recipe

if TYPE_CHECKING:
    from ray_brats.stages.preprocess import PreprocessSummary

CHECK_THREADS = 16
"""Cases looked at side by side in a bucket, where waiting takes the time."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Find and check the cases of a cohort without writing anything."""

    cohort: CohortArgument
    """Folder, s3:// prefix, or CSV with case_id and one URI column per modality."""
    recipe: RecipeChoice = field(default_factory=RecipeChoice)
    task: TaskOption = None
    """What the labels mean, where file names do not tell: gli-2021, gli-post, ped …, or a file."""
    deep: bool = False
    """Read every voxel, not only headers, masks and what headers leave open."""


def check(options: CheckOptions) -> Summary:
    """Find and check the cases of a cohort without writing anything."""
    from ray_brats.cases.inspection import check_case

    config = options.recipe.read().preprocess
    cohort = cohorts.find(options.cohort, task=cohorts.task_of(options.task))
    cohort.task_or(None)  # What names leave open is asked for before an hour's look.
    for note in (cohorts.sentence(cohort), *cohort.notes, *cohorts.passed_over_lines(cohort)):
        say(f"check: {note}")
    check_inputs(cohort, config)
    looked = [*cohort.rejected]
    threads = CHECK_THREADS if storage.is_remote(cohort.uri) else os.cpu_count() or 2
    with Progress("check", len(cohort.cases)) as progress, ThreadPoolExecutor(threads) as pool:
        look = functools.partial(check_case, config=config, deep=options.deep)
        for number, row in enumerate(pool.map(look, cohort.cases), 1):
            looked.append(row)
            progress.update(number)
    rows = ledger.in_order(looked)
    task = cohort.task_or(None)
    outlines = anatomy.of_rows(rows)
    warnings = anatomy.warnings(outlines, "masks", task) if task else []
    for line in (*ledger.remark_lines(rows), *warnings):
        say(f"check: {line}")
    if any(row.status == "ok" for row in rows) and not options.deep:
        say("check: not every voxel was read; --deep does, and finds files damaged behind headers")
    facts = {
        "cohort": cohort.uri,
        "task": task.name if task else None,
        "notes": [*cohort.notes, *warnings],
        "passed_over": cohorts.passed_over_groups(cohort),
    }
    failures = [row for row in rows if row.is_failure]
    return Summary(facts=facts, counts=ledger.counts(rows), cases=rows, failures=failures)


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """Prepare a cohort for training: crop, normalise, write arrays."""

    cohort: CohortArgument
    """Folder, s3:// prefix or CSV."""
    dataset: DatasetArgument
    """Where the prepared arrays go; finished cases there are not done again."""
    recipe: RecipeChoice = field(default_factory=RecipeChoice)
    split: CsvOption = None
    """CSV with case_id and split (train, val, test); else a seeded fifth is val."""
    task: TaskOption = None
    """What the labels mean, where file names do not tell: gli-2021, gli-post, ped …, or a file."""
    keep_filtered: bool = False
    """Keep cases that the recipe's own rule would leave out."""
    case_limit: Annotated[float, arg(metavar="SECONDS")] = 600.0
    """Seconds that a case may take; one that takes longer is an error."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Decides which fifth of the patients is val."""


def preprocess(options: PreprocessOptions) -> Summary:
    """Prepare a cohort for training, one Ray Data task a case."""
    if options.case_limit <= 0:
        raise UsageError(f"--case-limit {options.case_limit:g}: expected seconds above zero")
    recipe = options.recipe.read()
    target = ownership.output_folder(options.dataset)
    cohort = as_before(found(options.cohort, cohorts.task_of(options.task)), target)
    cohort = with_splits(cohort, options.split, options.seed)
    cohort.task_or(None)  # What names leave open is asked for before Ray starts.
    check_inputs(cohort, recipe.preprocess)
    from ray_brats.engine import cluster

    with cluster.running() as resources:
        cluster.check_shared(target, resources)
        return prepare(
            cohort, target, recipe, options.keep_filtered, limit_seconds=options.case_limit
        )


def as_before(cohort: Cohort, dataset: str) -> Cohort:
    """The cohort read as the task of a dataset that is gone on with, where nothing else tells one.

    So whoever has lost the file of a task needs it no more.
    """
    from ray_brats.training.data import description_uri

    if cohort.possible_tasks() or any(case.task for case in cohort.cases):
        return cohort
    task = tasks.told_by(storage.read_json_or_none(description_uri(dataset)) or {})
    if task is None:
        return cohort
    say(f"labels as in {task.name}, by {description_uri(dataset)}: nothing else tells them")
    cases = Packed(dataclasses.replace(case, task=task) for case in cohort.cases)
    return dataclasses.replace(cohort, cases=cases)


def prepare(
    cohort: Cohort, dataset: str, recipe: Recipe, keep_filtered: bool, **options: Any
) -> PreprocessSummary:
    """`preprocess` for a cohort that is found already, inside a running Ray."""
    from ray_brats.stages import preprocess as stage

    summary = stage.preprocess(
        cohort, cohort.cases, dataset, recipe, keep_filtered=keep_filtered, **options
    )
    for note in summary.notes:
        say(note)
    say_done("preprocess", summary)
    return summary
