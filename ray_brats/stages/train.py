"""`train`: a dataset to a run, data-parallel under Ray Train and MultiWorkerMirroredStrategy.

run/run.json         the whole configuration, written first; `finished` at the end
run/metrics.jsonl    one object a step, and one an event; see `log`
run/tensorboard/     the same as scalars, and a picture of each validation
run/checkpoints/     the newest and the best; see `checkpoint`
run/attempts/        who may write; see `claims`
run/bundle/          the exported model, when done

This module is the driver's side; each rank runs `rank.rank_main`.
"""

from __future__ import annotations

import importlib.metadata
import time
from typing import Any

import ray
import ray.train

import ray_brats
from ray_brats.engine import capacity, cluster
from ray_brats.engine.cluster import Resources
from ray_brats.errors import StageFailed, UsageError
from ray_brats.files import claims, storage
from ray_brats.progress import say
from ray_brats.recipes import costs, jsonform
from ray_brats.recipes.config import Recipe
from ray_brats.recipes.costs import network_vox
from ray_brats.stages.board import Board, Follower, root_cause
from ray_brats.training import checkpoint, run
from ray_brats.training.data import Dataset, description_uri

HANG_SECONDS = 600.0
RESTARTS = 1000
"""Deaths that Ray Train makes good; `claims` ends a run much earlier that makes no progress."""


def train(
    data: Dataset,
    run_uri: str,
    recipe: Recipe,
    *,
    there: Resources,
    workers: int | None = None,
    resume: bool = False,
    extend: bool = False,
    hang_seconds: float = HANG_SECONDS,
) -> dict[str, Any]:
    """Train, then export the best checkpoint to `run/bundle/`.

    Args:
        data: the cases, of what `preprocess` wrote.
        run_uri: where the run goes.
        recipe: what to train, and how long.
        there: what the cluster offers.
        workers: training processes, one replica each; by default one a GPU, else two.
        resume: go on with a run that exists; without one, start it.
        extend: when resuming, another length than the run had is no other run.
        hang_seconds: a rank that makes no step for so long is ended and started again.

    Returns:
        A summary: `run`, `bundle`, `step`, `validation`, `skipped`, `failures`.

    Raises:
        UsageError: the run exists and `resume` was not asked for, or is another run.
        StageFailed: training ended before its last step.
    """
    began_unix = time.time()
    workers = capacity.workers_for(workers, there)
    cluster.check_shared(run_uri, there)
    cluster.check_seen(description_uri(data.uri), there)
    if hang_seconds <= 0:
        raise UsageError(f"--hang-seconds {hang_seconds:g}: expected more than 0")
    description = _describe(data, recipe, workers)
    finished = claim(run_uri, description, resume=resume, extend=extend)
    if finished:
        say(f"train: {run_uri} is finished; nothing to do")
        return {**_summary(run_uri), "skipped": True}
    storage.write_json(storage.join(run_uri, "run.json"), description)
    attempt = claims.claim_driver(run_uri)
    _say_plan(data, recipe, workers, there)
    waits = {"hang_seconds": hang_seconds, "began_unix": began_unix}
    _fit(data, attempt, recipe, workers, there, waits)
    attempt.check_driver()
    card = _export(run_uri)
    attempt.check_driver()
    storage.write_json(storage.join(run_uri, "run.json"), {**description, "finished": True})
    return {**_summary(run_uri), "skipped": False, "parameters": card["parameters"]}


def _describe(data: Dataset, recipe: Recipe, workers: int) -> dict[str, Any]:
    """`run.json`. `identity` is that of the whole run, `lengthless` of all but its length."""
    told = jsonform.as_json(recipe)
    parts = (data.fingerprint, {"fold": data.fold})
    timeless = {**told, "train": {**told["train"], "steps": None, "minutes": None}}
    return {
        "identity": jsonform.fingerprint(told, *parts),
        "lengthless": jsonform.fingerprint(timeless, *parts),
        "recipe": told,
        "dataset_fingerprint": data.fingerprint,
        "fold": data.fold,
        "seed": recipe.train.seed,
        "workers": workers,
        "cases": {"training": len(data.training), "validation": len(data.validation)},
        "release": data.release,
        "training_cases_sha256": sorted(case.image_sha256 for case in data.training),
        "validation_cases_sha256": sorted(case.image_sha256 for case in data.validation),
        "versions": {
            "ray_brats": ray_brats.__version__,
            **{name: importlib.metadata.version(name) for name in ("ray", "tensorflow", "keras")},
        },
        "finished": False,
    }


def claim(run_uri: str, description: dict[str, Any], *, resume: bool, extend: bool) -> bool:
    """Whether this very run is finished; it may be started or resumed where it is not.

    Raises:
        UsageError: there is a run, and it is another one or `resume` was not asked for.
    """
    earlier = storage.read_json_or_none(storage.join(run_uri, "run.json"))
    if earlier is None:
        return False
    if not resume:
        raise UsageError(
            f"{run_uri} holds a run already: pass --resume to go on with it, or another folder"
        )
    if earlier.get("identity") == description["identity"]:
        return bool(earlier.get("finished")) and run.bundle_is_there(run_uri)
    if earlier.get("lengthless") != description["lengthless"]:
        what = "configuration (recipe or options differ)"
        if earlier.get("dataset_fingerprint") != description["dataset_fingerprint"]:
            what = (
                "dataset (labelled cases to train on or to validate with came, went or were "
                "mended since, or are prepared in another way)"
            )
        raise UsageError(
            f"{run_uri} holds a run of another {what}: pass another folder, or the same as then"
        )
    if not extend:
        raise UsageError(
            f"{run_uri} holds a run of another length: pass the same length, another folder, or "
            "extend it with `ray-brats train DATASET RUN --resume`"
        )
    _check_extension(run_uri, description)
    return False


def _check_extension(run_uri: str, description: dict[str, Any]) -> None:
    newest = checkpoint.newest(storage.join(run_uri, "checkpoints"))
    steps = description["recipe"]["train"]["steps"]
    if newest and steps is not None and steps < newest.facts["plan"]["total_steps"]:
        raise UsageError(
            f"--steps {steps}: {run_uri} goes to step {newest.facts['plan']['total_steps']}; a run "
            "can be extended, not shortened"
        )


def _say_plan(data: Dataset, recipe: Recipe, workers: int, there: Resources) -> None:
    settings = recipe.train
    length = f"{settings.minutes:g} minutes" if settings.minutes else f"{settings.steps} steps"
    patch = "×".join(str(side) for side in settings.patch_vox)
    batch = f"batch {settings.batch_per_worker}"
    if settings.accumulate > 1:
        batch = f"{settings.accumulate} accumulated batches of {settings.batch_per_worker}"
    left_out = f", {data.unlabelled} without a mask left out" if data.unlabelled else ""
    say(
        f"train: recipe {recipe.name}, {length}, {workers} worker(s) × {batch} "
        f"of {patch}; {len(data.training)} cases to train on, "
        f"{len(data.validation)} to validate{left_out}; "
        f"{'GPU' if there.gpus else 'CPU'} training"
    )
    if not there.gpus:
        say(costs.sentence(recipe, workers, there.nodes, there.node_memory_bytes))


def _fit(
    data: Dataset,
    attempt: claims.Attempt,
    recipe: Recipe,
    workers: int,
    there: Resources,
    waits: dict[str, float],
) -> None:
    with cluster.silenced():
        from ray.train.tensorflow import TensorflowTrainer

        from ray_brats.stages.rank import rank_main
    run_uri = attempt.run_uri
    # Beside this process: no other node's death takes it away.
    here = ray.get_runtime_context().get_node_id()
    board = (
        ray.remote(num_cpus=0)(Board).options(scheduling_strategy=cluster.on_node(here)).remote()
    )
    resources = {"GPU": 1.0} if there.gpus else {}
    cpus = capacity.cpus_of_worker(workers, there)
    # Ray Train's own notes; ours are the checkpoints.
    notes = storage.join(run_uri, ".ray-train")
    trainer = TensorflowTrainer(
        rank_main,
        train_loop_config={
            "recipe": jsonform.as_json(recipe),
            "dataset": data.uri,
            "run": run_uri,
            "driver": attempt.driver,
            "training": [case.case_id for case in data.training],
            "validation": [case.case_id for case in data.validation],
            "validation_vox": sum(network_vox(case.shape_vox, recipe) for case in data.validation),
            "threads": cpus,
            **waits,
            "board": board,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=bool(there.gpus),
            resources_per_worker={"CPU": float(cpus), **resources},
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt-{attempt.number:06d}",
            storage_path=notes,
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
        ),
    )
    cause: BaseException | None = None
    with Follower(board):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            cause = error
    reason = ray.get(board.failure.remote()) or (root_cause(cause) if cause else None)
    if reason is not None:
        hint = costs.hint(recipe, workers) if "emory" in reason else ""
        raise StageFailed(
            f"training ended before its last step: {reason}.{hint} What was saved stays "
            f"in {run_uri}; the same command with --resume goes on from there"
        ) from cause
    storage.delete(notes)


# --- the end of a run ------------------------------------------------------------------


def _export(run_uri: str) -> dict[str, Any]:
    """Export in a task of its own: the driver stays without TensorFlow."""
    from ray_brats.training import export

    task = ray.remote(num_cpus=1)(export.export_run)
    bundle_uri = storage.join(run_uri, "bundle")
    card: dict[str, Any] = ray.get(task.remote(run.choose(run_uri), bundle_uri))
    return card


def _summary(run_uri: str) -> dict[str, Any]:
    card = storage.read_json(storage.join(run_uri, "bundle", "bundle.json"))
    return {
        "run": run_uri,
        "bundle": storage.join(run_uri, "bundle"),
        "step": card["measured"]["step"],
        "validation": card["measured"]["validation"],
        "failures": [],
    }
