"""`train`: a dataset to a run, data-parallel under Ray Train and MultiWorkerMirroredStrategy.

What a run holds stands in `training.run`. This module is the driver's side; each rank runs
`rank.rank_main`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.train

from ray_brats.engine import capacity
from ray_brats.engine.capacity import Workers
from ray_brats.engine.cluster import Resources, check_seen, check_shared, on_node, silenced
from ray_brats.engine.waiting import Waiting
from ray_brats.errors import StageFailed, UsageError
from ray_brats.files import storage
from ray_brats.progress import say
from ray_brats.recipes import costs, jsonform
from ray_brats.recipes.config import Recipe
from ray_brats.recipes.costs import network_vox
from ray_brats.stages.board import Board, Follower, root_cause
from ray_brats.stages.rank import RankSettings, rank_main
from ray_brats.training import run
from ray_brats.training.data import Dataset, description_uri
from ray_brats.training.run import ClaimedRun, Existing

HANG_SECONDS = 600.0
MOST_PRODUCERS = 8
"""Processes that make the samples of one GPU: more than any network here takes."""
RESIZE_SECONDS = 60.0
"""So often it is asked whether there is room for more workers, which start from a checkpoint."""
PATIENCE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
PATIENT_SECONDS, HASTY_SECONDS = 900, 30
"""So long a group of workers waits for its place before Ray Train looks again how many there can
be: a cluster that grows takes minutes, and where the number may change it may just have fallen."""
RESTARTS = 1000
"""Deaths that Ray Train makes good; `claims` ends a run much earlier that makes no progress."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a training may take."""

    hang_seconds: float = HANG_SECONDS
    """A rank that makes no step for so long is ended and started again."""
    cache_bytes: int | None = None
    """What a bucket's cases may take on the disk of a node; None: what that has."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for what bounds nothing."""
        if self.hang_seconds <= 0:
            raise UsageError(f"--hang-seconds {self.hang_seconds:g}: expected more than 0")
        if self.cache_bytes is not None and self.cache_bytes <= 0:
            gib = self.cache_bytes / 2**30
            raise UsageError(f"--cache-gib {gib:g}: expected more than 0")


def train(
    data: Dataset,
    run_uri: str,
    recipe: Recipe,
    *,
    cluster: Resources,
    workers: Workers | int | None = None,
    existing: Existing = "refuse",
    bounds: Bounds | None = None,
) -> run.TrainSummary:
    """Train, then export the best checkpoint to `run/bundle/`.

    Args:
        data: the cases, of what `preprocess` wrote.
        run_uri: where the run goes.
        recipe: what to train, and how long.
        cluster: what there is to train with.
        workers: training processes, one replica each; by default one a GPU, else two. Of a range
            as many train as there is room for; a step is the same for any number of them.
        existing: what to do where there is a run already; without one, it is started.
        bounds: what it may take.

    Raises:
        UsageError: there is a run, and it is another one or is not to be gone on with.
        StageFailed: training ended before its last step.
    """
    began_unix = time.time()
    asked = capacity.workers_for(workers, cluster)
    check_shared(run_uri, cluster)
    check_seen(description_uri(data.uri), cluster)
    bounds = bounds or Bounds()
    if data.task is not None:
        recipe = dataclasses.replace(recipe, targets=data.task.targets)
    claimed = run.begin(run_uri, run.describe(data, recipe, asked.most), existing=existing)
    if claimed is None:
        say(f"train: {run_uri} is finished; nothing to do")
        return run.read(run_uri).summary(skipped=True)
    _say_plan(data, recipe, asked, cluster)
    threads = capacity.cpus_of_worker(asked.most, cluster)
    settings = dataclasses.replace(
        _settings(data, recipe, claimed, bounds),
        threads=threads,
        shares=asked.most,
        # On CPUs the network needs them all, and a sample costs it next to nothing.
        producers=min(MOST_PRODUCERS, threads - 1) if cluster.on_gpus else 0,
        began_unix=began_unix,
    )
    _fit(settings, claimed, asked, gpus=cluster.on_gpus)
    claimed.delete_notes()
    parameters = _export(claimed)["parameters"]
    claimed.finish()
    return claimed.run.summary(skipped=False, parameters=parameters)


def _settings(data: Dataset, recipe: Recipe, claimed: ClaimedRun, bounds: Bounds) -> RankSettings:
    """What all ranks must know of the run; raises as `_check_cache`."""
    return RankSettings(
        recipe=recipe,
        dataset_uri=data.uri,
        run_uri=claimed.run.uri,
        driver=claimed.attempt.driver,
        training=tuple(case.case_id for case in data.training),
        validation=tuple(case.case_id for case in data.validation),
        validation_vox=sum(network_vox(case.shape_vox, recipe) for case in data.validation),
        hang_seconds=bounds.hang_seconds,
        fingerprint=data.fingerprint,
        cache_bytes=bounds.cache_bytes,
        case_bytes=_check_cache(data, recipe, bounds),
    )


def _check_cache(data: Dataset, recipe: Recipe, bounds: Bounds) -> int:
    """What a case takes, in the mean; what that means for a dataset in a bucket is said.

    Raises:
        UsageError: not even the cases of two batches may be on a node.
    """
    voxel_bytes = len(recipe.preprocess.modalities) * np.dtype(recipe.preprocess.dtype).itemsize + 2
    cases = [*data.training, *data.validation]
    total = sum(math.prod(case.shape_vox) * voxel_bytes for case in cases)
    mean = total // len(cases)
    if not storage.is_remote(data.uri):
        return mean
    settings = recipe.train
    least = 2 * 2 * settings.batch_per_worker * settings.accumulate * mean
    most = "what its disk has"
    if bounds.cache_bytes is not None:
        most = f"{bounds.cache_bytes / 2**30:.1f} GiB"
        if bounds.cache_bytes < least:
            raise UsageError(
                f"--cache-gib {bounds.cache_bytes / 2**30:g}: two batches and the cases whose "
                f"tumours they are given take {least / 2**30:.2f} GiB; expected no less"
            )
    say(
        f"train: the cases take {total / 2**30:.1f} GiB; each node copies what it needs next, and "
        f"keeps {most} of it"
    )
    return mean


def _say_plan(data: Dataset, recipe: Recipe, workers: Workers, cluster: Resources) -> None:
    settings = recipe.train
    length = f"{settings.minutes:g} minutes" if settings.minutes else f"{settings.steps} steps"
    if settings.patches:
        a_step = workers.most * settings.batch_per_worker * settings.accumulate
        length = f"{settings.patches} patches in steps of {a_step}"
    patch = "×".join(str(side) for side in settings.patch_vox)
    batch = f"batch {settings.batch_per_worker}"
    if settings.accumulate > 1:
        batch = f"{settings.accumulate} accumulated batches of {settings.batch_per_worker}"
    left_out = f", {data.unlabelled} without a mask left out" if data.unlabelled else ""
    say(
        f"train: recipe {recipe.name}, {length}, {workers} worker(s) × {batch} "
        f"of {patch}; {len(data.training)} cases to train on, "
        f"{len(data.validation)} to validate{left_out}; "
        f"{'GPU' if cluster.on_gpus else 'CPU'} training"
    )
    there = cluster.gpus if cluster.on_gpus else cluster.cpus
    if there < workers.least:
        kind = "GPU" if cluster.on_gpus else "CPU"
        say(f"train: begins when there is a {kind} for each of {workers.least}; now for {there}")
    if not cluster.on_gpus:
        say(costs.sentence(recipe, workers.most, cluster.nodes, cluster.node_memory_bytes))


def _fit(settings: RankSettings, claimed: ClaimedRun, workers: Workers, *, gpus: bool) -> None:
    """Let Ray Train run all ranks to the last step."""
    with silenced():
        from ray.train.tensorflow import TensorflowTrainer

    class Trainer(TensorflowTrainer):  # type: ignore[misc]
        """One that leaves Ctrl-C to the command, which says what was kept and how to go on.

        Ray's own handler ends the process with status 1 and without a word.
        """

        def _register_sigint_handler(self, controller: Any) -> None:
            pass

    # Beside this process: no other node's death takes it away.
    here = ray.get_runtime_context().get_node_id()
    board = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=on_node(here)).remote()
    each = {"CPU": float(settings.threads), **({"GPU": 1.0} if gpus else {})}
    is_fixed = workers.least == workers.most
    trainer = Trainer(
        rank_main,
        train_loop_config={"settings": jsonform.as_json(settings), "board": board},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.most if is_fixed else (workers.least, workers.most),
            use_gpu=gpus,
            resources_per_worker=each,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt-{claimed.attempt.number:06d}",
            # Ray Train's own notes; ours are the checkpoints.
            storage_path=claimed.run.notes_uri,
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
        ),
    )
    cause: BaseException | None = None
    # Ray Train asks for nothing that it waits for where the number of workers may change.
    waiting = Waiting("train", None if is_fixed else each)
    os.environ.setdefault(PATIENCE, str(PATIENT_SECONDS if is_fixed else HASTY_SECONDS))
    with Follower(board, waiting.moved), waiting:
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            cause = error
    reason = ray.get(board.failure.remote()) or (root_cause(cause) if cause else None)
    if reason is not None:
        hint = costs.hint(settings.recipe, workers.most) if "emory" in reason else ""
        raise StageFailed(
            f"training ended before its last step: {reason}.{hint} What was saved stays "
            f"in {settings.run_uri}; the same command with --resume goes on from there"
        ) from cause


def _export(claimed: ClaimedRun) -> dict[str, Any]:
    """Export in a task of its own: the driver stays without TensorFlow."""
    from ray_brats.training import export

    task = ray.remote(num_cpus=1)(export.export_run)
    source = run.choose(claimed.run.uri)
    card: dict[str, Any] = ray.get(
        task.remote(source, claimed.run.bundle_uri, put=claimed.attempt.put)
    )
    return card
