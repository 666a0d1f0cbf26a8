"""`run` and `demo`: every stage in order, each from the files of the one before."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ray_brats.cases import cohort as cohorts
from ray_brats.cases.case import Cohort
from ray_brats.commands import datasets, masks, raw, reports
from ray_brats.commands.arguments import (
    Bundles,
    CohortArgument,
    CountOption,
    CsvOption,
    Length,
    RecipeChoice,
    Rules,
    Selection,
    TaskOption,
    WorkersOption,
    check_inputs,
    found,
    with_splits,
    workers_of,
)
from ray_brats.engine.devices import Device
from ray_brats.errors import UsageError
from ray_brats.files import ledger, ownership, storage
from ray_brats.files.ledger import CaseRow, Summary
from ray_brats.files.packed import Packed
from ray_brats.labels import Task
from ray_brats.progress import say


@dataclass(frozen=True, kw_only=True)
class RunSummary(Summary):
    """What all stages did, each with its own summary."""

    out: str
    preprocess: Summary
    train: Summary
    score: Summary | None = field(default=None, metadata=ledger.OPTIONAL)
    evaluate: Summary | None = field(default=None, metadata=ledger.OPTIONAL)
    report: str | None = field(default=None, metadata=ledger.PLACE | ledger.OPTIONAL)
    picture: str | None = field(default=None, metadata=ledger.PLACE | ledger.OPTIONAL)
    prepare: Summary | None = field(default=None, metadata=ledger.OPTIONAL)
    home_dice: Mapping[str, float] | None = field(default=None, metadata=ledger.OPTIONAL)
    """Raw study to the Dice of all that its mask at home has marked."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """All stages in order, from a cohort to a report; resumable."""

    cohort: CohortArgument
    """Folder, s3:// prefix or CSV with segmentations."""
    out: Annotated[str, Positional, arg(metavar="OUT")]
    """Gets dataset/, run/, predictions/ and report/."""
    recipe: RecipeChoice = field(default_factory=RecipeChoice)
    split: CsvOption = None
    """CSV with case_id and split (train, val, test); else a seeded fifth is val."""
    workers: WorkersOption = None
    """Training processes; by default one a GPU, else two where two cores are free. Of MIN-MAX as
    many work as there is room for, others join later, and each step is that of MAX."""
    device: Device = "auto"
    """GPUs where the cluster has any, or as asked for: a cluster that grows gets them."""
    length: Length = field(default_factory=Length)
    task: TaskOption = None
    """What the labels mean, where file names do not tell: gli-2021, gli-post, ped …, or a file."""
    keep_filtered: bool = False
    """Keep cases that the recipe's own rule would leave out."""
    rules: Rules = "both"
    """BraTS 2023: whole-mask scores, lesion-wise ones, or both (also 2023); or those of 2026."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Decides the split, the initial weights and everything drawn."""


def run(options: RunOptions) -> RunSummary:
    """All stages in order: preprocess, train, export, score and evaluate. Resumable."""
    recipe = options.recipe.read(seed=options.seed, length=options.length)
    team = workers_of(options.workers)
    task = cohorts.task_of(options.task)
    out = ownership.output_folder(options.out)
    dataset, run_uri, predictions, report = (
        storage.join(out, name) for name in ("dataset", "run", "predictions", "report")
    )
    cohort = datasets.as_before(found(options.cohort, task), dataset)
    cohort = with_splits(cohort, options.split, options.seed)
    meant = cohort.task_or(None)  # What names leave open is asked for before Ray starts.
    check_inputs(cohort, recipe.preprocess)
    _check_places(run_uri, predictions, cohort, meant)
    # After the arguments are judged: these take seconds to load.
    from ray_brats.engine import capacity, cluster
    from ray_brats.model import card
    from ray_brats.stages import train as stage
    from ray_brats.stages.evaluate import Options
    from ray_brats.training import log
    from ray_brats.training.data import read_dataset

    with cluster.running() as resources:
        # Each stage takes the nodes that are there when it begins.
        now = functools.partial(cluster.resources, options.device)
        # Before the hours that preprocessing may take.
        capacity.workers_for(team, now())
        cluster.check_shared(out, resources)
        prepared = datasets.prepare(cohort, dataset, recipe, options.keep_filtered)
        data = read_dataset(dataset, recipe)
        trained = stage.train(data, run_uri, recipe, cluster=now(), workers=team, existing="resume")
        summary = RunSummary(
            out=out,
            counts=prepared.counts,
            preprocess=prepared,
            train=trained,
            failures=prepared.failures,
        )
        held_out = _held_out(cohort)
        if not held_out.cases:
            say("no labelled validation case: nothing to segment and evaluate")
            return summary
        chosen = card.choose([trained.bundle])
        scored = masks.segment(held_out, predictions, chosen, now(), task=task)
        raw_3 = recipe.preprocess.raw_3_is_enhancing
        how = Options(task=task, rules=options.rules, raw_3_is_enhancing=raw_3)
        training_log = log.read(run_uri)
        evaluated = reports.measure(predictions, held_out, report, how, training=training_log)
    return dataclasses.replace(
        summary,
        score=scored,
        evaluate=evaluated,
        report=evaluated.report,
        summary=evaluated.summary,
        original_soft_on_crops=trained.validation.get("original_soft_on_crops"),
        failures=_once_each(prepared, scored, evaluated),
    )


def _check_places(run_uri: str, predictions: str, cohort: Cohort, task: Task | None) -> None:
    """`UsageError` where what is there, and would stay, was learnt or written for another task."""
    from ray_brats.model.predictions import check_replaced
    from ray_brats.training import run as runs

    runs.check_task(run_uri, task)
    check_replaced(predictions, task, _held_out(cohort))


def _held_out(cohort: Cohort) -> Cohort:
    """The validation cases that have a reference; rejected ones are reported by preprocessing."""
    cases = Packed(case for case in cohort.cases if case.split == "val" and case.segmentation)
    return dataclasses.replace(cohort, cases=cases, rejected=())


def _once_each(*stages: Summary) -> Sequence[CaseRow]:
    """The first failure of each case, over all stages."""
    failures: dict[str, CaseRow] = {}
    for stage in stages:
        for row in stage.failures:
            failures.setdefault(row.case_id, row)
    return ledger.in_order(failures.values())


_RAW_STUDIES = 2


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Run every stage on phantoms that are made on the spot: needs no data."""

    out: Annotated[str, arg(metavar="FOLDER")] = "ray-brats-demo"
    """Gets cohort/, dataset/, run/, predictions/, report/ and picture.png."""
    cases: Annotated[int, arg(metavar="N")] = 12
    """How many phantoms."""
    shape: Annotated[tuple[int, int, int], arg(metavar="H W D")] = (240, 240, 155)
    """Voxels of a phantom."""
    recipe: RecipeChoice = field(default_factory=lambda: RecipeChoice(recipe="smoke"))
    workers: CountOption = None
    """Training processes; by default one a GPU, else two where two cores are free."""
    length: Length = field(default_factory=Length)
    task: TaskOption = None
    """What grows in the phantoms: gli-2020 (the default), gli-post, ped, met …"""
    raw: bool = False
    """Also take two more phantoms as raw studies, skull on and each series moved, through
    `prepare` and `score --native`; needs the extra [raw]. OUT also gets raw/, truth/, prepared/
    and home/."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Decides the phantoms, the split, the initial weights and everything drawn."""


def demo(options: DemoOptions) -> RunSummary:
    """Run every stage on a phantom cohort that is made on the spot."""
    if options.cases < 2:
        raise UsageError(
            f"--cases {options.cases}: expected at least 2, one to train on and one to test"
        )
    if min(options.shape) < 32:
        raise UsageError(f"--shape {options.shape}: expected at least 32 voxels a side")
    if storage.is_remote(options.out):
        raise UsageError(f"--out {options.out}: the phantom cohort is written to a local folder")
    from ray_brats.cases import phantom
    from ray_brats.model.predictions import mask_name
    from ray_brats.stages.evaluate import MARKER

    task = cohorts.task_of(options.task) or phantom.DEFAULT_TASK
    phantom.check_task(task)
    if options.raw:
        from ray_brats.cases.raw import preparation

        preparation.check_packages(preparation.PreparationOptions(), has_masks=False)
    out = Path(options.out)
    folder, picture = out / "cohort", out / "picture.png"
    # Only a demo that was through has left a picture.
    finished = (out / "report" / MARKER).exists()
    ownership.check_files({"--out": str(picture.absolute())}, (), overwrite=finished)
    sides = "×".join(map(str, options.shape))
    say(f"demo: {options.cases} phantoms of {sides} voxels in {folder}")
    phantom.write_cohort(
        folder, cases=options.cases, shape_vox=options.shape, seed=options.seed, task=task
    )
    summary = run(
        RunOptions(
            cohort=str(folder),
            out=options.out,
            recipe=options.recipe,
            workers=None if options.workers is None else str(options.workers),
            length=options.length,
            seed=options.seed,
            task=options.task,
        )
    )
    table = storage.join(storage.absolute(options.out), "report", "metrics.parquet")
    rows = ledger.read_table(table)
    first = rows[0]["region"]
    pictured = min(rows, key=lambda row: (row["region"] != first, row["dice"]))["case_id"]
    mask = out / "predictions" / mask_name(pictured)
    reports.show(
        reports.ShowOptions(
            case=str(folder / pictured),
            picture=str(picture),
            prediction=str(mask),
            overwrite=True,
            task=options.task,
        )
    )
    summary = dataclasses.replace(summary, picture=str(picture.absolute()))
    return _demo_of_raw(options, summary, task) if options.raw else summary


def _demo_of_raw(options: DemoOptions, summary: RunSummary, task: Task) -> RunSummary:
    """The same network on phantoms as they would leave a scanner."""
    from ray_brats.cases import phantom_head, volume
    from ray_brats.model.predictions import native_name

    out = Path(options.out).absolute()
    studies, truths, cohort, home = (out / name for name in ("raw", "truth", "prepared", "home"))
    say(f"demo: {_RAW_STUDIES} raw studies in {studies}")
    names = phantom_head.write_studies(
        studies,
        truths,
        range(options.cases + 1, options.cases + 1 + _RAW_STUDIES),
        shape_vox=options.shape,
        seed=options.seed,
        task=task,
    )
    prepared = raw.prepare(raw.PrepareOptions(raw=str(studies), cohort=str(cohort), names="folder"))
    failures = [*summary.failures, *prepared.failures]
    dice: dict[str, float] = {}
    if (prepared.counts or {}).get("ok"):
        scored = masks.score(
            masks.ScoreOptions(
                cohort=str(cohort),
                predictions=str(home),
                bundles=Bundles(bundle=(str(out / "run" / "bundle"),)),
                selection=Selection(task=task.name),
                native=str(studies),
                workers=options.workers,
            )
        )
        failures += scored.failures
    for name in names:
        if (made := home / native_name(name)).exists():
            one = volume.read_mask(str(made), task) > 0
            other = volume.read_mask(str(truths / f"{name}.nii.gz"), task) > 0
            both = max(1, int(one.sum() + other.sum()))
            dice[name] = round(2 * int((one & other).sum()) / both, 4)
            say(f"demo: {name}: Dice of its mask on the scanner's own grid {dice[name]:.3f}")
    return dataclasses.replace(summary, prepare=prepared, home_dice=dice, failures=failures)
