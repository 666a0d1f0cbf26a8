"""`run` and `demo`: every stage in order, each from the files of the one before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ray_brats.cases import cohort as cohorts
from ray_brats.cases.case import Cohort
from ray_brats.commands import datasets, masks, reports
from ray_brats.commands.arguments import (
    CohortArgument,
    OutArgument,
    Rules,
    SetOption,
    Summary,
    with_splits,
)
from ray_brats.engine import capacity, cluster
from ray_brats.errors import UsageError
from ray_brats.files import ledger, storage
from ray_brats.labels import Release
from ray_brats.model import card
from ray_brats.model.predictions import mask_name
from ray_brats.progress import say
from ray_brats.recipes import named
from ray_brats.recipes.named import RecipeName
from ray_brats.training import log
from ray_brats.training.data import read_dataset


def run(
    cohort: CohortArgument,
    out: OutArgument,
    /,
    *,
    recipe: RecipeName = "standard",
    split: str | None = None,
    workers: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    release: Release | None = None,
    keep_filtered: bool = False,
    rules: Rules = "both",
    seed: int = 0,
    settings: SetOption = (),
) -> Summary:
    """All stages in order: preprocess, train, export, score and evaluate. Resumable.

    Args:
        cohort: Folder, s3:// prefix or CSV with segmentations.
        out: Gets dataset/, run/, predictions/ and report/.
        recipe: Preprocessing, network, loss and schedule.
        split: CSV with case_id and split (train, val, test); else a seeded fifth is val.
        workers: Training processes; by default one a GPU, else two where two cores are free.
        minutes: Length of training by the clock.
        steps: Length of training in optimizer steps.
        release: What the labels mean, where file names do not tell.
        keep_filtered: Keep cases that the recipe's own rule would leave out.
        rules: Whole-mask scores, lesion-wise scores (BraTS 2023), or both.
        seed: Of the split, the initial weights and everything drawn.
        settings: Fields of the recipe, as train.clip_norm=12 network.widths=16,32,64,128.
    """
    from ray_brats.stages import train as training

    chosen = named.get(recipe, minutes=minutes, steps=steps, seed=seed, settings=settings)
    found = with_splits(cohorts.find(cohort, release=release), split, seed)
    out = storage.absolute(out)
    dataset, run_uri, predictions, report = (
        storage.join(out, name) for name in ("dataset", "run", "predictions", "report")
    )
    with cluster.running() as there:
        # Before the hours that preprocessing may take.
        workers = capacity.workers_for(workers, there)
        cluster.check_shared(out, there)
        prepared = datasets.prepare(found, dataset, chosen, keep_filtered)
        data = read_dataset(dataset, chosen)
        trained = training.train(
            data, run_uri, chosen, cluster=there, workers=workers, existing="resume"
        )
        summary: Summary = {
            "out": out,
            "counts": prepared["counts"],
            "preprocess": prepared,
            "train": trained,
            "failures": prepared["failures"],
        }
        held_out = _held_out(found)
        if not held_out.cases:
            say("no labelled validation case: nothing to segment and evaluate")
            return summary
        chosen_bundle = card.choose([trained["bundle"]])
        scored = masks.segment(held_out, predictions, chosen_bundle, there, release=release)
        evaluated = reports.measure(
            predictions,
            held_out,
            report,
            release=release,
            rules=rules,
            training=log.read(run_uri),
            raw_3_is_enhancing=chosen.preprocess.raw_3_is_enhancing,
        )
    return {
        **summary,
        "score": scored,
        "evaluate": evaluated,
        "report": evaluated["report"],
        "summary": evaluated["summary"],
        "original_soft_on_crops": trained["validation"].get("original_soft_on_crops"),
        "failures": _once_each(prepared, scored, evaluated),
    }


def _held_out(found: Cohort) -> Cohort:
    """The validation cases that have a reference; rejected ones are reported by preprocessing."""
    cases = tuple(case for case in found.cases if case.split == "val" and case.segmentation)
    return dataclasses.replace(found, cases=cases, rejected=())


def _once_each(*stages: Summary) -> list[ledger.Row]:
    """The first failure of each case, over all stages."""
    failures: dict[str, ledger.Row] = {}
    for stage in stages:
        for row in stage["failures"]:
            failures.setdefault(row["case_id"], row)
    return ledger.in_order(failures.values())


def demo(
    *,
    out: str = "ray-brats-demo",
    cases: int = 12,
    shape: tuple[int, int, int] = (240, 240, 155),
    recipe: RecipeName = "smoke",
    workers: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Summary:
    """Run every stage on a phantom cohort that is made on the spot: needs no data.

    Args:
        out: Gets cohort/, dataset/, run/, predictions/, report/ and picture.png.
        cases: How many phantoms.
        shape: Voxels of a phantom.
        recipe: Preprocessing, network, loss and schedule.
        workers: Training processes; by default one a GPU, else two where two cores are free.
        minutes: Length of training by the clock.
        steps: Length of training in optimizer steps.
        seed: Of the phantoms, the split, the initial weights and everything drawn.
    """
    from ray_brats.cases import phantom

    if cases < 2:
        raise UsageError(f"--cases {cases}: expected at least 2, one to train on and one to test")
    if min(shape) < 32:
        raise UsageError(f"--shape {shape}: expected at least 32 voxels a side")
    if storage.is_remote(out):
        raise UsageError(f"--out {out}: the phantom cohort is written to a local folder")
    folder = Path(out) / "cohort"
    say(f"demo: {cases} phantoms of {'×'.join(map(str, shape))} voxels in {folder}")
    phantom.write_cohort(folder, cases=cases, shape_vox=shape, seed=seed)
    summary = run(
        str(folder), out, recipe=recipe, workers=workers, minutes=minutes, steps=steps, seed=seed
    )
    rows = ledger.read_table(storage.join(storage.absolute(out), "report", "metrics.parquet"))
    pictured = min(rows, key=lambda row: (row["region"] != "WT", row["dice"]))["case_id"]
    picture = Path(out) / "picture.png"
    mask = Path(out) / "predictions" / mask_name(pictured)
    reports.show(str(folder / pictured), str(picture), prediction=str(mask))
    return {**summary, "picture": str(picture.absolute())}
