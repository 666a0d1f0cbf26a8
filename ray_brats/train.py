"""`train`: a dataset to a run, data-parallel under Ray Train and MultiWorkerMirroredStrategy.

run/run.json         the whole configuration, written first; `finished` at the end
run/metrics.jsonl    one object a step, and one an event
run/tensorboard/     the same as scalars
run/checkpoints/     kept by Ray Train; see `checkpoint`
run/bundle/          the exported model, when done
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective

import ray_brats
from ray_brats import config, engine, storage
from ray_brats.config import Recipe
from ray_brats.engine import Resources
from ray_brats.errors import StageFailed, UsageError
from ray_brats.predict import network_vox
from ray_brats.progress import Progress, say
from ray_brats.trainingset import TrainingSet, bundle_is_there, read_training_set

MAX_FAILURES = 3
KEPT_CHECKPOINTS = 3


def default_workers(there: Resources) -> int:
    """One worker a GPU, else two where two cores are free: data-parallel is what all run."""
    return there.gpus or min(2, max(1, there.cpus))


def train(
    dataset_uri: str,
    run_uri: str,
    recipe: Recipe,
    *,
    there: Resources,
    workers: int | None = None,
    fold: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train, then export the best checkpoint to `run/bundle/`.

    Args:
        there: what the cluster offers.
        workers: training processes, one replica each; by default one a GPU, else two.
        fold: of five, instead of the dataset's split.
        resume: go on with a run that exists; without one, start it.

    Returns:
        A summary: `run`, `bundle`, `steps`, `loss`, `validation`, `resumed`, `skipped`.

    Raises:
        UsageError: the run exists and `resume` was not asked for, or is another run.
        StageFailed: training ended before its last step.
    """
    data = read_training_set(dataset_uri, recipe, fold=fold)
    workers = workers or default_workers(there)
    _check_workers(workers, there, run_uri)
    identity = config.fingerprint(recipe, data.description["fingerprint"], {"fold": fold})
    description = {
        "identity": identity,
        "recipe": config.as_json(recipe),
        "dataset_fingerprint": data.description["fingerprint"],
        "fold": fold,
        "seed": recipe.train.seed,
        "workers": workers,
        "cases": {"training": len(data.training), "validation": len(data.validation)},
        "versions": {
            "ray_brats": ray_brats.__version__,
            **{name: importlib.metadata.version(name) for name in ("ray", "tensorflow", "keras")},
        },
    }
    earlier = claim(run_uri, identity, resume=resume)
    if earlier and bundle_is_there(run_uri):
        say(f"train: {run_uri} is finished; nothing to do")
        return {**_summary(run_uri), "skipped": True}
    storage.write_json(storage.join(run_uri, "run.json"), description)
    _say_plan(data, recipe, workers, there)
    _fit(data, run_uri, recipe, workers, there)
    card = _export(run_uri, data, recipe)
    return {**_summary(run_uri), "skipped": False, "parameters": card["parameters"]}


def claim(run_uri: str, identity: str, *, resume: bool) -> bool:
    """Whether a run of this identity is there to go on with.

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
    if earlier.get("identity") != identity:
        raise UsageError(
            f"{run_uri} holds a run of another configuration or dataset (recipe, length, "
            "options, cases or masks differ): pass another folder, or the same options as then"
        )
    return True


def _check_workers(workers: int, there: Resources, run_uri: str) -> None:
    units, kind = (there.gpus, "GPUs") if there.gpus else (there.cpus, "CPUs")
    if workers > units:
        raise UsageError(
            f"--workers {workers}: the cluster has {units} {kind}; one worker needs one"
        )
    if there.nodes > 1 and workers > 1 and not storage.is_remote(run_uri):
        say(
            f"train: {run_uri} is a path and the cluster has {there.nodes} nodes: it must be on "
            "storage that all of them share, or s3://"
        )


def _say_plan(data: TrainingSet, recipe: Recipe, workers: int, there: Resources) -> None:
    settings = recipe.train
    length = f"{settings.minutes:g} minutes" if settings.minutes else f"{settings.steps} steps"
    patch = "×".join(str(side) for side in settings.patch_vox)
    left_out = f", {data.unlabelled} without a mask left out" if data.unlabelled else ""
    say(
        f"train: recipe {recipe.name}, {length}, {workers} worker(s) × batch "
        f"{settings.batch_per_worker} of {patch}; {len(data.training)} cases to train on, "
        f"{len(data.validation)} to validate{left_out}; "
        f"{'GPU' if there.gpus else 'CPU'} training"
    )


def _fit(data: TrainingSet, run_uri: str, recipe: Recipe, workers: int, there: Resources) -> None:
    with engine.silenced():
        from ray.train.tensorflow import TensorflowTrainer
    board = ray.remote(num_cpus=0)(Board).remote()
    resources = {"GPU": 1.0} if there.gpus else {}
    cpus = min(there.cpus // workers, there.node_cpus)
    if there.gpus:
        cpus = min(cpus, 8)
    trainer = TensorflowTrainer(
        worker_main,
        train_loop_config={
            "recipe": config.as_json(recipe),
            "dataset": data.uri,
            "run": run_uri,
            "training": [row["case_id"] for row in data.training],
            "validation": [row["case_id"] for row in data.validation],
            "validation_vox": sum(network_vox(row["shape_vox"], recipe) for row in data.validation),
            "threads": max(1, cpus),
            "board": board,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=bool(there.gpus),
            resources_per_worker={"CPU": float(max(1, cpus)), **resources},
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=run_uri,
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=KEPT_CHECKPOINTS,
                checkpoint_score_attribute="mean_dice",
                checkpoint_score_order="max",
            ),
        ),
    )
    with _shown(board):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise StageFailed(
                f"training ended before its last step: {_root_cause(error)}. What was saved stays "
                f"in {run_uri}; the same command with --resume goes on from there"
            ) from error


def _root_cause(error: BaseException) -> str:
    """The innermost message, without the engine's tracebacks."""
    failures = getattr(error, "worker_failures", None) or {}
    inner = next(iter(failures.values()), error)
    lines = [line for line in str(inner).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(inner).__name__


class Board:
    """Carries the latest events from rank 0 to the driver, which shows them."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def put(self, event: dict[str, Any]) -> None:
        """Add an event; steps overwrite each other, only the newest matters."""
        if "event" not in event and self._events and "event" not in self._events[-1]:
            self._events.pop()
        self._events.append(event)

    def take(self) -> list[dict[str, Any]]:
        """All events since the last call."""
        taken, self._events = self._events, []
        return taken


class _shown:  # noqa: N801 - used as a context manager only
    """Shows what rank 0 reports, while the driver waits for the end of training."""

    def __init__(self, board: Any) -> None:
        self._board, self._ended = board, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=10)

    def _follow(self) -> None:
        with Progress("train", None, unit="steps") as progress:
            while True:
                last = self._ended.wait(1.0)
                for event in ray.get(self._board.take.remote()):
                    _show(event, progress)
                if last:
                    return


def _show(event: Mapping[str, Any], progress: Progress) -> None:
    if event.get("event") == "validation":
        dice = ", ".join(f"{name} {value:.3f}" for name, value in event["dice"].items())
        say(f"train: step {event['step']}: validation Dice {dice} ({event['seconds']:.0f} s)")
    elif event.get("event") == "resume":
        say(f"train: goes on from step {event['step']}")
    elif "event" not in event:
        note = f"loss {event['loss']:.4f}, input wait {event['input_wait_share']:.1%}"
        progress.update(event["step"], total=event["total_steps"], note=note)


# --- in the workers --------------------------------------------------------------------


def worker_main(settings: dict[str, Any]) -> None:
    """One rank: build what the loop needs from files and settings, then run it."""
    import tensorflow as tf

    from ray_brats import batches, checkpoint, loop
    from ray_brats.runlog import RunLog

    recipe = config.from_json(Recipe, settings["recipe"])
    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(2)
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
    context = ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    def prepared(case_ids: Sequence[str]) -> list[batches.PreparedCase]:
        return [batches.fetch(settings["dataset"], case_id) for case_id in case_ids]

    data = loop.Data(
        training=prepared(settings["training"]),
        validation=prepared(settings["validation"][rank::ranks]),
        validation_vox=settings["validation_vox"],
    )
    latest = ray.train.get_checkpoint()
    restore_from = _checkpoint_uri(settings["run"], latest) if latest else None
    found = checkpoint.describe(restore_from) if restore_from else None
    with RunLog(settings["run"], keep_until=found.step if found else 0, writes=rank == 0) as log:
        board = settings["board"]

        def event(line: dict[str, Any]) -> None:
            log.add(line)
            board.put.remote(line)

        hooks = loop.Hooks(
            broadcast=ray.train.collective.broadcast_from_rank_zero, event=event, keep=_keep
        )
        loop.Loop(strategy, recipe, data, hooks, rank=rank).run(restore_from)


def _checkpoint_uri(run_uri: str, latest: Any) -> str:
    return storage.join(run_uri, "checkpoints", storage.name_of(latest.path))


def _keep(folder: Path | None, step: int, scores: dict[str, float]) -> None:
    """Hand a checkpoint to Ray Train; a barrier over all ranks."""
    from ray_brats import checkpoint

    kept = ray.train.Checkpoint.from_directory(str(folder)) if folder else None
    ray.train.report(scores, checkpoint=kept, checkpoint_dir_name=checkpoint.folder_name(step))
    if folder:
        storage.delete(str(folder))


# --- the end of a run ------------------------------------------------------------------


def _export(run_uri: str, data: TrainingSet, recipe: Recipe) -> dict[str, Any]:
    """Export in a task of its own: the driver stays without TensorFlow."""
    from ray_brats import export

    task = ray.remote(num_cpus=1)(export.export_run)
    facts = {
        "release": data.description["release"],
        "training_cases_sha256": sorted(row["image_sha256"] for row in data.training),
    }
    bundle_uri = storage.join(run_uri, "bundle")
    card: dict[str, Any] = ray.get(task.remote(run_uri, bundle_uri, None, facts))
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
