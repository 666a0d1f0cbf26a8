"""One rank of a training run inside Ray Train: files and settings in, `loop.Loop` run.

Whatever dies is started again by Ray Train, all ranks together; they go on from the newest
complete checkpoint. What another try cannot mend is told to the board and ends the run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective

from ray_brats import config, fence, folders, storage
from ray_brats.config import Recipe
from ray_brats.errors import StageFailed
from ray_brats.watchdog import Watchdog

KEPT_CHECKPOINTS = 3


def rank_main(settings: dict[str, Any]) -> None:
    """Run this rank; returns early, on every rank, where the run has failed for good."""
    context = ray.train.get_context()
    rank = context.get_world_rank()
    with _told_to(settings["board"], rank) as failed:
        if not failed:
            _run(settings, rank, context.get_world_size())


@contextlib.contextmanager
def _told_to(board: Any, rank: int) -> Iterator[bool]:
    """Tell the board what another try cannot mend; yields whether that happened before."""
    import tensorflow as tf

    passing = (tf.errors.OpError, OSError, ray.exceptions.RayError, fence.Replaced)
    try:
        yield ray.get(board.failure.remote()) is not None
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        ray.get(board.fail.remote(rank, f"out of memory: {str(error).splitlines()[0]}"))
        raise
    except passing:
        raise
    except Exception as error:
        reason = (
            str(error) if isinstance(error, StageFailed) else f"{type(error).__name__}: {error}"
        )
        ray.get(board.fail.remote(rank, reason))
        raise


def _run(settings: dict[str, Any], rank: int, ranks: int) -> None:
    import tensorflow as tf

    from ray_brats import batches, checkpoint, loop
    from ray_brats.runlog import RunLog

    recipe = config.from_json(Recipe, settings["recipe"])
    _prepare_devices(settings["threads"])
    run_uri, board = settings["run"], settings["board"]
    broadcast = ray.train.collective.broadcast_from_rank_zero
    found, attempt = None, None
    if rank == 0:
        found = checkpoint.newest(storage.join(run_uri, "checkpoints"))
        attempt = fence.claim_group(run_uri, settings["driver"], step=found.step if found else 0)
    # The others start from what rank 0 found, whatever they would see themselves.
    restore_from = broadcast(found.uri if found else None)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    def prepared(case_ids: Sequence[str]) -> list[batches.PreparedCase]:
        return [
            batches.fetch(settings["dataset"], case_id, run_uri=run_uri) for case_id in case_ids
        ]

    data = loop.Data(
        training=prepared(settings["training"]),
        validation=prepared(settings["validation"][rank::ranks]),
        validation_vox=settings["validation_vox"],
    )
    log = RunLog(run_uri, attempt, keep_until=found.step if found else 0)

    def event(line: dict[str, Any]) -> None:
        log.add(line)
        board.put.remote(line)

    def hang(text: str) -> None:
        told = board.put.remote(
            {"event": "hang", "step": run.step if run else 0, "rank": rank, "text": text}
        )
        ray.wait([told], timeout=5)

    run: loop.Loop | None = None
    with log, Watchdog(settings["hang_seconds"], hang) as watchdog:
        hooks = loop.Hooks(
            broadcast=broadcast,
            event=event,
            keep=_keeper(run_uri, attempt, log.flush),
            picture=log.picture,
            beat=watchdog.beat,
        )
        run = loop.Loop(strategy, recipe, data, hooks, rank=rank)
        run.run(restore_from)
    if ray.train.get_context().get_local_rank() == 0:
        batches.forget(settings["dataset"], run_uri=run_uri)


def _prepare_devices(threads: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
    # Ray lowers its workers' priority; on a machine of one's own that only costs time.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _keeper(
    run_uri: str, attempt: fence.Attempt | None, flush: Callable[[], None]
) -> Callable[[Path, int], None]:
    """What keeps a checkpoint: the log first, then the state, then older ones go."""
    from ray_brats import checkpoint

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
