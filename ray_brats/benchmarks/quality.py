"""`benchmark.py quality`: equal minutes on equal cores and cases, `standard` and MONAI's DynUNet.

Both learn from the same prepared cases and are scored on the same validation cases with the
same metrics; seeds alternate between the two. What is compared is what a user gets after so
many minutes, so ours pays for its own validation out of them: one, at the end, for a checkpoint
chosen by these cases would be too good on them.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ray_brats.benchmarks import quality_peer, torch_peers
from ray_brats.benchmarks.measure import SetOption
from ray_brats.cases import cohort as cohorts
from ray_brats.commands.arguments import CohortArgument, with_splits
from ray_brats.commands.datasets import prepare
from ray_brats.engine import cluster
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.labels import LabelMap
from ray_brats.metrics import scores
from ray_brats.model.card import Asked
from ray_brats.progress import say
from ray_brats.recipes import named
from ray_brats.recipes.config import Recipe
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.training.cache import Cache
from ray_brats.training.data import PreparedCase

Scores = dict[str, dict[str, float]]
"""Dice by region by case."""
OURS, PEER = "standard", "MONAI DynUNet"


def quality(
    cohort: CohortArgument,
    /,
    *,
    minutes: float,
    split: str | None = None,
    seeds: Sequence[int] = (0, 1),
    workers: int | None = None,
    settings: SetOption = (),
    peer: bool = True,
) -> dict[str, Any]:
    """Train both for the same minutes, and compare their Dice on the validation cases.

    Args:
        cohort: Folder, s3:// prefix or CSV with segmentations.
        minutes: Of each training.
        split: CSV with case_id and split (train, val); else a seeded fifth of the patients is val.
        seeds: Each seed trains both.
        workers: Processes that train ours; by default as `train`.
        settings: Fields of the recipe, as train.learning_rate=0.002.
        peer: Measure MONAI too (needs the bench extra).
    """
    if minutes <= 0 or not seeds:
        raise UsageError("expected --minutes above 0 and at least one seed")
    if peer:
        torch_peers.load()
    selected = with_splits(cohorts.find(cohort), split, seed=0)
    tables: dict[str, dict[int, Scores]] = {OURS: {}, PEER: {}}
    facts: dict[str, list[dict[str, float]]] = {OURS: [], PEER: []}
    with tempfile.TemporaryDirectory(prefix="ray-brats-benchmark-") as folder:
        dataset = storage.join(folder, "dataset")
        with cluster.running():
            prepare(selected, dataset, named.get("standard", settings=settings), False)
        for seed in seeds:
            say(f"benchmark quality: {OURS}, seed {seed}, {minutes:g} minutes")
            once = ["train.validations=1", *settings]
            recipe = named.get("standard", minutes=minutes, seed=seed, settings=once)
            run = storage.join(folder, f"run-{seed}")
            scores, fact = _ours(dataset, run, recipe, workers)
            tables[OURS][seed] = scores
            facts[OURS].append(fact)
            if peer:
                say(f"benchmark quality: {PEER}, seed {seed}, {minutes:g} minutes")
                scores, fact = _peer(dataset, recipe, minutes, seed)
                tables[PEER][seed] = scores
                facts[PEER].append(fact)
    return {"minutes": minutes, "cores": os.cpu_count(), "seeds": list(seeds)} | _compared(
        tables, facts
    )


def _compared(
    tables: Mapping[str, Mapping[int, Scores]], facts: Mapping[str, Sequence[Mapping[str, float]]]
) -> dict[str, Any]:
    """The result of the benchmark: Dice by side, seed and case, and what each training did."""
    measured = {name: by_seed for name, by_seed in tables.items() if by_seed}
    return {
        "mean_dice": {name: _means(by_seed) for name, by_seed in measured.items()},
        "difference": differences(tables[OURS], tables[PEER]) if tables[PEER] else None,
        "training": {
            name: {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
            for name, rows in facts.items()
            if rows
        },
        "cases": {
            name: {
                f"{case_id}, seed {seed}": dice
                for seed, scores in by_seed.items()
                for case_id, dice in scores.items()
            }
            for name, by_seed in measured.items()
        },
        "ratios": {},
    }


def _ours(
    dataset: str, run: str, recipe: Recipe, workers: int | None
) -> tuple[Scores, dict[str, float]]:
    """Train with the product's own stage, then segment with the exported bundle."""
    from ray_brats.stages import train
    from ray_brats.training.data import read_dataset

    data = read_dataset(dataset, recipe)
    with cluster.running() as resources:
        began = time.monotonic()
        trained = train.train(data, run, recipe, cluster=resources, workers=workers)
        minutes = (time.monotonic() - began) / 60
    outcome = _in_a_process(_bundle_masks, dataset, recipe, trained.bundle)
    fact = {
        "steps": float(trained.step),
        "minutes with start and export": minutes,
        "seconds a case": outcome["seconds_a_case"],
    }
    return _scores(dataset, recipe, outcome["masks"]), fact


def _peer(
    dataset: str, recipe: Recipe, minutes: float, seed: int
) -> tuple[Scores, dict[str, float]]:
    outcome = _in_a_process(_peer_masks, dataset, recipe, minutes, seed)
    fact = {"steps": float(outcome["steps"]), "seconds a case": outcome["seconds_a_case"]}
    return _scores(dataset, recipe, outcome["masks"]), fact


def _in_a_process(work: Any, *arguments: Any) -> dict[str, Any]:
    """What work in a fresh process gives: no framework keeps the other's threads and memory."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        outcome: dict[str, Any] = pool.submit(work, *arguments).result()
    return outcome


def _cases(dataset: str, recipe: Recipe) -> tuple[list[PreparedCase], list[PreparedCase]]:
    from ray_brats.training.data import read_dataset

    data = read_dataset(dataset, recipe)
    if not data.validation:
        raise UsageError("the split has no validation case with a mask: nothing to compare")
    cache = Cache(dataset_uri=dataset, fingerprint=data.fingerprint, run_uri=dataset)
    training, validation = (
        [cache.case(case.case_id) for case in cases] for cases in (data.training, data.validation)
    )
    return training, validation


def _bundle_masks(dataset: str, recipe: Recipe, bundle_uri: str) -> dict[str, Any]:
    from ray_brats.stages import score

    _, validation = _cases(dataset, recipe)
    predictor = score.load_predictor((bundle_uri,), (), Asked(), os.cpu_count() or 1)
    began = time.perf_counter()
    masks = {case.case_id: predictor.class_index(case.image()) for case in validation}
    return {"seconds_a_case": (time.perf_counter() - began) / len(masks), "masks": masks}


def _peer_masks(dataset: str, recipe: Recipe, minutes: float, seed: int) -> dict[str, Any]:
    training, validation = _cases(dataset, recipe)
    threads = os.cpu_count() or 1
    return quality_peer.trained_masks(
        training, validation, minutes=minutes, seed=seed, threads=threads
    )


def _scores(dataset: str, recipe: Recipe, masks: Mapping[str, LabelMap]) -> Scores:
    _, validation = _cases(dataset, recipe)
    return {
        case.case_id: {
            region.name: scores.region_dice(np.asarray(case.label()), masks[case.case_id], region)
            for region in GLIOMA.regions
        }
        for case in validation
    }


def _means(by_seed: Mapping[int, Scores]) -> dict[str, float]:
    """Mean over seeds and cases, of each region and of the regions' mean."""
    rows = [dice for scores in by_seed.values() for dice in scores.values()]
    means = {
        region: statistics.fmean(row[region] for row in rows) for region in GLIOMA.region_names
    }
    return {**means, "mean": statistics.fmean(means.values())}


def differences(ours: Mapping[int, Scores], theirs: Mapping[int, Scores]) -> dict[str, Any]:
    """Ours minus theirs, paired by case.

    A case's value is its mean over the seeds, so that cases, not trainings, are what is counted.

    Returns:
        For each region and the `mean` of the three: the mean difference, its standard deviation
        over the cases, and the 95 % interval of the mean (Student's t; None for one case).
    """
    summary = {}
    for name in (*GLIOMA.region_names, "mean"):
        pairs = [
            statistics.fmean(
                _value(ours[seed][case_id], name) - _value(theirs[seed][case_id], name)
                for seed in ours
            )
            for case_id in next(iter(ours.values()))
        ]
        summary[name] = {
            "mean": statistics.fmean(pairs),
            "sd": statistics.stdev(pairs) if len(pairs) > 1 else None,
            "ci95": _interval(pairs),
        }
    return summary


def _value(dice: Mapping[str, float], name: str) -> float:
    return (
        statistics.fmean(dice[region] for region in GLIOMA.region_names)
        if name == "mean"
        else dice[name]
    )


def _interval(values: Sequence[float]) -> list[float] | None:
    if len(values) < 2:
        return None
    from scipy import stats  # takes a second, which no other benchmark need wait

    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.fmean(values)
    return [mean - float(half), mean + float(half)]
