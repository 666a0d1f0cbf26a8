"""Two training processes on all cores against one that has them, for the training benchmark."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ray_brats.benchmarks import torch_peers
from ray_brats.progress import say
from ray_brats.recipes import jsonform
from ray_brats.recipes.config import Recipe
from ray_brats.training.data import IMAGE, LABEL, case_uri, read_dataset

BRAIN_VOX = (144, 176, 144)


def two_against_one(
    recipe: Recipe, threads: int, *, steps: int, dataset: str | None = None
) -> dict[str, Any]:
    """Patches a second of two data-parallel processes against one with all cores.

    Real processes under MultiWorkerMirroredStrategy, fed by the real `BatchStream`; both take
    two patches a step (two ranks with one each, one rank with two), and take turns.

    Args:
        recipe: what they train.
        threads: cores in all.
        steps: that are timed.
        dataset: whose training cases feed them; by default two of noise, as large as a brain.
    """
    with tempfile.TemporaryDirectory(prefix="ray-brats-benchmark-") as folder:
        if dataset is None:
            source = {"dataset": folder, "cases": _noise(recipe, Path(folder))}
        else:
            cases = read_dataset(dataset, recipe).training
            source = {"dataset": dataset, "cases": [case.case_id for case in cases]}
        rates: dict[int, list[float]] = {1: [], 2: []}
        waits = []
        for _ in range(2):
            for ranks, found_rates in rates.items():
                say(f"benchmark train: {ranks} worker(s) on {threads} cores")
                measured = _run_ranks(recipe, ranks, threads, steps, source)
                found_rates.append(measured["patches_per_second"])
                waits.append(measured["input_wait_share"])
    medians = {str(ranks): statistics.median(values) for ranks, values in rates.items()}
    return {
        "patches_per_second": medians,
        "input_wait_share": max(waits),
        "ratio": medians["2"] / medians["1"],
    }


def _noise(recipe: Recipe, folder: Path) -> list[str]:
    image, label = torch_peers.patch(recipe, BRAIN_VOX)
    names = ["c0", "c1"]
    for name in names:
        case = Path(case_uri(str(folder), name))
        case.mkdir(parents=True)
        np.save(case / IMAGE, image.astype(np.float16))
        np.save(case / LABEL, label)
    return names


def _run_ranks(
    recipe: Recipe, ranks: int, threads: int, steps: int, source: dict[str, Any]
) -> dict[str, float]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(ranks)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for item in sockets:
        item.close()
    batch = 2 // ranks
    settings = jsonform.as_json(jsonform.with_settings(recipe, [f"train.batch_per_worker={batch}"]))
    processes = []
    for rank in range(ranks):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        job = {
            "recipe": settings,
            "threads": max(1, threads // ranks),
            "steps": steps,
            **source,
        }
        processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "ray_brats.benchmarks.ranks",
                    json.dumps({**job, "rank": rank}),
                ],
                env={**os.environ, "TF_CONFIG": json.dumps(cluster)},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    answers = [process.communicate()[0] for process in processes]
    measured: dict[str, float] = json.loads(answers[0].splitlines()[-1])
    return measured


def _rank(job: dict[str, Any]) -> None:
    """One process of `_run_ranks`: prints its rate as JSON."""
    import tensorflow as tf

    from ray_brats.training.batches import BatchStream
    from ray_brats.training.cache import Cache
    from ray_brats.training.step import Trainee

    tf.config.threading.set_intra_op_parallelism_threads(job["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(2)
    recipe = jsonform.from_json(Recipe, job["recipe"])
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    ranks = strategy.num_replicas_in_sync
    cache = Cache(dataset_uri=job["dataset"], fingerprint="", run_uri="benchmark")
    cases = [cache.case(case_id) for case_id in job["cases"]]
    stream = BatchStream(cases, recipe.train, recipe.targets, rank=job["rank"], ranks=ranks)
    trainee = Trainee(strategy, recipe)
    batches = stream.from_step(0, placed=trainee.placed)
    seconds = []
    for step in range(job["steps"] + 2):
        if step == 2:
            stream.waited_seconds = 0.0
        began = time.perf_counter()
        trainee.step(next(batches), learning_rate=1e-3, averaging_decay=0.9)
        seconds.append(time.perf_counter() - began)
    batches.close()
    kept = seconds[2:]
    patches = ranks * recipe.train.batch_per_worker
    rate = patches / statistics.median(kept)
    measured = {"patches_per_second": rate, "input_wait_share": stream.waited_seconds / sum(kept)}
    sys.stdout.write(json.dumps(measured) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _rank(json.loads(sys.argv[1]))
