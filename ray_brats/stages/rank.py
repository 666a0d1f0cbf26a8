"""One rank of a training run inside Ray Train: files and settings in, `loop.Loop` run.

Whatever dies is started again by Ray Train, all ranks together; they go on from the newest
complete checkpoint. What another try cannot mend is told to the board and ends the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective

from ray_brats.engine.watchdog import Watchdog
from ray_brats.errors import RayBratsError
from ray_brats.files import claims, folders, retry, storage
from ray_brats.recipes import jsonform
from ray_brats.recipes.config import Recipe
from ray_brats.training.data import PreparedCase, fetch, forget, held

KEPT_CHECKPOINTS = 3
START_SECONDS = 3600.0
"""Longest start of a rank: it may copy a dataset, and waits for the others that do."""


def rank_main(settings: dict[str, Any]) -> None:
    """Run this rank; returns early, on every rank, where the run has failed for good."""
    context = ray.train.get_context()
    rank = context.get_world_rank()
    with _told_to(settings["board"], rank) as failed:
        if not failed:
            with held(settings["dataset"], run_uri=settings["run"]):
                _run(settings, rank, context.get_world_size())


@contextlib.contextmanager
def _told_to(board: Any, rank: int) -> Iterator[bool]:
    """Tell the board what another try cannot mend; yields whether that happened before."""
    import tensorflow as tf

    try:
        yield ray.get(board.failure.remote()) is not None
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        ray.get(board.fail.remote(rank, f"out of memory: {str(error).splitlines()[0]}"))
        raise
    except Exception as error:
        if not _may_pass(error):
            told = isinstance(error, RayBratsError)
            reason = str(error) if told else f"{type(error).__name__}: {error}"
            ray.get(board.fail.remote(rank, reason))
        raise


def _may_pass(error: Exception) -> bool:
    """Whether another try of all ranks could succeed: something died, or did not answer."""
    import tensorflow as tf

    if isinstance(error, tf.errors.OpError):
        # A collective passes on what befell another rank, under any of TensorFlow's codes.
        ours = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)
        return not isinstance(error, ours) or "ollective" in str(error)
    if isinstance(error, OSError):
        return retry.may_pass(error)
    return isinstance(error, ray.exceptions.RayError | claims.Replaced)


def _run(settings: dict[str, Any], rank: int, ranks: int) -> None:
    import tensorflow as tf

    from ray_brats.training import checkpoint, loop
    from ray_brats.training.log import RunLog
    from ray_brats.training.loop import Data, Hooks

    recipe = jsonform.from_json(Recipe, settings["recipe"])
    _prepare_devices(settings["threads"])
    run_uri, board = settings["run"], settings["board"]
    run: loop.Loop | None = None

    def hang(text: str) -> None:
        told = board.put.remote(
            {"event": "hang", "step": run.step if run else 0, "rank": rank, "text": text}
        )
        ray.wait([told], timeout=5)

    def prepared(case_ids: Sequence[str], beat: Callable[[], None]) -> list[PreparedCase]:
        found = []
        for case_id in case_ids:
            found.append(fetch(settings["dataset"], case_id, run_uri=run_uri))
            beat()
        return found

    broadcast = ray.train.collective.broadcast_from_rank_zero
    with Watchdog(max(START_SECONDS, settings["hang_seconds"]), hang) as starting:
        found, attempt = None, None
        if rank == 0:
            found = checkpoint.newest(storage.join(run_uri, "checkpoints"))
            step = found.step if found else 0
            attempt = claims.claim_group(run_uri, settings["driver"], step=step)
        # The others start from what rank 0 found, whatever they would see themselves.
        restore_from = broadcast(found.uri if found else None)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        data = Data(
            training=prepared(settings["training"], starting.beat),
            validation=prepared(settings["validation"][rank::ranks], starting.beat),
            validation_ids=settings["validation"],
            validation_vox=settings["validation_vox"],
        )
        # From here on the patience for a step counts, so all begin together.
        broadcast(True)
    log = RunLog(run_uri, attempt, keep_until=found.step if found else 0)

    def event(line: dict[str, Any]) -> None:
        log.add(line)
        board.put.remote(line)

    with log, Watchdog(settings["hang_seconds"], hang) as watchdog:
        hooks = Hooks(
            broadcast=broadcast,
            event=event,
            keep=_keeper(run_uri, attempt, log.flush),
            picture=log.picture,
            beat=watchdog.beat,
        )
        began = settings["began_unix"]
        run = loop.Loop(strategy, recipe, data, hooks, rank=rank, began_unix=began)
        run.run(restore_from)
    if ray.train.get_context().get_local_rank() == 0:
        forget(settings["dataset"], run_uri=run_uri)


def _prepare_devices(threads: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)


def _keeper(
    run_uri: str, attempt: claims.Attempt | None, flush: Callable[[], None]
) -> Callable[[Path, int], None]:
    """What keeps a checkpoint: the log first, then the state, then older ones go."""
    from ray_brats.training import checkpoint

    def keep(folder: Path, step: int) -> None:
        assert attempt is not None
        flush()
        attempt.check()
        place = storage.join(run_uri, "checkpoints")
        target = storage.join(place, checkpoint.folder_name(step))
        folders.put(folder, target, last=checkpoint.CARD)
        storage.delete(str(folder))
        checkpoint.prune(place, keep=KEPT_CHECKPOINTS)

    return keep
