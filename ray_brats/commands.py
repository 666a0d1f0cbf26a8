"""The commands as Python functions: files in, files out, a summary back.

Each joins the stages it needs; stages do not know each other. Every summary is plain JSON
with `failures`, a list of rows `case_id, status, reason, file`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ray_brats import cohort as cohorts
from ray_brats import config, recipes, storage
from ray_brats.cohort import Cohort
from ray_brats.config import Recipe
from ray_brats.errors import CaseError, UsageError
from ray_brats.progress import Progress, say

Summary = dict[str, Any]


def check(
    cohort: str, *, recipe: str = "standard", release: str | None = None, threads: int = 2
) -> Summary:
    """Find and read every case of a cohort without writing anything."""
    from ray_brats.preprocess import preprocess_case

    found = cohorts.find(cohort, release=release)
    options = recipes.get(recipe).preprocess
    rows = [dict(row) for row in found.rejected]

    def look(case: cohorts.Case) -> dict[str, Any]:
        row: dict[str, Any] = {"case_id": case.case_id, "patient_id": case.patient_id}
        row |= {"masked": case.segmentation is not None, "reason": "", "file": ""}
        try:
            prepared = preprocess_case(case, options)
        except CaseError as error:
            return {**row, "status": error.status, "reason": error.reason, "file": error.file}
        return {**row, "status": "ok", "shape_vox": list(prepared.geometry.canonical_shape)}

    with Progress("check", len(found.cases)) as progress, ThreadPoolExecutor(threads) as pool:
        for number, row in enumerate(pool.map(look, found.cases), 1):
            rows.append(row)
            progress.update(number)
    rows.sort(key=lambda row: row["case_id"])
    return {
        "cohort": found.uri,
        "release": found.release_or(release),
        "notes": list(found.notes),
        "counts": _counts(rows),
        "cases": rows,
        "failures": [row for row in rows if row["status"] in ("rejected", "error")],
    }


def preprocess(
    cohort: str,
    dataset: str,
    *,
    recipe: str = "standard",
    split: str | None = None,
    release: str | None = None,
    keep_filtered: bool = False,
    seed: int = 0,
) -> Summary:
    """Prepare a cohort for training."""
    found = cohorts.find(cohort, release=release)
    return _preprocess(
        _with_splits(found, split, seed),
        storage.absolute(dataset),
        recipes.get(recipe),
        keep_filtered=keep_filtered,
    )


def _with_splits(found: Cohort, split: str | None, seed: int) -> Cohort:
    given = cohorts.read_split(storage.absolute(split)) if split else None
    cases = cohorts.assign_splits(found.cases, given, seed)
    return dataclasses.replace(found, cases=tuple(cases))


def _preprocess(found: Cohort, dataset: str, recipe: Recipe, *, keep_filtered: bool) -> Summary:
    from ray_brats import dataset as stage
    from ray_brats import engine

    for note in found.notes:
        say(note)
    with engine.running():
        summary = stage.preprocess(
            found, found.cases, dataset, recipe, keep_filtered=keep_filtered
        )
    _say_done("preprocess", summary)
    return summary


def _say_done(stage: str, summary: Mapping[str, Any]) -> None:
    done, skipped = summary["processed"], summary["skipped"]
    if not done and skipped:
        say(f"{stage}: all {skipped} cases were finished before; nothing to do")
    elif skipped:
        say(f"{stage}: {done} cases done now, {skipped} finished before")


def train(
    dataset: str,
    run: str,
    *,
    recipe: str = "standard",
    workers: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    fold: int | None = None,
    resume: bool = False,
    seed: int = 0,
) -> Summary:
    """Train a network on a dataset and export its bundle."""
    chosen = _recipe(recipe, minutes, steps, seed)
    return _train(
        storage.absolute(dataset),
        storage.absolute(run),
        chosen,
        workers=workers,
        fold=fold,
        resume=resume,
    )


def _recipe(name: str, minutes: float | None, steps: int | None, seed: int) -> Recipe:
    chosen = recipes.get(name, minutes=minutes, steps=steps)
    return dataclasses.replace(chosen, train=dataclasses.replace(chosen.train, seed=seed))


def _train(dataset: str, run: str, recipe: Recipe, **options: Any) -> Summary:
    from ray_brats import engine
    from ray_brats import train as stage

    with engine.running() as there:
        return {**stage.train(dataset, run, recipe, there=there, **options), "failures": []}


def export(run: str, bundle: str, *, checkpoint: str | None = None) -> Summary:
    """Export the best, or a named, checkpoint of a run as a bundle."""
    from ray_brats import train as stage

    target = storage.absolute(bundle)
    card = stage.export_run(storage.absolute(run), target, checkpoint)
    return {"bundle": target, "measured": card["measured"], "failures": []}


def score(
    cohort: str,
    predictions: str,
    *,
    bundle: Sequence[str],
    split: str | None = None,
    subset: str | None = None,
    release: str | None = None,
    tta: str | None = None,
    overlap: float | None = None,
    workers: int | None = None,
) -> Summary:
    """Segment a whole cohort with one bundle, or the mean of several."""
    given = cohorts.read_split(storage.absolute(split)) if split else None
    found = cohorts.select(cohorts.find(cohort, release=release), given, subset)
    return _score(
        found,
        storage.absolute(predictions),
        [storage.absolute(uri) for uri in bundle],
        release=release,
        tta=tta,
        overlap=overlap,
        workers=workers,
    )


def _score(
    found: Cohort,
    predictions: str,
    bundles: Sequence[str],
    *,
    release: str | None = None,
    tta: str | None = None,
    overlap: float | None = None,
    workers: int | None = None,
) -> Summary:
    from ray_brats import bundle as bundle_files
    from ray_brats import engine
    from ray_brats import score as stage

    if not bundles:
        raise UsageError("no --bundle: expected the bundle/ folder that `ray-brats train` writes")
    cards = [bundle_files.read_card(uri) for uri in bundles]
    recipe, bundle_release = stage.describe_bundles(cards)
    options = {"tta": tta, "overlap": overlap}
    with engine.running() as there:
        summary = stage.score(
            found,
            predictions,
            make_predictor=functools.partial(
                bundle_files.load_predictor, tuple(bundles), tta=tta, overlap=overlap
            ),
            identity={
                "bundles": [bundle_files.card_sha256(card) for card in cards],
                "options": options,
            },
            modalities=recipe.preprocess.modalities,
            release=release or bundle_release,
            there=there,
            workers=workers,
        )
    _say_done("score", summary)
    return summary


def evaluate(
    predictions: str,
    cohort: str,
    report: str,
    *,
    split: str | None = None,
    subset: str | None = None,
    release: str | None = None,
    rules: str = "both",
) -> Summary:
    """Compare predictions with the cohort's segmentations and write the report."""
    given = cohorts.read_split(storage.absolute(split)) if split else None
    found = cohorts.select(cohorts.find(cohort, release=release), given, subset)
    return _evaluate(
        storage.absolute(predictions), found, storage.absolute(report), release=release, rules=rules
    )


def _evaluate(predictions: str, found: Cohort, report: str, **options: Any) -> Summary:
    from ray_brats import engine
    from ray_brats import evaluate as stage

    with engine.running():
        summary = stage.evaluate(predictions, found, report, **options)
    _say_done("evaluate", summary)
    return summary


def show(
    case: str,
    picture: str,
    *,
    slice_index: int | None = None,
    prediction: str | None = None,
    release: str | None = None,
) -> Summary:
    """Draw the modalities of a case and its mask in colour."""
    from ray_brats import evaluate as masks
    from ray_brats import figures, volume

    found = cohorts.find(case, release=release)
    if len(found.cases) != 1:
        raise UsageError(
            f"{case} holds {len(found.cases)} usable cases: expected the folder of one case"
        )
    (one,) = found.cases
    release = one.release or release
    try:
        images = {
            name: volume.read(one.images[name])
            for name in ("flair", "t1ce", "t2")
            if name in one.images
        }
        first = next(iter(images.values())).geometry
        label = masks.read_mask(one.segmentation, release)[0] if one.segmentation else None
        found_mask = None
        if prediction:
            found_mask, geometry = masks.read_mask(storage.absolute(prediction), release)
            difference = volume.same_grid(geometry, first)
            if difference:
                raise UsageError(f"{prediction} does not lie on the case's grid: {difference}")
    except CaseError as error:
        raise UsageError(str(error)) from error
    figure = figures.draw_case(
        {name: item.voxels_HWD for name, item in images.items()},
        label,
        found_mask,
        slice_index=slice_index,
        title=one.case_id,
        spacing_mm=first.spacing_mm,
    )
    figures.save_figure(figure, Path(picture))
    return {"picture": picture, "case_id": one.case_id, "failures": []}


def run(
    cohort: str,
    out: str,
    *,
    recipe: str = "standard",
    split: str | None = None,
    workers: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    release: str | None = None,
    keep_filtered: bool = False,
    rules: str = "both",
    seed: int = 0,
) -> Summary:
    """All stages in order; what is finished is not done again."""
    from ray_brats import engine

    chosen = _recipe(recipe, minutes, steps, seed)
    found = _with_splits(cohorts.find(cohort, release=release), split, seed)
    places = {
        name: storage.join(storage.absolute(out), name)
        for name in ("dataset", "run", "predictions", "report")
    }
    with engine.running():
        prepared = _preprocess(found, places["dataset"], chosen, keep_filtered=keep_filtered)
        trained = _train(places["dataset"], places["run"], chosen, workers=workers, resume=True)
        held_out = _held_out(found)
        summary: Summary = {
            "out": storage.absolute(out),
            "preprocess": prepared,
            "train": trained,
            "failures": list(prepared["failures"]),
        }
        if not held_out.cases:
            say("no labelled validation case: nothing to evaluate")
            return summary
        scored = _score(held_out, places["predictions"], [trained["bundle"]], release=release)
        evaluated = _evaluate(
            places["predictions"],
            held_out,
            places["report"],
            release=release,
            rules=rules,
            training=_training_lines(places["run"]),
        )
    known = {row["case_id"] for row in summary["failures"]}
    for stage in (scored, evaluated):
        summary["failures"] += [row for row in stage["failures"] if row["case_id"] not in known]
        known = {row["case_id"] for row in summary["failures"]}
    soft = trained["validation"].get("original_soft_on_crops")
    return {
        **summary,
        "score": scored,
        "evaluate": evaluated,
        "report": evaluated["report"],
        "summary": evaluated["summary"],
        "original_soft_on_crops": soft,
    }


def _held_out(found: Cohort) -> Cohort:
    """The validation cases that have a reference; rejected ones are reported by preprocessing."""
    cases = tuple(case for case in found.cases if case.split == "val" and case.segmentation)
    return dataclasses.replace(found, cases=cases, rejected=())


def _training_lines(run_uri: str) -> list[dict[str, Any]]:
    from ray_brats import runlog

    return runlog.read(run_uri)


def demo(
    out: str = "ray-brats-demo",
    *,
    cases: int = 12,
    shape: tuple[int, int, int] = (240, 240, 155),
    recipe: str = "smoke",
    workers: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Summary:
    """Make a phantom cohort and run every stage on it; needs no data."""
    from ray_brats import phantom

    if cases < 2:
        raise UsageError(f"--cases {cases}: expected at least 2, one to train on and one to test")
    if storage.is_remote(out):
        raise UsageError(f"--out {out}: the phantom cohort is written to a local folder")
    folder = Path(out) / "cohort"
    say(f"demo: {cases} phantoms of {'×'.join(map(str, shape))} voxels in {folder}")
    phantom.write_cohort(folder, cases=cases, shape_vox=shape, seed=seed)
    summary = run(
        str(folder), out, recipe=recipe, workers=workers, minutes=minutes, steps=steps, seed=seed
    )
    shown = next(iter(_worst_first(out)), None)
    if shown:
        picture = Path(out) / "picture.png"
        mask = Path(out) / "predictions" / f"{shown}.nii.gz"
        show(str(folder / shown), str(picture), prediction=str(mask))
        summary["picture"] = str(picture.absolute())
    return summary


def _worst_first(out: str) -> list[str]:
    from ray_brats import ledger

    rows = ledger.read_table(storage.join(storage.absolute(out), "report", "metrics.parquet"))
    dice: dict[str, list[float]] = {}
    for row in rows:
        dice.setdefault(row["case_id"], []).append(row["dice"] or 0.0)
    return sorted(dice, key=lambda case_id: float(np.mean(dice[case_id])))


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    from ray_brats import ledger

    return ledger.counts(rows)


__all__ = [
    "check",
    "config",
    "demo",
    "evaluate",
    "export",
    "preprocess",
    "run",
    "score",
    "show",
    "train",
]
