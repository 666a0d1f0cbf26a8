"""`benchmark.py input`: how fast samples of training are made, and what a step waits for them."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ray_brats.arrays import Array, ellipsoid
from ray_brats.benchmarks import measure
from ray_brats.recipes import named
from ray_brats.recipes.named import RecipeName
from ray_brats.training import data
from ray_brats.training.batches import BatchStream
from ray_brats.training.data import PreparedCase

SHAPE_VOX = (140, 172, 144)
"""About the brain of a BraTS case."""
SECONDS = 8.0


def feeding(
    *,
    recipe: RecipeName = "large",
    cases: int = 16,
    step_ms: tuple[int, ...] = (40, 10),
    producers: tuple[int, ...] = (0, 1, 2),
) -> dict[str, Any]:
    """Make samples of noise with a tumour in it, for steps that only sleep.

    Args:
        recipe: Whose patches.
        cases: So many prepared cases, read from files as in training.
        step_ms: How long a step takes.
        producers: How many processes make the samples; 0: a thread.
    """
    chosen = named.get(recipe)
    with tempfile.TemporaryDirectory(prefix="ray-brats-input-") as folder:
        prepared = [_case(Path(folder), number) for number in range(cases)]
        stream = BatchStream(prepared, chosen.train, chosen.targets, rank=0, ranks=1)
        # Once through all files: they are in memory then, as they are after the first pass.
        stream.case_ids(0)
        for case in prepared:
            case.image().sum(), case.label().sum(), case.distance().sum()
        size = chosen.train.batch_per_worker * chosen.train.accumulate
        rate = _rate(stream) * size
        waits = {
            f"{ms} ms a step, {count or 'no'} producer(s)": _wait(stream, ms / 1000, count)
            for ms in step_ms
            for count in producers
        }
    return {
        "measured": {"samples a second and core": round(rate, 1), "share of waiting": waits},
        "ratios": {"input_samples_per_second": measure.ratio(rate, 1)},
        "recipe": recipe,
        "cores": os.cpu_count(),
    }


def _case(folder: Path, seed: int) -> PreparedCase:
    """A head of noise, with nested balls of the three classes somewhere in it."""
    rng = np.random.default_rng(seed)
    own = folder / f"case{seed}"
    own.mkdir()
    image = rng.standard_normal((*SHAPE_VOX, 3), np.float32).astype(np.float16)
    image[~ellipsoid(SHAPE_VOX)] = 0
    centre = [rng.integers(side // 3, 2 * side // 3) for side in SHAPE_VOX]
    axes = np.ogrid[tuple(slice(side) for side in SHAPE_VOX)]
    distance = np.sqrt(sum(np.square(axis - at) for axis, at in zip(axes, centre, strict=True)))
    label = np.select([distance < 8, distance < 14, distance < 26], [1, 3, 2]).astype(np.uint8)
    files: dict[str, Array] = {data.IMAGE: image, data.LABEL: label, **data.kept_of(label)}
    for name, array in files.items():
        np.save(own / name, array)
    return PreparedCase(case_id=own.name, folder=own)


def _rate(stream: BatchStream) -> float:
    """Batches a second that one thread makes."""
    began, step = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        stream.batch(step)
        step += 1
    return step / (time.perf_counter() - began)


def _wait(stream: BatchStream, step_seconds: float, producers: int) -> float:
    """The share of the time that steps wait for their batch, once batches flow."""
    batches = stream.from_step(0, placed=lambda batch: batch, processes=producers)
    for _ in range(5):
        next(batches)
        time.sleep(step_seconds)
    stream.waited_seconds, began, steps = 0.0, time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        next(batches)
        time.sleep(step_seconds)
        steps += 1
    batches.close()
    return round(stream.waited_seconds / (time.perf_counter() - began), 3)
