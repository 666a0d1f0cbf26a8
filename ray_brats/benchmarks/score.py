"""`benchmark.py score`: from `.nii.gz` to `.nii.gz`, beside the bare forward passes and MONAI.

The bare passes twice: window by window as TensorFlow alone would, and side by side as ours.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ray_brats import arrays
from ray_brats.benchmarks import measure
from ray_brats.benchmarks.processes import PeakMemory
from ray_brats.benchmarks.score_peer import MonaiScorer
from ray_brats.cases import cohort as cohorts
from ray_brats.cases import preprocess
from ray_brats.cases.case import Case
from ray_brats.commands.arguments import CohortArgument
from ray_brats.engine import capacity, cluster
from ray_brats.errors import UsageError
from ray_brats.metrics import scores
from ray_brats.model import card as modelcard
from ray_brats.model.card import Asked
from ray_brats.model.predict import Predictor
from ray_brats.model.predictions import Predictions, mask_name
from ray_brats.progress import say
from ray_brats.recipes import jsonform, tasks
from ray_brats.recipes.config import Recipe
from ray_brats.stages import score as stage
from ray_brats.stages import segmenting

WAYS = ("plain forward", "forward", "ray_brats", "monai")
KINDS = {
    "actor": r"ray::.*Segment",
    "read task": r"ray::.*\(read\)",
    "write task": r"ray::.*\(write\)",
}


def score(
    cohort: CohortArgument,
    /,
    *,
    bundle: str = modelcard.STARTER,
    cases: int = 6,
    repeats: int = 3,
    peer: bool = True,
) -> dict[str, Any]:
    """Score cases of a cohort three ways on the same cores, alternating.

    Args:
        cohort: Folder, s3:// prefix or CSV.
        bundle: The model; by default the starter.
        cases: How many cases; the first one of each repeat only warms up.
        repeats: How often each way is measured; medians are reported.
        peer: Measure MONAI too (needs the bench extra).
    """
    found = cohorts.find(cohort).cases[:cases]
    if len(found) < 2:
        raise UsageError(f"{cohort} has {len(found)} usable cases: expected at least 2")
    uri = modelcard.uri_of(bundle)
    card, sha256 = modelcard.read(uri)
    recipe = jsonform.from_json(Recipe, card["recipe"])
    forward = BareForward(uri, recipe, os.cpu_count() or 1)
    if peer and importlib.util.find_spec("monai") is None:
        say("MONAI is not installed, so it is not measured: pip install 'ray-brats[bench]'")
        peer = False
    monai = MonaiScorer(recipe, card["parameters"]) if peer else None
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    memory: dict[str, float] = {}
    for number in range(repeats):
        say(f"benchmark score: repeat {number + 1} of {repeats}")
        seconds["plain forward"].append(_plain_forward_seconds(uri, recipe, found))
        seconds["forward"].append(_per_case(forward, found))
        measured, peaks = ray_brats_seconds(found, uri, sha256, recipe)
        seconds["ray_brats"].append(measured)
        memory = {name: max(value, memory.get(name, 0.0)) for name, value in peaks.items()}
        if monai:
            seconds["monai"].append(_per_case(monai, found))
    return {
        **_compared(seconds),
        "cases": len(found) - 1,
        "repeats": repeats,
        "cores": os.cpu_count(),
        "parameters": card["parameters"],
        "parameters_monai": monai.parameters if monai else None,
        "mean_dice": _mean_dice(found, forward.predictor, recipe) if monai else None,
        "all_seconds_a_case": seconds,
        "peak_memory_gib": memory,
    }


def _compared(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Medians of each way, and the ratios of the benchmark."""
    medians = {
        name: statistics.median(values) if values else None for name, values in seconds.items()
    }
    ours = medians["ray_brats"]
    return {
        "measured": {f"{name} seconds a case": value for name, value in medians.items()},
        "ratios": {
            "score_vs_plain_forward": measure.ratio(ours, medians["plain forward"]),
            "score_vs_forward": measure.ratio(ours, medians["forward"]),
            "score_vs_monai": measure.ratio(medians["monai"], ours),
        },
    }


def _per_case(way: Any, found: Sequence[Case]) -> float:
    """Mean seconds over all cases but the first."""
    taken = [way(case) for case in found]
    return statistics.fmean(taken[1:])


def _plain_forward_seconds(uri: str, recipe: Recipe, found: Sequence[Case]) -> float:
    """One window after the other, with TensorFlow's own threads: what anybody's first loop does.

    In a process of its own, for a process chooses its threads once.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_plain_forward, uri, recipe, found).result()


def _plain_forward(uri: str, recipe: Recipe, found: Sequence[Case]) -> float:
    return _per_case(BareForward(uri, recipe, None), found)


class BareForward:
    """The floor: nothing but the network over the windows of a prepared case.

    Args:
        bundle_uri: the network.
        recipe: of the bundle.
        threads: as many windows side by side as the Predictor lets pass with so many threads;
            None: one after the other.
    """

    def __init__(self, bundle_uri: str, recipe: Recipe, threads: int | None) -> None:
        from ray_brats.model import bundle

        self.predictor = bundle.load_predictor((bundle_uri,), threads=threads)
        self._recipe = recipe

    def __call__(self, case: Case) -> float:
        """Seconds of the forward passes of one case, which is read before."""
        from ray_brats.model import predict

        image = predict.read(case, self._recipe.preprocess).image_HWDC.astype(np.float32)
        inference = self._recipe.inference
        windows = arrays.sliding_windows(image.shape[:3], inference.window_vox, inference.overlap)
        size = self.predictor.batch
        batches = [
            np.stack([window.cut(image) for window in windows[at : at + size]])
            for at in range(0, len(windows), size)
        ]
        (forward,) = self.predictor.forwards
        with ThreadPoolExecutor(self.predictor.lanes) as lanes:
            began = time.perf_counter()
            list(lanes.map(forward, batches))
            return time.perf_counter() - began


def ray_brats_seconds(
    found: Sequence[Case], bundle_uri: str, sha256: str, recipe: Recipe
) -> tuple[float, dict[str, float]]:
    """Seconds a case in steady state (from the first mask on the disk to the last), peak memory.

    The first case comes once, and all others, which the peers are timed on too, twice after it:
    between the first and the last mask lies more than what was read ahead while the model was
    loading. The files tell the time, for the driver hears of several at once.
    """
    cases = [found[0], *found[1:], *found[1:]]
    cohort = [
        dataclasses.replace(case, case_id=f"{case.case_id}.{n}") for n, case in enumerate(cases)
    ]
    with tempfile.TemporaryDirectory(prefix="ray-brats-benchmark-") as out:
        with cluster.running() as resources, PeakMemory(os.getpid(), KINDS) as peak:
            target = Predictions(
                uri=out, identity={}, preprocessing=recipe.preprocess, task=tasks.DEFAULT
            )
            work = [target.work_of(case) for case in cohort]
            frame = segmenting.Frame(preprocessing=recipe.preprocess, limit_seconds=1800)
            make = functools.partial(stage.load_predictor, (bundle_uri,), (sha256,), Asked())
            for row in stage.stream(
                work, frame, capacity.for_scoring(resources, None, len(work)), make
            ):
                if row.status != "ok":
                    raise UsageError(f"{row.case_id} cannot be scored: {row.reason}")
        masks = [Path(out) / mask_name(case.case_id) for case in cohort]
        moments = sorted(mask.stat().st_mtime for mask in masks)
    return (moments[-1] - moments[0]) / (len(moments) - 1), peak.gib


def _mean_dice(
    found: Sequence[Case], predictor: Predictor, recipe: Recipe
) -> dict[str, float] | None:
    """Mean Dice over regions and cases of one network behind both sliding windows.

    Where the networks are of one size, only the way around them can lose Dice. On the prepared
    crop, for the cases with a mask; None where none has one.
    """
    import torch
    from monai.inferers import sliding_window_inference

    (forward,) = predictor.forwards

    def network(batch: Any) -> Any:
        channels_last = np.ascontiguousarray(np.moveaxis(batch.numpy(), 1, -1))
        return torch.from_numpy(np.moveaxis(forward(channels_last), -1, 1).copy())

    inference = recipe.inference
    dice: dict[str, list[float]] = {"ray_brats": [], "monai_around_the_same_network": []}
    for case in found:
        prepared = preprocess.preprocess_case(case, recipe.preprocess, keep_filtered=True)
        if prepared.label_HWD is None:
            continue
        image = torch.from_numpy(np.moveaxis(prepared.image_HWDC, -1, 0)[None].astype(np.float32))
        (probabilities,) = sliding_window_inference(
            image, inference.window_vox, 1, network, inference.overlap, mode="gaussian"
        ).numpy()
        masks = {
            "ray_brats": predictor.class_index(prepared.image_HWDC),
            "monai_around_the_same_network": predictor.decode(np.moveaxis(probabilities, 0, -1)),
        }
        for way, mask in masks.items():
            for region in recipe.targets.regions:
                dice[way].append(scores.region_dice(prepared.label_HWD, mask, region))
    if not dice["ray_brats"]:
        return None
    return {way: round(statistics.fmean(values), 4) for way, values in dice.items()}
